"""Prompts read by two ranks together under `baton up`, and answered by a worker of one: the tokens of transformers.

By a hybrid model, whose states `baton status` counts, and by one of softmax attention with windows.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import baton
from tests.cluster.served import ServedCluster, all_free
from tests.cluster.tiny_model import THREE_TO_ONE, greedy_tokens, tiny_served
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.slow,  # tests/unit/parallel has the same below Ray
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


NUM_TOKENS = 3000  # of an answer that is still being written when it is looked at
HYBRID, WINDOWED = "qwen3_5_text", "gemma3_text"
OVERRIDES = {HYBRID: THREE_TO_ONE, WINDOWED: {}}
KV_NBYTES = 2 * 2 * 16 * 4  # of a token in a layer: keys and values of 2 heads of 16, float32
STATE_NBYTES = (4 * 8 * 12 + 3 * (2 * 8 + 2 * 8 + 4 * 12)) * 4  # of a layer: the recurrence's, the last 3 inputs
HANDED_OVER = {HYBRID: (1, 3), WINDOWED: (3, 0)}  # layers with KV, and with a state


@pytest.fixture(scope="module", params=[HYBRID, pytest.param(WINDOWED, marks=pytest.mark.slow)])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family: str) -> Path:
    """A tiny random model with the demo model's tokenizer."""
    return tiny_served(
        tmp_path_factory.mktemp("model") / "tiny", family, max_position_embeddings=4096, **OVERRIDES[family]
    )


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[ServedCluster]:
    cluster = ServedCluster(str(folder), extra=EXTRA)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def test_two_ranks_read_and_one_worker_answers_with_the_tokens_of_generate(
    served: ServedCluster, folder: Path, family: str
) -> None:
    with baton.Client(served.grpc) as sdk:
        ids = list(sdk.tokenize(LONG))
        first = sdk.generate(LONG, max_tokens=32, temperature=0, ignore_eos=True)
        workers = served.workers()
        second = sdk.generate(LONG, max_tokens=32, temperature=0, ignore_eos=True)  # from what is cached
    wanted = greedy_tokens(folder, ids, 32)
    assert [list(answer.choices[0].token_ids) for answer in (first, second)] == [wanted] * 2
    num_kv, num_states = HANDED_OVER[family]
    nbytes = num_kv * KV_NBYTES * len(ids) + num_states * STATE_NBYTES
    assert workers["prefill-0"]["kv_bytes_sent"] == workers["decode-0"]["kv_bytes_received"] == nbytes


def test_status_shows_each_rank_and_the_states_in_use(served: ServedCluster, family: str) -> None:
    with baton.Client(served.grpc) as sdk, sdk.stream(LONG, max_tokens=NUM_TOKENS, ignore_eos=True) as stream:
        next(stream)
        shown = served.baton("status").stdout
        workers = served.workers()
    ranks = workers["prefill-0"]["ranks"]
    assert len({rank["pid"] for rank in ranks}) == 2
    assert all(psutil.pid_exists(rank["pid"]) for rank in ranks)
    assert len({tuple(rank["cores"]) for rank in ranks}) == min(2, len(os.sched_getaffinity(0)))
    num_states = workers["decode-0"]["num_states"]
    in_use = num_states - workers["decode-0"]["num_free_states"]
    assert (in_use, num_states > 0) == ((1, True) if family == HYBRID else (0, False))
    assert ("states" in shown, f" 1/{num_states} " in shown) == (num_states > 0, num_states > 0)
    for number in range(2):
        assert re.search(rf"rank {number} +127\.0\.0\.1 ", shown), "a rank and its node"
    served.wait("blocks and states", all_free)
