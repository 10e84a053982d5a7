"""Baton's engine for `bench.engine`: what a worker runs, without the wire."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import torch

from baton.v1 import worker_pb2
from bench.engine_sides import MAX_BATCHED_TOKENS, NUM_THREADS, num_decode_outputs, prompt_of
from cluster.profiling.local_cluster import greedy
from workers.engine.engine import Engine, StepReport
from workers.model.contract import Batch, ChunkKind, ModelRunner, Sampled
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, WorkerSpec

INGRESS = "bench"
FILL = 0.02  # in every element of the KV: none is a denormal, and all memory is there


class Skipping:
    """A runner that takes prompts for read while `is_skipping`: decodes after long prompts, without their time.

    Steps take as long as after real ones: the KV is there, and what is in it does not matter.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.is_skipping = False
        self.runs_ahead = False  # each step is looked at

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        if self.is_skipping and any(chunk.kind is ChunkKind.PREFILL for chunk in batch.chunks):
            return [[Sampled(token_id=1)] for _ in batch.samples]
        return self._runner.run(batch, on_layer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


class Baton:
    def __init__(self, spec: WorkerSpec, runner: ModelRunner) -> None:
        """`runner`: warmed up."""
        store: Any = runner.store
        for layer in store.layers:
            layer.fill_(FILL)
        self._vocab = runner.vocab_size
        self._runner: Any = Skipping(runner)
        self._engine = Engine(runner=self._runner, spec=spec, emit=self._take, clock=time.monotonic)
        self._received: dict[str, int] = {}
        self._jobs = count()

    def decode(self, batch: int, context: int, steps: int) -> float:
        prompts = [prompt_of(context, number, self._vocab) for number in range(batch)]
        num_outputs = num_decode_outputs(batch, context, steps)
        self._runner.is_skipping = True
        names = self._submit(prompts, [num_outputs] * batch)
        while not all(self._received.get(name) for name in names):
            self._engine.step()
        self._runner.is_skipping = False
        self._engine.step()
        began_s = time.perf_counter()
        for _ in range(steps):
            self._engine.step()
        took_s = time.perf_counter() - began_s
        for name in names:
            self._engine.abort(worker_pb2.Abort(request_id=name))
        while not self._engine.is_idle:
            self._engine.step()
        return took_s / steps

    def generate(self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> None:
        names = self._submit(prompts, num_outputs)
        while sum(self._received.get(name, 0) for name in names) < sum(num_outputs):
            self._engine.step()

    def _submit(self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int]) -> list[str]:
        self._received.clear()
        number = next(self._jobs)
        names = [f"{number}-{index}" for index in range(len(prompts))]
        for name, prompt, limit in zip(names, prompts, num_outputs, strict=True):
            submit = worker_pb2.Submit(request_id=name, prompt_token_ids=prompt, sampling=greedy(limit), timeout_s=3600)
            submit.choices.add(choice=0)
            self._engine.submit(INGRESS, submit)
        return names

    def _take(self, report: StepReport) -> None:
        for output in outputs_of(report):
            self._received[output.request_id] = self._received.get(output.request_id, 0) + len(output.token_ids)


def outputs_of(report: StepReport) -> Iterator[worker_pb2.TokenOutput]:
    """Raises: RuntimeError: A request failed."""
    for outputs in report.outputs.values():
        for output in outputs:
            if output.HasField("error"):
                raise RuntimeError(f"request {output.request_id} failed: {output.error.message}")
            yield output


def start(settings: dict[str, Any]) -> Baton:
    torch.set_num_threads(NUM_THREADS)
    spec = WorkerSpec(
        worker_id="bench-0",
        role=Role.MIXED,
        model=settings["folder"],
        served_name="bench",
        dtype=settings["dtype"],
        device="cpu",
        load_format=settings["load_format"],
        engine=EngineSpec(
            memory_bytes=settings["kv_bytes"],
            max_model_len=settings["max_model_len"],
            max_batched_tokens=MAX_BATCHED_TOKENS,
            max_sequences=settings["max_sequences"],
            prefix_cache=False,
        ),
    )
    runner = TorchRunner(spec)
    runner.warm_up()
    return Baton(spec, runner)
