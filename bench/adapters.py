"""What a decode step takes whose rows have LoRA adapters, beside one without and beside a worker that has none.

    python -m bench.adapters --model smollm2
    python -m bench.adapters --quick          # under a minute

Adapters are random, of all linear layers of the decoder. One runner without adapters and one with them take turns, in
one process; medians.
"""

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file

from bench.machine import Quick, announce
from cluster.fleet.nodes import resolve_dtype
from cluster.profiling.specs import available_cores
from workers.adapters.adapter import AdapterSpec
from workers.adapters.fitting import HEAD
from workers.model.contract import Batch, Chunk, ChunkKind, SampleRow
from workers.model.loader import load_model
from workers.model.registry import resolve_model
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec, Role, WorkerSpec

NUM_ADAPTERS = 4
GREEDY = SamplingParams(max_tokens=1000, temperature=0.0)


def write_adapter(folder: Path, shapes: dict[str, tuple[int, int]], rank: int, seed: int) -> Path:
    """As PEFT saves it."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (outputs, inputs) in shapes.items():
        key = f"base_model.model.{name}"
        weights[f"{key}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * inputs**-0.5
        weights[f"{key}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.05
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def batch(adapter_ids: Sequence[int], context: int, block_size: int) -> Batch:
    """A decode of each, after `context` tokens."""
    blocks_each = -(-(context + 1) // block_size)
    chunks = [
        Chunk(
            token_ids=[100],
            start=context,
            block_ids=range(number * blocks_each, (number + 1) * blocks_each),
            num_sequence_tokens=context + 1,
            kind=ChunkKind.DECODE,
            adapter_id=adapter_id,
        )
        for number, adapter_id in enumerate(adapter_ids)
    ]
    rows = [
        SampleRow(chunk=number, choice=0, params=GREEDY, prompt_token_ids=(), output_token_ids=[1] * (context + 1))
        for number in range(len(chunks))
    ]
    return Batch(chunks=chunks, samples=rows)


def cases(num_sequences: int) -> dict[str, list[int]]:
    """Adapter of each row. Of one row there is no mix."""
    found = {"none": [0] * num_sequences, "one for all": [1] * num_sequences}
    if num_sequences > 1:
        found["half of them"] = [number % 2 for number in range(num_sequences)]
        found[f"{NUM_ADAPTERS} mixed"] = [1 + number % NUM_ADAPTERS for number in range(num_sequences)]
        found[f"{NUM_ADAPTERS} and none mixed"] = [number % (NUM_ADAPTERS + 1) for number in range(num_sequences)]
    return found


def main(
    model: Annotated[str, typer.Option("--model")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype")] = "float32",
    rank: Annotated[int, typer.Option("--rank", min=1, max=64)] = 16,
    concurrency: Annotated[str, typer.Option("--concurrency", help="Comma-separated.")] = "1,16",
    context: Annotated[int, typer.Option("--context", min=1)] = 128,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 60,
    quick: Quick = False,
) -> None:
    rounds = 15 if quick else rounds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = available_cores()
    torch.set_num_threads(len(cores))
    spec = WorkerSpec(
        worker_id="bench-0",
        role=Role.MIXED,
        model=str(resolve_model(model)),
        served_name=model,
        dtype=resolve_dtype(dtype, device),
        device=device,
        engine=EngineSpec(memory_bytes=256 << 20),
    )
    announce("adapters", about_s=40 if quick else 100, dtypes=[spec.dtype], cores=cores)
    print(f"model {model}, rank {rank}, decodes after {context} tokens")
    shapes = {name: shape for name, shape in load_model(spec).linears.shapes.items() if name != HEAD}
    bare, adapted = TorchRunner(spec), TorchRunner(spec)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, NUM_ADAPTERS + 1):
            folder = write_adapter(Path(scratch) / str(number), shapes, rank, number)
            adapted.load_adapter(number, AdapterSpec(name=f"a{number}", folder=str(folder)))
    bare.warm_up()
    adapted.warm_up()
    for num_sequences in map(int, concurrency.split(",")):
        runs = {"a worker without": (bare, batch([0] * num_sequences, context, spec.engine.block_size))}
        for name, ids in cases(num_sequences).items():
            runs[name] = (adapted, batch(ids, context, spec.engine.block_size))
        took: dict[str, list[float]] = defaultdict(list)
        for turn in range(rounds + 3):
            for name, (runner, step) in runs.items():
                began_s = time.perf_counter()
                runner.run(step)
                if turn >= 3:
                    took[name].append(time.perf_counter() - began_s)
        base_ms = statistics.median(took["a worker without"]) * 1000
        for name, times in took.items():
            found_ms = statistics.median(times) * 1000
            print(f"batch {num_sequences:3}  {name:20} {found_ms:8.2f} ms  {found_ms / base_ms:5.2f} x")


if __name__ == "__main__":
    typer.run(main)
