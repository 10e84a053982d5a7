"""How much of a step a device waits for the host: steps launched one after the other, and one ahead, beside each other.

    python -m bench.host_time            # 1 to 256 sequences, 5 rounds each; about 2 minutes
    python -m bench.host_time --quick    # fewer; half a minute

Engine, scheduler, blocks, prefix cache, batch, the numbers of a step and of its draws, and the messages to an ingress
are production's. The device is a clock: a step that it is given is done `device` after the later of its launch and the
end of the step before, and later where it reads prompts. Tokens are made up, answers end and new ones begin all the
time. What a GPU's driver costs (launches, or one graph) is not in it:
`python -m bench.gpu` has that. Visible is what of a step the device had nothing to do.
"""

import random
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from baton.v1 import inference_pb2, worker_pb2
from bench.machine import Quick, announce
from workers.engine.engine import Engine, StepReport
from workers.model import fake
from workers.model.attention import build_meta
from workers.model.contract import Batch, ChunkKind, Sampled
from workers.model.cuda.graph_sizes import GraphSizes
from workers.model.cuda.graphs import StepGraphs
from workers.model.cuda.inputs import Taken, following
from workers.model.cuda.sampling import numbers_of
from workers.model.cuda.ways import TritonWay
from workers.model.drafts import single_rows
from workers.model.sampler import drawn_by
from workers.spec import EngineSpec, Role, WorkerSpec

CONTEXT = 1000  # tokens of a prompt
BLOCK_SIZE = 16
WIDTH = 128  # blocks of a table
# Of a decode of Qwen3-8B in bfloat16 at 4.8 TB/s (H200): 13.9 GB of weights, 147 KB a token of context.
# And of a prompt's token, its products at 65 % of 989 TFLOP/s.
PROMPT_TOKEN_S = 2 * 7e9 / (0.65 * 989e12)
NUM_BLOCKS = 1 << 15
DEVICE_S = {batch: (13.9e9 + batch * CONTEXT * 147e3) / 4.8e12 for batch in (1, 16, 64, 256)}


class Device:
    """Runs steps one after the other, in no time of the host's."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.busy_s = 0.0
        self.free_at_s = 0.0

    def launch(self, num_prompt_tokens: int) -> float:
        """When the step will be done."""
        took_s = self.step_s + num_prompt_tokens * PROMPT_TOKEN_S
        self.free_at_s = max(time.perf_counter(), self.free_at_s) + took_s
        self.busy_s += took_s
        return self.free_at_s


class Step:
    def __init__(self, done_s: float, token_ids: Tensor) -> None:
        self._done_s, self._token_ids = done_s, token_ids

    def result(self) -> list[list[Sampled]]:
        while (left_s := self._done_s - time.perf_counter()) > 0:
            time.sleep(left_s if left_s > 0.0005 else 0)
        return [[Sampled(token_id=token_id)] for token_id in self._token_ids.tolist()]


class ClockRunner:
    def __init__(self, runner: fake.FakeRunner, device: Device, batch: int, *, runs_ahead: bool) -> None:
        self._runner, self._device = runner, device
        self._graphs = graphs_of(batch)
        self._drawn = torch.zeros(batch, dtype=torch.int64)
        self.runs_ahead = runs_ahead

    def launch(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> Step:
        followed = following(batch.chunks)
        taken = Taken(self._drawn, *followed) if followed.shape[1] else None
        if self._graphs.run(batch.chunks, batch.rows, taken) is None:  # no decode
            build_meta(batch.chunks, BLOCK_SIZE)
        numbers_of(*drawn_by(single_rows(batch.samples)))
        num_prompt_tokens = sum(len(chunk.token_ids) for chunk in batch.chunks if chunk.kind is ChunkKind.PREFILL)
        token_ids = torch.randint(1, 500, (len(batch.samples),))
        return Step(self._device.launch(num_prompt_tokens), token_ids)

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        return self.launch(batch, on_layer).result()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


class Nothing:
    """Implements `workers.model.cuda.capture.Capture`: replays launch nothing."""

    nbytes = 0

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        compute()
        return lambda: None


def graphs_of(batch: int) -> StepGraphs:
    """Of decodes, up to what the device is told."""

    def forward(*numbers: Any) -> Tensor:
        return torch.zeros(len(numbers[-1]), 1)

    device = torch.device("cpu")
    sizes = GraphSizes(max_sequences=batch, max_tokens=batch, max_blocks=WIDTH, block_size=BLOCK_SIZE, has_mixed=False)
    way = TritonWay(device)
    return StepGraphs(forward, sizes=sizes, decode=way, mixed=None, device=device, scratch_block=0, capture=Nothing())


class Side:
    """One engine that always has `batch` answers to write."""

    def __init__(self, batch: int, *, runs_ahead: bool) -> None:
        spec = WorkerSpec(
            worker_id="decode-0",
            role=Role.MIXED,
            model="fake",
            served_name="fake",
            dtype="float32",
            device="cpu",
            engine=EngineSpec(
                memory_bytes=1 << 30,
                block_size=BLOCK_SIZE,
                max_sequences=batch,
                max_batched_tokens=batch + 4 * CONTEXT,
            ),
            fake=True,
        )
        self.device = Device(DEVICE_S[batch])
        fake.MAX_NUM_BLOCKS = NUM_BLOCKS
        runner: Any = ClockRunner(fake.FakeRunner(spec), self.device, batch, runs_ahead=runs_ahead)
        self.engine = Engine(runner=runner, spec=spec, emit=self._take, clock=time.perf_counter)
        self._rng = random.Random(2)
        self._num_asked = 0
        for _ in range(batch):
            self._ask()
        while self.engine.scheduler.num_waiting_tokens:
            self.engine.step()

    def _ask(self) -> None:
        self._num_asked += 1
        submit = worker_pb2.Submit(
            request_id=f"request-{self._num_asked}",
            prompt_token_ids=[self._rng.randrange(1, 500) for _ in range(CONTEXT)],
            choices=[worker_pb2.ChoiceStart(choice=0)],
            sampling=inference_pb2.SamplingParams(
                max_tokens=self._rng.randrange(100, 400), temperature=1.0, seed=self._num_asked, ignore_eos=True
            ),
            timeout_s=1000.0,
        )
        self.engine.submit("ingress-0", submit)

    def _take(self, report: StepReport) -> None:
        for outputs in report.outputs.values():
            for output in outputs:
                assert not output.HasField("error"), output.error.message
                if output.finish_reason:
                    self._ask()

    def visible(self, num_steps: int) -> tuple[float, float]:
        """(seconds of a step, of which the device had nothing to do)."""
        before_s, busy_s, counted = time.perf_counter(), self.device.busy_s, self.engine.stats.num_steps
        while self.engine.stats.num_steps < counted + num_steps:
            self.engine.step()
        took_s = time.perf_counter() - before_s
        return took_s / num_steps, max(took_s - (self.device.busy_s - busy_s), 0.0) / num_steps


def main(quick: Quick = False, rounds: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """Prints a line for each number of sequences."""
    announce("bench.host_time", about_s=30 if quick else 120)
    torch.set_num_threads(1)
    batches = (1, 64) if quick else tuple(DEVICE_S)
    num_steps, rounds = (60, min(rounds, 3)) if quick else (200, rounds)
    table = Table("sequences", "device, ms", "one after the other", "visible", "one ahead", "visible", "ratio")
    for batch in batches:
        sides = [Side(batch, runs_ahead=False), Side(batch, runs_ahead=True)]
        found = [[side.visible(num_steps) for side in sides] for _ in range(rounds)]
        row = [str(batch), f"{DEVICE_S[batch] * 1e3:.2f}"]
        for index in range(2):
            step_s = median(one[index][0] for one in found)
            idle_s = median(one[index][1] for one in found)
            row += [f"{step_s * 1e3:.2f} ms", f"{100 * idle_s / step_s:.1f} %"]
        row.append(f"{median(one[0][0] / one[1][0] for one in found):.3f} x")
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
