"""What steps of one sequence take on this machine, by the runner that workers use."""

import statistics
import time
from pathlib import Path

from workers.model.contract import Batch, Chunk, ChunkKind, SampleRow
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec, Role, WorkerSpec

CONTEXT = 256  # tokens before the step's
REPEATS = 30


def start_runner(folder: Path, *, dtype: str, device: str) -> TorchRunner:
    spec = WorkerSpec(
        worker_id="times-0",
        role=Role.MIXED,
        model=str(folder),
        served_name="times",
        dtype=dtype,
        device=device,
        engine=EngineSpec(max_model_len=2 * CONTEXT, memory_bytes=256 << 20),
    )
    runner = TorchRunner(spec)
    runner.warm_up()
    return runner


def step_ms(runner: TorchRunner, num_tokens: int) -> float:
    """Median of a step of one token and `num_tokens` - 1 drafts."""
    batch, times = _batch(num_tokens), list[float]()
    for _ in range(REPEATS + 3):
        began_s = time.perf_counter()
        runner.run(batch)
        times.append(time.perf_counter() - began_s)
    return statistics.median(times[3:]) * 1000


def _batch(num_tokens: int) -> Batch:
    tokens = list(range(num_tokens))
    chunk = Chunk(
        token_ids=tokens,
        start=CONTEXT,
        block_ids=list(range((CONTEXT + num_tokens) // 16 + 1)),
        num_sequence_tokens=CONTEXT + num_tokens,
        kind=ChunkKind.DECODE,
    )
    row = SampleRow(
        chunk=0,
        choice=0,
        params=SamplingParams(max_tokens=2 * CONTEXT, temperature=0.0),
        prompt_token_ids=[0] * CONTEXT,
        output_token_ids=[0],
        draft_token_ids=tuple(tokens[1:]),
    )
    return Batch(chunks=[chunk], samples=[row])
