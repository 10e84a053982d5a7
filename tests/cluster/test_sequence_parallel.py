"""Prompts read by two ranks together under `baton up`, and answered by a worker of one: the tokens of transformers."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import baton
from tests.cluster.served import ServedCluster, all_free
from tests.cluster.tiny_model import greedy_tokens, tiny_served
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]
LONG = "It was a dark night, and the old house stood alone upon the hill. " * 20
EXTRA = """\
pools:
  prefill: {workers: 1, sequence_parallel: 2}
  decode: {workers: 1}
engine: {memory: 32MiB, max_batched_tokens: 96, sequence_parallel_over_tokens: 48}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with windows, with the demo model's tokenizer."""
    return tiny_served(tmp_path_factory.mktemp("model") / "tiny", "gemma3_text")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[ServedCluster]:
    cluster = ServedCluster(str(folder), extra=EXTRA)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def test_two_ranks_read_and_one_worker_answers_with_the_tokens_of_generate(served: ServedCluster, folder: Path) -> None:
    with baton.Client(served.grpc) as sdk:
        ids = list(sdk.tokenize(LONG))
        answers = [sdk.generate(LONG, max_tokens=32, temperature=0, ignore_eos=True) for _ in range(2)]
    wanted = greedy_tokens(folder, ids, 32)
    assert [list(answer.choices[0].token_ids) for answer in answers] == [wanted] * 2
    workers = served.workers()
    assert workers["prefill-0"]["kv_bytes_sent"] == workers["decode-0"]["kv_bytes_received"] > 0
    ranks = workers["prefill-0"]["ranks"]
    assert len({rank["pid"] for rank in ranks}) == 2
    assert all(psutil.pid_exists(rank["pid"]) for rank in ranks)
    assert len({tuple(rank["cores"]) for rank in ranks}) == min(2, len(os.sched_getaffinity(0)))
    shown = served.baton("status").stdout
    assert "rank 0" in shown
    assert "rank 1" in shown
    served.wait("blocks", all_free)
