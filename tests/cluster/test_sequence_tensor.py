"""Prompts read by two pairs of ranks under `baton up`, each pair dividing the model: the tokens of transformers."""

import os
from pathlib import Path

import pytest

import baton
from tests.cluster.served import ServedCluster, all_free
from tests.cluster.tiny_model import greedy_tokens, tiny_served
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.slow,  # the same is shown below Ray by tests/unit/parallel/test_sequence_tensor.py
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]
LONG = "It was a dark night, and the old house stood alone upon the hill. " * 20
EXTRA = """\
pools:
  prefill: {workers: 1, sequence_parallel: 2, tensor_parallel: 2}
  decode: {workers: 1}
engine: {memory: 32MiB, max_batched_tokens: 96, sequence_parallel_over_tokens: 48}
"""


def test_two_pairs_of_ranks_read_and_one_worker_answers_with_the_tokens_of_generate(tmp_path: Path) -> None:
    folder = tiny_served(tmp_path / "tiny", "llama")
    cluster = ServedCluster(str(folder), extra=EXTRA)
    try:
        cluster.up()
        with baton.Client(cluster.grpc) as sdk:
            ids = list(sdk.tokenize(LONG))
            answers = [sdk.generate(LONG, max_tokens=32, temperature=0, ignore_eos=True) for _ in range(2)]
        wanted = greedy_tokens(folder, ids, 32)
        assert [list(answer.choices[0].token_ids) for answer in answers] == [wanted] * 2
        cluster.wait("blocks", all_free)
        workers = cluster.workers()
        assert workers["prefill-0"]["kv_bytes_sent"] == workers["decode-0"]["kv_bytes_received"] > 0
        ranks = workers["prefill-0"]["ranks"]
        assert len({rank["pid"] for rank in ranks}) == 4
        assert len({tuple(rank["cores"]) for rank in ranks}) == min(4, len(os.sched_getaffinity(0)))
        assert "rank 3" in cluster.baton("status").stdout
    finally:
        cluster.down()
