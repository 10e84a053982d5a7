"""The teacher, served by the engine in this process: many prompts at once, greedy or sampled, with logprobs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from baton.v1 import worker_pb2
from baton.v1.inference_pb2 import SamplingParams
from tools.distillation.answers import NUM_TOP, Answer
from workers.engine.engine import Engine, StepReport
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, WorkerSpec

TIMEOUT_S = 1e6


@dataclass(slots=True, kw_only=True)
class Writing:
    prompt: Sequence[int]
    kind: str
    token_ids: list[int] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)

    def answer(self) -> Answer:
        """Places that have fewer than NUM_TOP tokens (never, with a vocabulary of as many) are refused."""
        pairs = np.array(self.top, dtype=np.float64).reshape(len(self.token_ids), NUM_TOP, 2)
        return Answer(
            token_ids=np.array([*self.prompt, *self.token_ids]),
            num_prompt=len(self.prompt),
            top_ids=pairs[:, :, 0].astype(np.int64),
            top_logprobs=pairs[:, :, 1].astype(np.float32),
            kind=self.kind,
        )


class Teacher:
    def __init__(
        self, folder: Path, *, device: str, dtype: str, max_sequences: int, memory_bytes: int, seed: int
    ) -> None:
        """`seed`: of the first text; each further one has the next."""
        spec = WorkerSpec(
            worker_id="teacher-0",
            role=Role.MIXED,
            model=str(folder),
            served_name="teacher",
            dtype=dtype,
            device=device,
            engine=EngineSpec(max_sequences=max_sequences, memory_bytes=memory_bytes, max_batched_tokens=1024),
        )
        runner = TorchRunner(spec)
        runner.warm_up()
        self.eos_token_ids = frozenset(runner.eos_token_ids)
        self._engine = Engine(runner=runner, spec=spec, emit=self._take, clock=time.monotonic)
        self._writing: dict[str, Writing] = {}
        self._done: list[Writing] = []
        self._next_seed = seed

    @property
    def num_writing(self) -> int:
        return len(self._writing)

    def ask(self, prompt: Sequence[int], *, kind: str, max_tokens: int, temperature: float, with_top: bool) -> None:
        seed, self._next_seed = self._next_seed, self._next_seed + 1
        sampling = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, top_p=0.95 if temperature else 1.0, seed=seed
        )
        if with_top:
            sampling.logprobs = NUM_TOP
        submit = worker_pb2.Submit(
            request_id=str(seed), prompt_token_ids=prompt, sampling=sampling, timeout_s=TIMEOUT_S
        )
        submit.choices.add(choice=0)
        self._writing[str(seed)] = Writing(prompt=prompt, kind=kind)
        self._engine.submit("distillation", submit)

    def step(self) -> list[Writing]:
        """What has ended in this step."""
        self._engine.step()
        done, self._done = self._done, []
        return done

    def _take(self, report: StepReport) -> None:
        for outputs in report.outputs.values():
            for output in outputs:
                if output.HasField("error"):
                    raise RuntimeError(f"the teacher failed: {output.error.message}")
                writing = self._writing[output.request_id]
                writing.token_ids += output.token_ids
                writing.top += [[(pair.token_id, pair.logprob) for pair in one.top] for one in output.logprobs]
                if output.finish_reason:
                    self._done.append(self._writing.pop(output.request_id))
