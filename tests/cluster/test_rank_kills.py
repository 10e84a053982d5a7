"""Ranks of gangs are killed or stopped while 200 streams run: nothing is lost, nothing wrong, nothing held at the end.

    python -m pytest -s -m slow tests/cluster/test_rank_kills.py      # prints what each kill met, and what it cost

Tiny random models in float32 under `baton up`. Every rank of every worker is killed once, in an order and after pauses
that a seed draws, one rank of each worker is stopped, and the clients never pause: whoever has an answer asks again. So
kills land in steps, in gathers and sums of ranks, and in hand-overs, as the printed counts say.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from cluster.host.state import ClusterState
from cluster.local import ray_node
from tests.cluster.open_load import OpenLoad, make_questions
from tests.cluster.served import ServedCluster, all_free
from tests.cluster.status_feed import StatusFeed
from tests.cluster.tiny_model import THREE_TO_ONE, tiny_served
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]
NUM_STREAMS = 200
SEED = 11
PAUSES_S = (0.3, 1.5)  # from when all workers serve to the next kill
BOUND_S = 5.0  # from a kill to the end of the gang's other ranks
STARVED_S = 3.0  # and later where ranks have to wait for their turns: that is forgiven (`workers.parallel.gang`)
ENGINE = "memory: 64MiB, max_batched_tokens: 256, max_sequences: 208, prefix_cache: false"  # all prompts go by prefill
DENSE = f"""\
pools: {{prefill: {{workers: 1, tensor_parallel: 2}}, decode: {{workers: 1, tensor_parallel: 2}}}}
engine: {{{ENGINE}}}
"""
HYBRID = f"""\
pools: {{prefill: {{workers: 1, sequence_parallel: 2}}, decode: {{workers: 1}}}}
engine: {{{ENGINE}, sequence_parallel_over_tokens: 48}}
"""
ROUTER = "router: {disaggregate_over_tokens: 32, max_retries: 20, request_timeout_s: 120}"
SETUPS: dict[str, tuple[str, dict[str, Any], str]] = {
    "dense": ("llama", {}, DENSE),
    "hybrid": ("qwen3_5_text", THREE_TO_ONE, HYBRID),
}


@dataclass(frozen=True, slots=True)
class Kill:
    worker: str
    rank: int
    signal: signal.Signals


@dataclass(frozen=True, slots=True)
class Met:
    """What a kill met, as last reported before it, and how long its consequences took."""

    kill: Kill
    num_running: int  # of this worker
    num_transfers: int  # of any
    others_s: float | None  # until all other ranks of the gang were gone; None: there are none
    all_s: float  # until the rank itself was gone, too
    back_s: float  # until the worker served again

    def __str__(self) -> str:
        others = "-" if self.others_s is None else f"{self.others_s:.2f}"
        return (
            f"{self.kill.worker} rank {self.kill.rank} {self.kill.signal.name:8} {self.num_running:4} running "
            f"{self.num_transfers:4} transfers   others end {others:>5} s  all {self.all_s:5.2f} s  "
            f"back {self.back_s:5.1f} s"
        )


def kills_of(feed: StatusFeed, rng: Random) -> list[Kill]:
    """Each rank once, and one rank of each worker of several stopped, which no connection tells of."""
    gangs = {name: len(worker["ranks"]) for name, worker in feed.workers.items()}
    kills = [Kill(name, rank, signal.SIGKILL) for name, size in gangs.items() for rank in range(size)]
    kills += [Kill(name, rng.randrange(size), signal.SIGSTOP) for name, size in gangs.items() if size > 1]
    rng.shuffle(kills)
    return kills


def strike(feed: StatusFeed, kill: Kill) -> Met:
    """Blocks until the worker serves again."""
    before = feed.wait(f"work for {kill.worker}", lambda found: holds_something(found[kill.worker]))
    pids = [rank["pid"] for rank in before[kill.worker]["ranks"]]
    begun_s = time.monotonic()
    os.kill(pids[kill.rank], kill.signal)
    others = [pid for rank, pid in enumerate(pids) if rank != kill.rank]
    others_s = gone_s(others, begun_s) if others else None
    all_s = gone_s(pids, begun_s)
    feed.wait(f"{kill.worker} serves again", lambda found: is_back(found, before), timeout_s=90)
    return Met(
        kill,
        num_running=before[kill.worker]["num_running"],
        num_transfers=max(worker["num_transfers"] for worker in before.values()),
        others_s=others_s,
        all_s=all_s,
        back_s=time.monotonic() - begun_s,
    )


def holds_something(worker: dict[str, Any]) -> bool:
    return bool(worker["num_running"] or worker["num_transfers"])


def is_back(found: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]]) -> bool:
    """The one that was killed is another now, and all serve."""
    is_new = {name for name, worker in found.items() if worker["incarnation"] != before[name]["incarnation"]}
    return bool(is_new) and all(worker["phase"] == "ready" and worker["num_blocks"] for worker in found.values())


def gone_s(pids: list[int], begun_s: float) -> float:
    """Waits for the end of these processes; since `begun_s`."""
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() - begun_s < 30, f"still there: {[pid for pid in pids if psutil.pid_exists(pid)]}"
        time.sleep(0.005)
    return time.monotonic() - begun_s


@contextmanager
def served(folder: Path, config: str) -> Iterator[ServedCluster]:
    """Ends with the assertion that no process of it is left."""
    cluster = ServedCluster(str(folder), extra=config + ROUTER)
    state: ClusterState | None = None
    try:
        cluster.up()
        state = cluster.state()
        yield cluster
    finally:
        cluster.down()
    assert [process.pid for process in ray_node.processes(state)] == []


async def kill_all(feed: StatusFeed, load: OpenLoad, rng: Random) -> list[Met]:
    """All kills while the load runs, which then gets its last answers."""
    met = []
    running = asyncio.create_task(load.run())
    try:
        for kill in kills_of(feed, rng):
            await asyncio.sleep(rng.uniform(*PAUSES_S))
            met.append(await asyncio.to_thread(strike, feed, kill))
            print(met[-1], flush=True)
    except BaseException:
        running.cancel()
        raise
    load.end()
    await running
    return met


@pytest.mark.parametrize("setup", SETUPS)
def test_200_streams_lose_nothing_to_the_death_of_any_rank(tmp_path: Path, setup: str) -> None:
    family, overrides, config = SETUPS[setup]
    folder = tiny_served(tmp_path / "tiny", family, **overrides)
    questions = make_questions(folder, lengths=(40, 75, 110, 150, 200), each=45, num_outputs=(16, 32, 48))
    assert len(questions) >= NUM_STREAMS, "too many answers hang by a hair"
    with served(folder, config) as cluster:
        feed = StatusFeed(cluster.folder)
        try:
            load = OpenLoad(cluster.grpc, questions, NUM_STREAMS)
            begun_s = time.monotonic()
            met = asyncio.run(kill_all(feed, load, Random(SEED)))
            print(f"{setup}: {load.asked} requests in {time.monotonic() - begun_s:.0f} s, {NUM_STREAMS} at a time")
            assert (load.wrong, load.lost) == ([], [])
            feed.wait("blocks and states", all_free)
        finally:
            feed.close()
    for one in met:
        assert (one.others_s or 0) < BOUND_S + STARVED_S * (one.kill.signal is signal.SIGSTOP), str(one)
    assert any(one.num_transfers for one in met)
