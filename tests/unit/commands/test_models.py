"""What the commands say of several models."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from baton.errors import ConfigError
from cluster.commands.options import load_one_model
from cluster.commands.status import worker_table
from cluster.commands.weights import parsed
from cluster.fleet.status import FleetStatus, ModelStatus
from cluster.host.state import ClusterState


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
