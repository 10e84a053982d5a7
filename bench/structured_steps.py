"""What following a grammar adds to the steps of a real model: an engine that does and one that does not take turns."""

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llguidance
import numpy as np

from baton.v1 import worker_pb2
from baton.v1.inference_pb2 import SamplingParams
from bench.engine_baton import outputs_of
from workers.engine.engine import Engine, StepReport
from workers.engine.following import Follower
from workers.grammar.book import GrammarBook, Vocabulary
from workers.model.contract import SampleRow, TokenMasks
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, WorkerSpec

MAX_MODEL_LEN = 2048
PROMPT_TOKENS = 64
SCHEMA = {"type": "array", "minItems": 500, "items": {"type": "string"}}  # hardly ever forces a token


class StepCost(NamedTuple):
    without_ms: float
    with_ms: float
    added: float  # median over pairs of steps
    num_steps: int
    waited_ms: float  # of a step with, for masks that were not there yet


class TimedMasks:
    """Masks, and how long they were waited for."""

    def __init__(self, masks: TokenMasks, waits_s: list[float]) -> None:
        self._masks, self._waits_s = masks, waits_s

    @property
    def rows(self) -> Sequence[int]:
        return self._masks.rows

    def bits(self) -> Any:
        return self._masks.bits()

    def forbidden(self) -> Any:
        began_s = time.perf_counter()
        found = self._masks.forbidden()
        self._waits_s.append(time.perf_counter() - began_s)
        return found


class TimedBook(GrammarBook):
    def __init__(self, folder: Path, model: Vocabulary) -> None:
        super().__init__(folder, model)
        self.waits_s: list[float] = []

    def masks(self, rows: Sequence[SampleRow], followers: Sequence[Follower | None]) -> TokenMasks | None:
        masks = super().masks(rows, followers)
        return TimedMasks(masks, self.waits_s) if masks is not None else None


class Side:
    def __init__(self, spec: WorkerSpec, runner: TorchRunner, batch: int, grammar: str, book: GrammarBook) -> None:
        self.num_tokens: dict[str, int] = defaultdict(int)
        self.engine = Engine(runner=runner, spec=spec, emit=self._take, clock=time.perf_counter, grammars=book)
        self._batch = batch
        for number in range(batch):
            sampling = SamplingParams(max_tokens=MAX_MODEL_LEN // 2, temperature=1.0, seed=number + 1, ignore_eos=True)
            prompt = range(1000 + number, 1000 + number + PROMPT_TOKENS)
            submit = worker_pb2.Submit(
                request_id=str(number), prompt_token_ids=prompt, sampling=sampling, timeout_s=3600, grammar=grammar
            )
            submit.choices.add(choice=0)
            self.engine.submit("bench", submit)
        while len(self.num_tokens) < batch or min(self.num_tokens.values()) < 4:
            self.engine.step()

    def step(self) -> float | None:
        """Seconds; None: it took other than one token of each."""
        before, began_s = sum(self.num_tokens.values()), time.perf_counter()
        self.engine.step()
        took_s = time.perf_counter() - began_s
        return took_s if sum(self.num_tokens.values()) - before == self._batch else None

    def _take(self, report: StepReport) -> None:
        for output in outputs_of(report):
            self.num_tokens[output.request_id] += len(output.token_ids)


def step_cost(folder: Path, batch: int, num_steps: int) -> StepCost:
    """In float32, on as many cores as torch takes."""
    spec = WorkerSpec(
        worker_id="bench-0",
        role=Role.MIXED,
        model=str(folder),
        served_name="bench",
        dtype="float32",
        device="cpu",
        engine=EngineSpec(memory_bytes=1 << 30, max_model_len=MAX_MODEL_LEN, prefix_cache=False),
    )
    runner = TorchRunner(spec)
    runner.warm_up()
    book = TimedBook(folder, runner)
    grammar = llguidance.LLMatcher.grammar_from_json_schema(SCHEMA)
    # Both keep their KV in the same blocks: what is computed means nothing, and takes as long.
    free, bound = Side(spec, runner, batch, "", book), Side(spec, runner, batch, grammar, book)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < num_steps:
        pair = free.step(), bound.step()
        if pair[0] is not None and pair[1] is not None:
            pairs.append((pair[0], pair[1]))
    without, following = np.array(pairs).T
    return StepCost(
        1e3 * float(np.median(without)),
        1e3 * float(np.median(following)),
        float(np.median(following / without)) - 1,
        len(pairs),
        1e3 * float(np.median(book.waits_s)),
    )
