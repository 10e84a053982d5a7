"""What the commands say of several models."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from rich.console import Console

from baton.errors import ConfigError, InvalidRequestError
from cluster.commands.options import load_one_model
from cluster.commands.status import worker_table
from cluster.commands.weights import all_parsed, parsed
from cluster.fleet.role_keeper import WorkerRole
from cluster.fleet.status import FleetStatus, ModelStatus
from cluster.fleet.tick import WorkerPhase
from cluster.host.state import ClusterState
from cluster.local.every_fleet import EveryFleet
from workers.spec import Role

if TYPE_CHECKING:
    from cluster.fleet.client import ControllerClient


@pytest.mark.parametrize("text", ["v1", "=3", "v1=", "v1=lots"])
def test_a_weight_is_an_entry_and_a_number(text: str) -> None:
    assert parsed("v1=2.5") == ("v1", 2.5)
    with pytest.raises(ConfigError, match=f"^{text}: is not ENTRY=WEIGHT; e.g. v2=10$"):
        parsed(text)


def test_a_command_that_looks_at_one_model_asks_which(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: {a: {model: demo}, b: {load_format: fake}}")
    assert load_one_model(path, None, entry="a").model == "demo"
    assert load_one_model(path, ["models.a.model=x"], entry="a").model == "x"
    with pytest.raises(ConfigError, match=r"models: are several, .* choose with --model-entry: a, b"):
        load_one_model(path, None, entry=None)
    with pytest.raises(ConfigError, match="--model-entry c: is no entry of `models`; choose one of a, b"):
        load_one_model(path, None, entry="c")
    with pytest.raises(ConfigError, match="--model-entry a: the config has no `models`; leave it out"):
        load_one_model(None, None, entry="a")
    with pytest.raises(ConfigError, match="model: is of one model"):
        load_one_model(path, None, entry="a", model="demo")


def test_status_tells_of_each_model_and_where_weights_depart_from_the_config() -> None:
    models = (
        ModelStatus(
            entry="v1",
            served_name="chat",
            model="demo",
            weight=1,
            file_weight=9,
            share=0.5,
            ready=True,
            leaving=False,
            num_open=1,
        ),
        ModelStatus(
            entry="v0",
            served_name="chat",
            model="demo",
            weight=1,
            file_weight=1,
            share=0,
            ready=True,
            leaving=True,
            num_open=2,
            error="its controller does not answer",
        ),
    )
    fleet = FleetStatus(
        ready=True, config="", model_path="", num_ingress_replicas=1, pools=(), workers=(), models=models
    )
    console = Console(file=io.StringIO(), width=120)
    console.print(worker_table(ClusterState(cluster_id="1", http="http://h:1", grpc="h:2"), fleet))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "v1: demo, ready, 50% of chat (weight 1), 1 open request\n" in text
    assert "v1: weight 1 was set by `baton weights`; the config says 9" in text
    assert "v0: demo, leaving, 2 open requests" in text
    assert "v0: its controller does not answer" in text


def test_a_version_has_one_weight() -> None:
    assert all_parsed(["v1=1", "v2=2"]) == {"v1": 1.0, "v2": 2.0}
    with pytest.raises(ConfigError, match="v1: has two weights, 1 and 3; give it one"):
        all_parsed(["v1=1", "v1=3"])


def test_a_worker_that_is_not_there_is_told_those_of_all_models() -> None:
    several = EveryFleet.__new__(EveryFleet)
    several._fleets = [cast("ControllerClient", Fleet("decode-0")), cast("ControllerClient", Fleet("v2.decode-0b"))]
    assert str(several.set_role("v2.decode-0", None)) == "v2.decode-0b"
    with pytest.raises(InvalidRequestError, match=f"no '{'z' * 60}'; name one of decode-0, v2.decode-0b"):
        several.set_role("z" * 9999, None)


class Fleet:
    """Of one worker."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id

    def roles(self) -> tuple[WorkerRole, ...]:
        return (WorkerRole(worker_id=self._worker_id, pool=Role.DECODE, role=Role.DECODE, phase=WorkerPhase.READY),)

    def set_role(self, worker_id: str, role: Role | None) -> str:
        return self._worker_id
