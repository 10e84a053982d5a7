"""A worker that notes what its steps compute and when: `python -m workers.profiled < spec.json`.

As `workers.process`, and for each further line on standard input it prints the steps since the last one as JSON.
The worker itself, its stream and its links are those of production; only the runner is looked over the shoulder.
"""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workers.engine.engine import Engine
from workers.engine.scheduler import ScheduledChunk
from workers.engine.stats import EngineStats
from workers.follower import Follower
from workers.model.contract import Batch, ChunkKind, Launched, ModelRunner, Sampled, Unit
from workers.process import rank_of, run
from workers.spec import WorkerSpec
from workers.spec_line import parse


class NotingStats(EngineStats):
    """Notes each step: [began_s, ended_s, [[num_tokens, num_context] of each prompt], num_decodes, num_context]."""

    def __init__(self) -> None:
        super().__init__()
        self.batch: Batch | None = None
        self.steps: list[Any] = []
        self._schedstat = ""
        self._waited_s = 0.0

    def take(self) -> dict[str, Any]:
        """The steps since the last call, and how long the engine's thread was ready to run and had no core."""
        steps, self.steps = self.steps, []
        before, self._waited_s = self._waited_s, waited_s(self._schedstat)
        return {"steps": steps, "waited_s": self._waited_s - before}

    def step_done(self, now_s: float, started_s: float, chunks: Sequence[ScheduledChunk], *, is_idle: bool) -> None:
        if not self._schedstat:
            self._schedstat = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        super().step_done(now_s, started_s, chunks, is_idle=is_idle)
        if self.batch is not None:
            self.steps.append([started_s, now_s, *composition(self.batch)])


class NotingRunner:
    """The runner, and the batch that it ran last."""

    def __init__(self, runner: ModelRunner, stats: NotingStats) -> None:
        self._runner = runner
        self._stats = stats

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        self._stats.batch = batch
        return self._runner.run(batch, on_layer)

    def launch(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> "NotingLaunched":
        return NotingLaunched(self._runner.launch(batch, on_layer), batch, self._stats)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


class NotingLaunched:
    """The step, whose batch is the last one that ran when it is done."""

    def __init__(self, launched: Launched, batch: Batch, stats: NotingStats) -> None:
        self._launched, self._batch, self._stats = launched, batch, stats

    def result(self) -> list[list[Sampled]]:
        found = self._launched.result()
        self._stats.batch = self._batch
        return found


def composition(batch: Batch) -> tuple[list[list[int]], int, int]:
    """Prompt chunks [[num_tokens, num_context]], number of decodes, sum of their contexts."""
    prompts: list[list[int]] = []
    num_decodes = num_context = 0
    for chunk in batch.chunks:
        if chunk.kind is ChunkKind.DECODE and len(chunk.token_ids) == 1:
            num_decodes += 1
            num_context += chunk.start
        else:
            prompts.append([len(chunk.token_ids), chunk.start])
    return prompts, num_decodes, num_context


def waited_s(schedstat: str) -> float:
    """0 where the system does not say."""
    try:
        return int(Path(schedstat).read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


async def serve(spec: WorkerSpec, incarnation: str) -> None:
    actor = rank_of(spec, incarnation)
    address = await actor.start()
    if isinstance(actor, Follower):
        say({"address": address})
        await asyncio.to_thread(sys.stdin.read)
        return
    engine = actor._engine
    assert isinstance(engine, Engine)
    stats = NotingStats()
    runner: Any = NotingRunner(engine.runner, stats)
    engine.stats, engine.runner = stats, runner
    say({"address": address, **facts(runner)})
    while await asyncio.to_thread(sys.stdin.readline):
        say(stats.take())
    await actor.stop()


def facts(runner: ModelRunner) -> dict[str, Any]:
    """What a profile says of the model, as this worker holds it."""
    token_bytes = [spec.unit_nbytes for spec in runner.store.payloads if spec.unit is Unit.TOKEN]
    return {
        "fingerprint": runner.fingerprint,
        "num_blocks": runner.num_blocks,
        "max_model_len": runner.max_model_len,
        "vocab_size": runner.vocab_size,
        "num_layers": len(token_bytes),
        "token_bytes": sum(token_bytes) * runner.kv_shares,
        "state_bytes": runner.state_nbytes,
    }


def say(message: object) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    run(serve(*parse(sys.stdin.readline())))


if __name__ == "__main__":
    main()
