"""LoRA adapters in a real cluster: of the config, loaded while it serves, unloaded in use, and there after a kill."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.adapters import adapter_of
from tests.cluster.served import ServedCluster
from workers.model.registry import resolve_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders() -> tuple[Path, Path]:
    base = resolve_model("demo")
    return adapter_of(base, 1, ("q_proj", "v_proj")), adapter_of(base, 2, ("o_proj", "up_proj"))


@pytest.fixture(scope="module")
def cluster(folders: tuple[Path, Path]) -> Iterator[ServedCluster]:
    one, two = folders
    extra = {"adapters": {"one": str(one)}, "adapters_dynamic": {"folders": [str(two.parent)]}}
    made = ServedCluster(extra=json.dumps(extra))
    try:
        made.up()
        yield made
    finally:
        made.down()


def written(cluster: ServedCluster, model: str, max_tokens: int = 24) -> str:
    body = {"model": model, "prompt": "It was a dark night", "temperature": 0, "max_tokens": max_tokens}
    reply = httpx.post(f"{cluster.http}/v1/completions", json=body | {"ignore_eos": True}, timeout=100)
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["text"]
    return text


def test_a_cluster_serves_loads_and_unloads_adapters(cluster: ServedCluster, folders: tuple[Path, Path]) -> None:
    bare, one = written(cluster, "demo"), written(cluster, "one")
    assert bare != one
    cluster.baton("adapter", "load", "two", str(folders[1]))
    two = written(cluster, "two")
    assert two not in (bare, one)
    listed = httpx.get(f"{cluster.http}/v1/models").json()["data"]
    assert [(model["id"], model["parent"]) for model in listed] == [("demo", None), ("one", "demo"), ("two", "demo")]
    status = json.loads(cluster.baton("status", "--json").stdout)
    for worker in status["workers"]:
        os.kill(worker["ranks"][0]["pid"], signal.SIGKILL)
    assert (written(cluster, "two"), written(cluster, "one"), written(cluster, "demo")) == (two, one, bare)
    with httpx.stream(
        "POST",
        f"{cluster.http}/v1/completions",
        json={"model": "two", "prompt": "Once", "max_tokens": 200, "ignore_eos": True, "stream": True},
        timeout=100,
    ) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data: {")
        cluster.baton("adapter", "unload", "two")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    reply = httpx.post(f"{cluster.http}/v1/completions", json={"model": "two", "prompt": "a"})
    assert reply.status_code == 404
    refused = cluster.baton("adapter", "load", "three", "/etc", check=False)
    assert "is no folder below adapters_dynamic.folders" in refused.stderr
