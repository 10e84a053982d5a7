"""What a prompt's hand-over moves, of a hybrid model and of one of softmax attention alone, per prompt length.

    python -m bench.hybrid_bytes                                # demo-hybrid beside demo
    python -m bench.hybrid_bytes --models Qwen/Qwen3.5-9B,Qwen/Qwen3-8B --sent 0     # from what the planner knows
    python -m bench.hybrid_bytes --quick                        # a shorter prompt is sent

Computed from each model's config.json: KV of the attending layers, which grows with the prompt, and states of linear
layers, which do not. Beside it what a prefill worker counts that sends such a prompt to a decode worker; with random
weights, since bytes do not depend on them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import BatonError
from bench.machine import Quick, announce
from cluster.config.schema import RouterConfig
from cluster.fleet.nodes import resolve_dtype
from cluster.models.find import find_model
from cluster.models.model_file import read_model_spec
from cluster.planner.models.model_spec import STATE_BYTES, ModelSpec
from cluster.profiling.local_cluster import LocalCluster, greedy, local_cluster
from workers.spec import EngineSpec, Role, WorkerSpec

LENGTHS = (1 << 10, 4 << 10, 16 << 10, 64 << 10)
SENT, QUICK_SENT = 1024, 256
SENDING_S = 25.0  # two workers' start, a prompt, and their end
WAIT_S = 20.0  # for the last reports


def shown(name: str) -> str:
    """Of a path its last part."""
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def nbytes(model: ModelSpec, num_tokens: int) -> int:
    """Handed over of a prompt of which the decode worker has nothing."""
    return num_tokens * model.kv_bytes_per_token + model.state_bytes


def layers(model: ModelSpec) -> list[str]:
    """A line for each kind of layer."""
    linear = [layer.attention for layer in model.layers if layer.attention.state_elements]
    lines = []
    if model.num_kv_layers:
        lines.append(f"{model.num_kv_layers} attending layers: {model.kv_bytes_per_token:,} bytes of KV per token")
    if linear:
        recurrent = sum(one.state_elements for one in linear) * STATE_BYTES
        conv = sum(one.conv_elements for one in linear) * model.element_bytes
        lines.append(
            f"{len(linear)} linear layers: {recurrent:,} bytes of recurrent state (float32) and {conv:,} of the "
            "convolution's inputs per sequence"
        )
    return lines


def show(models: Sequence[ModelSpec]) -> None:
    for model in models:
        print(f"{model.name}, up to {model.max_model_len:,} tokens")
        for line in layers(model):
            print(f"  {line}")
    print("\nbytes handed over, KV + states")
    print("  ".join(["tokens".rjust(7), *(model.name.rjust(34) for model in models), "first of last"]))
    for length in LENGTHS:
        cells = [f"{length * one.kv_bytes_per_token:,} + {one.state_bytes:,}".rjust(34) for one in models]
        share = nbytes(models[0], length) / nbytes(models[-1], length)
        print("  ".join([f"{length:7,}", *cells, f"{share:12.3f}"]), flush=True)


async def sent(name: str, num_tokens: int, dtype: str, secret: str = "s3cret") -> int:
    """Bytes that a prefill worker counts which hands such a prompt over.

    Raises: BatonError: there is no such folder, or the model cannot be served.
    """
    spec = WorkerSpec(
        worker_id="prefill-0",
        role=Role.PREFILL,
        model=str(find_model(name)),
        served_name=name,
        dtype=dtype,
        device="cpu",
        load_format="dummy",
        engine=EngineSpec(memory_bytes=256 << 20, max_sequences=2),
        secret=secret,
    )
    specs = [spec, replace(spec, worker_id="decode-0", role=Role.DECODE)]
    async with local_cluster(specs, RouterConfig(disaggregate_over_tokens=1)) as cluster:
        await cluster.answer([7] * num_tokens, greedy(2))
        return await _counted(cluster)


async def _counted(cluster: LocalCluster) -> int:
    """Once both sides have reported the same."""
    async with asyncio.timeout(WAIT_S):
        while True:
            states = [view.state for view in cluster.dispatcher.states() if view.state is not None]
            out = sum(state.kv_bytes_sent for state in states)
            if out == sum(state.kv_bytes_received for state in states) > 0:
                return out
            await asyncio.sleep(0.05)


def main(
    models: Annotated[str, typer.Option(help="Comma-separated: names, folders or config.json files.")] = (
        "demo-hybrid,demo"
    ),
    dtype: Annotated[str, typer.Option(help="Of weights and KV; auto is what Baton would take here.")] = "auto",
    num_sent: Annotated[
        int | None, typer.Option("--sent", min=0, help="Tokens of the prompt that is sent; 0: none.")
    ] = None,
    quick: Quick = False,
) -> None:
    """Prints a table, and what was counted."""
    names = models.split(",")
    num_tokens = num_sent if num_sent is not None else QUICK_SENT if quick else SENT
    resolved = resolve_dtype(dtype, "cpu")
    announce("bench.hybrid_bytes", about_s=SENDING_S * len(names) * bool(num_tokens), dtypes=[resolved])
    try:
        specs = [replace(read_model_spec(name, dtype=resolved), name=shown(name)) for name in names]
    except BatonError as error:
        raise SystemExit(f"bench.hybrid_bytes: {error.message}") from None
    show(specs)
    for name, spec in zip(names, specs, strict=True) if num_tokens else ():
        try:
            counted = asyncio.run(sent(name, num_tokens, resolved))
        except BatonError as error:
            print(f"{spec.name}: not sent: {error.message}")
            continue
        print(f"{spec.name}: {num_tokens:,} tokens, {nbytes(spec, num_tokens):,} bytes computed, {counted:,} counted")


if __name__ == "__main__":
    typer.run(main)
