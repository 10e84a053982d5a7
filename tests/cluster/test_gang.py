"""A worker of two ranks under `baton up`: the tokens of one, `baton status`, and what happens when a rank is killed."""

import os
import signal
import threading
import time
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
LONG = "It was a dark night, and the old house stood alone upon the hill. " * 12
NUM_OUTPUTS = 200
GANG = "pools: {mixed: {workers: 1, tensor_parallel: 2}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model, whose heads two ranks divide, with the demo model's tokenizer."""
    return tiny_served(tmp_path_factory.mktemp("model") / "tiny", "llama")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[ServedCluster]:
    cluster = ServedCluster(str(folder), extra=GANG)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def expected(served: ServedCluster, folder: Path) -> list[int]:
    """What transformers writes after LONG, greedy, in float32."""
    with baton.Client(served.grpc) as sdk:
        return greedy_tokens(folder, list(sdk.tokenize(LONG)), NUM_OUTPUTS)


def test_a_worker_of_two_ranks_serves_the_tokens_of_generate_and_is_shown_with_them(
    served: ServedCluster, expected: list[int]
) -> None:
    with baton.Client(served.grpc) as sdk:
        answer = sdk.generate(LONG, max_tokens=64, temperature=0, ignore_eos=True)
    assert list(answer.choices[0].token_ids) == expected[:64]
    ranks = served.workers()["mixed-0"]["ranks"]
    assert len({rank["pid"] for rank in ranks}) == 2
    assert all(psutil.pid_exists(rank["pid"]) for rank in ranks)
    assert len({tuple(rank["cores"]) for rank in ranks}) == min(2, len(os.sched_getaffinity(0)))
    shown = served.baton("status").stdout
    assert "rank 0" in shown
    assert "rank 1" in shown


@pytest.mark.slow
def test_a_killed_rank_is_replaced_with_its_gang_and_what_ran_runs_again(
    served: ServedCluster, expected: list[int]
) -> None:
    before = served.workers()["mixed-0"]
    answers: list[list[int]] = [[] for _ in range(4)]
    begun = threading.Barrier(5)

    def ask(number: int) -> None:
        with baton.Client(served.grpc) as sdk:
            for delta in sdk.stream(LONG, max_tokens=NUM_OUTPUTS, temperature=0, ignore_eos=True):
                if not answers[number]:
                    begun.wait(60)
                answers[number] += delta.token_ids

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in asking:
        thread.start()
    begun.wait(60)
    os.kill(before["ranks"][1]["pid"], signal.SIGKILL)
    killed_s = time.monotonic()
    while psutil.pid_exists(before["ranks"][0]["pid"]):
        assert time.monotonic() - killed_s < 5, "the leader outlived its rank"
        time.sleep(0.02)
    for thread in asking:
        thread.join(120)
    assert answers == [expected] * 4
    served.wait("blocks", all_free)
    after = served.workers()["mixed-0"]
    assert after["incarnation"] != before["incarnation"]
    assert "rank 1" in after["error"]  # as Ray says of it, or the leader
    assert not {rank["pid"] for rank in after["ranks"]} & {rank["pid"] for rank in before["ranks"]}
