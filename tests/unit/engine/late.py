"""Runners whose steps are launched: what a GPU does, on a CPU."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from workers.model.contract import Batch, ModelRunner, Sampled


class LateStep:
    def __init__(self, device: "LateRunner", batch: Batch, on_layer: Callable[[int], None] | None) -> None:
        self.batch, self.on_layer = batch, on_layer
        self.found: list[list[Sampled]] | None = None
        self.error: Exception | None = None
        self._device = device

    def result(self) -> list[list[Sampled]]:
        self._device.work_until(self)
        if self.error is not None:
            raise self.error
        assert self.found is not None
        return self.found


class LateRunner:
    """Runs what was launched as late as it may: when it is asked for the result, or for a copy that comes after it.

    So what was done in between to blocks that a step still writes shows. `is_late` False: as early as it may.
    """

    runs_ahead = True

    def __init__(self, runner: ModelRunner, *, is_late: bool = True) -> None:
        self._runner = runner
        self._is_late = is_late
        self._queue: deque[LateStep] = deque()
        self._last: list[list[Sampled]] = []
        self.num_followed = 0  # chunks that were launched without their token

    def launch(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> LateStep:
        samples = [replace(row, output_token_ids=[*row.output_token_ids]) for row in batch.samples]  # as they are now
        chunks = [replace(chunk, block_ids=[*chunk.block_ids]) for chunk in batch.chunks]
        self.num_followed += sum(chunk.follows is not None for chunk in chunks)
        step = LateStep(self, replace(batch, chunks=chunks, samples=samples), on_layer)
        self._queue.append(step)
        if not self._is_late:
            self.work_until(step)
        return step

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        return self._runner.run(batch, on_layer)

    def work_until(self, last: LateStep | None) -> None:
        """Runs what waits, up to `last`; None: all."""
        while self._queue and not (last is not None and (last.found is not None or last.error is not None)):
            step = self._queue.popleft()
            try:
                step.found = self.run(self._known(step.batch), step.on_layer)
            except Exception as error:
                step.error = error
            self._last = step.found or []

    def _known(self, batch: Batch) -> Batch:
        """With the tokens that were not known when it was launched."""
        chunks = [
            chunk if chunk.follows is None else replace(chunk, token_ids=[self._token(chunk.follows)], follows=None)
            for chunk in batch.chunks
        ]
        samples = [
            row
            if row.follows is None
            else replace(row, output_token_ids=[*row.output_token_ids, self._token(row.follows)], follows=None)
            for row in batch.samples
        ]
        return replace(batch, chunks=chunks, samples=samples)

    def _token(self, row: int) -> int:
        return self._last[row][0].token_id

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.work_until(None)
        self._runner.copy_blocks(pairs)

    def copy_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.work_until(None)
        self._runner.copy_tokens(pairs)

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.work_until(None)
        self._runner.copy_states(pairs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)
