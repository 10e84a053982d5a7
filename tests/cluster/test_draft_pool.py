"""`baton up` with a draft pool: the text of none, what status and metrics tell, and a draft worker killed."""

import os
import signal
import urllib.request
from collections.abc import Iterator

import pytest

import baton
from tests.cluster.served import ServedCluster
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]
PROMPT = "It was a dark night, and the old house stood alone upon the hill. " * 4
POOL = """
pools: {draft: {workers: 1, model: demo-draft, layer_parallel: 2}}
speculation: {method: auto, max_tokens: 8, tree_width: 4}
"""


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCluster]:
    cluster = ServedCluster(extra=POOL)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def answer(served: ServedCluster, speculation: str) -> tuple[int, ...]:
    with baton.Client(served.grpc) as sdk:
        options = {"max_tokens": 120, "temperature": 0, "ignore_eos": True, "speculation": speculation}
        return tuple(sdk.generate(PROMPT, **options).choices[0].token_ids)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_draft_pool_changes_no_token_and_its_death_none_either(served: ServedCluster) -> None:
    plain = answer(served, "none")
    before = served.workers()
    assert sorted(before) == ["decode-0", "draft-0", "prefill-0"]
    assert len(before["draft-0"]["ranks"]) == 2
    for _ in range(3):
        assert answer(served, "auto") == plain
    assert sum(served.workers()["decode-0"]["accepted_by_place"]) > 0
    assert "draft-0" in served.baton("status").stdout
    with urllib.request.urlopen(f"{served.http}/metrics", timeout=10) as page:
        told = page.read().decode()
    assert 'baton_worker_up{model="demo",role="draft",worker="draft-0"} 1.0' in told
    os.kill(before["draft-0"]["pid"], signal.SIGKILL)
    with urllib.request.urlopen(f"{served.http}/health", timeout=10) as page:
        assert page.status == 200
    assert answer(served, "auto") == plain
    served.wait(
        "another draft worker is ready",
        lambda workers: workers["draft-0"]["phase"] == "ready" and workers["draft-0"]["num_failures"] == 1,
    )
    assert answer(served, "auto") == plain
