"""`baton drain` without a controller."""

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.commands import drain, status
from cluster.fleet.node_drain import NodeStatus


def node(node_id: str, **marks: Any) -> NodeStatus:
    fields: dict[str, Any] = {"is_head": False, "is_drained": False, "workers": (), "num_ingress_replicas": 0}
    return NodeStatus(node_id=node_id, address="10.0.0.2", **(fields | marks))


class FakeController(SimpleNamespace):
    def __init__(self, *nodes: NodeStatus) -> None:
        super().__init__(calls=[], nodes=lambda: nodes, model_table=lambda: SimpleNamespace(models=()))

    def drain_node(self, name: str, *, undo: bool) -> str:
        self.calls.append((name, undo))
        return "bbbb22223333"


def run(monkeypatch: pytest.MonkeyPatch, controller: FakeController, name: str = "", *, undo: bool = False) -> None:
    monkeypatch.setattr(status, "find", lambda: (None, controller))
    drain.command(name, undo=undo, timeout=1.0)


def test_without_a_name_nodes_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    head = node("aaaa11112222", is_head=True, workers=("prefill-0",), num_ingress_replicas=1)
    run(monkeypatch, FakeController(head, node("bbbb22223333", is_drained=True)))
    assert capsys.readouterr().out.splitlines() == [
        "aaaa1111  10.0.0.2 [head]  prefill-0, 1 x ingress",
        "bbbb2222  10.0.0.2 [drained]  empty",
    ]


def test_an_empty_node_is_safe_to_take_down_and_so_is_one_that_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    controller = FakeController(node("bbbb22223333"))
    run(monkeypatch, controller, "bbbb")
    run(monkeypatch, FakeController(), "bbbb")
    run(monkeypatch, controller, "bbbb", undo=True)
    assert controller.calls == [("bbbb", False), ("bbbb", True)]
    assert capsys.readouterr().out.splitlines() == [
        "10.0.0.2 (bbbb2222) is empty: safe to take down",
        "bbbb is gone: safe to take down",
        "bbbb may have workers again",
    ]
