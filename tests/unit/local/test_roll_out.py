"""How `baton up` and `baton drain` follow what the controller does."""

from collections.abc import Sequence

import pytest

from baton.errors import UnavailableError
from cluster.fleet.node_drain import NodeStatus
from cluster.fleet.status import FleetStatus, PoolStatus, RolloutStatus
from cluster.local.node_drain import NodeDrain
from cluster.local.roll_out import RollOut, RolloutHaltedError

WAITS = PoolStatus(role="decode", num_desired=1, num_ready=1, waits="pools.decode: 1 of 1 workers wait for {GPU: 1}")


def told(num_replaced: int, **marks: object) -> RolloutStatus:
    return RolloutStatus(why="the change of the config", num_replaced=num_replaced, num_wanted=2, **marks)  # type: ignore[arg-type]


class FakeFleet:
    """Says one thing after the other, the last one for good; a tenth of a second passes with each."""

    def __init__(self, *said: RolloutStatus | None, nodes: Sequence[NodeStatus] = ()) -> None:
        self.said = list(said)
        self.places = list(nodes)
        self.done: list[str] = []
        self.now_s = 0.0

    def own_status(self) -> FleetStatus:
        rollout = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        return FleetStatus(
            ready=True,
            config="",
            model_path="",
            num_ingress_replicas=1,
            pools=(WAITS,),
            workers=(),
            rollout=rollout,
        )

    def status(self) -> FleetStatus:
        return self.own_status()

    def nodes(self) -> tuple[NodeStatus, ...]:
        return (self.places.pop(0) if len(self.places) > 1 else self.places[0],)

    def switched(self) -> None:
        self.done.append("switched")

    def follow(self) -> list[str]:
        said: list[str] = []
        RollOut(
            fleet=self,
            deploy=lambda: self.done.append("deployed"),
            report=said.append,
            patience_s=5.0,
            sleep=self.sleep,
            clock=lambda: self.now_s,
        ).follow()
        return said

    def drain(self) -> NodeStatus | None:
        return NodeDrain(
            fleet=self,
            move_ingress=lambda: self.done.append("deployed"),
            report=self.done.append,
            timeout_s=5.0,
            sleep=self.sleep,
            clock=lambda: self.now_s,
        ).follow("abcdef0123")

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_it_says_how_far_it_is_until_all_are_replaced() -> None:
    fleet = FakeFleet(told(0), told(0), told(1), None)
    assert fleet.follow() == [f"replacing workers: {n}/2; {WAITS.waits}" for n in (0, 1)]
    assert fleet.done == ["deployed"]


def test_the_ingress_turns_to_another_model_when_all_its_workers_are_there() -> None:
    fleet = FakeFleet(
        told(0, holds_old=True),
        told(0, holds_old=True),
        told(0, holds_old=True, may_switch=True),
        told(1),
        None,
    )
    said = fleet.follow()
    assert fleet.done == ["deployed", "switched"]
    assert [text.split(":")[0] for text in said] == [
        "replacing workers",
        "turning the ingress to the new model",
        "replacing workers",
    ]


def test_a_halted_change_is_told_with_the_way_back() -> None:
    fleet = FakeFleet(told(0), told(1, halted="decode-0b does not come up: no memory"))
    with pytest.raises(
        RolloutHaltedError, match=r"after 1 of 2 workers: decode-0b does not .* or the old one to go back"
    ):
        fleet.follow()


def test_a_change_that_does_not_get_on_is_left_with_what_it_waits_for() -> None:
    with pytest.raises(UnavailableError, match=r"did not get on for 5 s after 0 of 2 workers: pools\.decode: 1 of 1"):
        FakeFleet(told(0)).follow()


def node(*workers: str, num_ingress_replicas: int = 0) -> NodeStatus:
    return NodeStatus(
        node_id="abcdef0123",
        address="10.0.0.3",
        is_head=False,
        is_drained=True,
        workers=workers,
        num_ingress_replicas=num_ingress_replicas,
    )


def test_a_node_is_emptied_of_workers_first_then_of_ingress_replicas() -> None:
    places = [node("decode-0", num_ingress_replicas=1), node(num_ingress_replicas=1), node()]
    fleet = FakeFleet(None, nodes=places)
    found = fleet.drain()
    assert found is not None
    assert found.is_empty
    assert [text.partition("; pools")[0] for text in fleet.done] == [
        "10.0.0.3 (abcdef01): decode-0 to be replaced; ingress replicas: 1",
        "moving ingress replicas",
        "deployed",
    ]


def test_what_is_left_on_a_node_and_why_is_told_with_the_way_back() -> None:
    fleet = FakeFleet(None, nodes=[node("decode-0")])
    with pytest.raises(
        UnavailableError, match=r"not empty after 5 s: decode-0 to be replaced; pools\.decode: .* --undo"
    ):
        fleet.drain()
    halted = FakeFleet(told(0, halted="decode-0b does not come up: no"), nodes=[node("decode-0")])
    with pytest.raises(RolloutHaltedError, match=r"is halted: decode-0b does not come up: no; .* abcdef01 --undo"):
        halted.drain()
