"""A gang as worker processes: it serves as one worker, and ends as one, whichever rank dies or hangs."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.profiling.local_cluster import WorkerProcess, greedy, local_cluster
from tests.models import tiny
from tests.unit.engine.driver import make_spec as fake_spec
from tests.unit.model.driver import generate, make_spec
from workers.model.fake import FakeRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import GangSpec, WorkerSpec

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79]


def ranks_of(spec: WorkerSpec, size: int) -> list[WorkerSpec]:
    spec = replace(spec, secret="s3cret", num_threads=1)
    return [replace(spec, gang=GangSpec(tensor_parallel=size, rank=rank)) for rank in range(size)]


@contextmanager
def gang(spec: WorkerSpec, size: int, log: Path) -> Iterator[WorkerProcess]:
    leader, *others = ranks_of(spec, size)
    process = WorkerProcess(leader, log / "log", others=others)
    try:
        yield process
    finally:
        for other in process.others:
            other.send_signal(signal.SIGCONT)
        process.stop()


async def test_a_gang_of_processes_serves_the_tokens_of_generate(tmp_path: Path) -> None:
    folder = tiny("llama")
    (want,) = generate(folder, [PROMPT], 8)
    async with local_cluster(ranks_of(make_spec(folder), 2), log=tmp_path / "log") as cluster:
        (answer,) = await cluster.answer(PROMPT, greedy(8))
        assert answer.token_ids == want.tokens
        others = cluster.workers["test-0"].others
        assert [other.poll() for other in others] == [None]
    assert [other.poll() for other in others] == [0]


async def test_a_gang_of_fakes_serves_too(tmp_path: Path) -> None:
    async with local_cluster(ranks_of(fake_spec(), 3), log=tmp_path / "log") as cluster:
        (answer,) = await cluster.answer(PROMPT, greedy(8))
    wanted = FakeRunner.expected_output(PROMPT, SamplingParams(max_tokens=8, temperature=0, ignore_eos=True), 0, 8)
    assert answer.token_ids == wanted


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_the_whole_gang_ends_within_five_seconds_of_one_rank(tmp_path: Path, number: signal.Signals) -> None:
    with gang(fake_spec(), 3, tmp_path) as process:
        process.wait_ready()
        lost, rest = process.others
        lost.send_signal(number)
        begin = time.monotonic()
        assert rest.wait(6) == 1
        assert process.wait(6) == 1
        assert time.monotonic() - begin < 5


@pytest.mark.slow
def test_a_gang_that_was_paused_as_a_whole_goes_on(tmp_path: Path) -> None:
    with gang(fake_spec(), 3, tmp_path) as process:
        process.wait_ready()
        pids = [process.pid, *(other.pid for other in process.others)]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                os.kill(pid, number)
            time.sleep(6)
        assert [other.poll() for other in process.others] == [None, None]


def test_the_ranks_end_with_their_leader(tmp_path: Path) -> None:
    with gang(fake_spec(), 3, tmp_path) as process:
        process.wait_ready()
        process.kill()
        assert [other.wait(3) for other in process.others] == [1, 1]


def test_a_leader_says_what_another_rank_cannot_load(tmp_path: Path) -> None:
    leader, other = ranks_of(fake_spec(), 2)
    tight = replace(other, engine=replace(other.engine, memory_bytes=1))
    process = WorkerProcess(leader, tmp_path / "log", others=[tight])
    with pytest.raises(RuntimeError, match="ended while it started"):
        process.wait_ready()
    process.stop()
    said = (tmp_path / "log").read_text()
    assert "ConfigError: engine.memory: 1 bytes hold no block of" in said
    assert "(rank 1 of the gang)" in said
