"""What an 8 B model's steps take of a GPU: decodes as a share of its bandwidth, prompts of its products, and the host's
part of a decode.

python -m bench.gpu                  # Qwen3-8B's config, random weights, bfloat16; some 4 minutes of an H100 or H200
python -m bench.gpu --quick
python -m bench.gpu --device cpu     # a dry run of the same code with a tiny model

A step is what an engine makes of `TorchRunner`, sampling included: decodes are launched one ahead. Shares are of what
the card does in the same process just before: a copy of 4 GiB and a product of 8,192 x 8,192 x 8,192 in bfloat16. The
host's part is the time of a step in which the profiler saw the device idle. Bars: decode 70 %, prompts 65 %, host 5 %.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.gpu_check import card as cards
from bench.gpu_check import speed
from bench.gpu_check.check import Check, Finding
from bench.gpu_check.points import RESERVE_BYTES
from bench.gpu_check.shape import QWEN3_8B, TINY, Shape
from bench.gpu_device import GPUDevice, begin
from bench.machine import Quick, announce
from workers.model.device_memory import available_bytes
from workers.model.runner import TorchRunner

DECODE_BAR, PROMPT_BAR, HOST_BAR = 0.70, 0.65, 0.05
SMALL = ((8, 16), (8, 64), (8, 128), (32, 256), (32, 384), (32, 512))  # decodes, and tokens in all
BATCHES, CONTEXTS, PROMPTS = (1, 16, 64, 256), (1024, 8192), (512, 2048, 8192, 16384)


def decodes(
    runner: TorchRunner, check: Check, shape: Shape, card: cards.Card, batches: Sequence[int], contexts: Sequence[int]
) -> Table:
    table = Table(title="decode")
    for heading in ("sequences", "context", "ms a step", "tokens/s", "of bandwidth", "host"):
        table.add_column(heading, justify="right")
    room = runner.num_blocks * speed.BLOCK_SIZE
    for context in contexts:
        for batch in batches:
            each = replace(shape, context=context)
            if batch * (context + 2 * speed.BLOCK_SIZE) > room:
                table.add_row(str(batch), f"{context:,}", "its KV does not fit")
                continue
            seconds = speed.decode(runner, check, each, batch)
            share = each.decode_bytes(batch, context) / seconds / card.bytes_per_s
            host = "-" if check.is_dry else _marked(_idle_share(runner, check, each, batch), HOST_BAR, is_most=True)
            times = (f"{1e3 * seconds:.2f}", f"{batch / seconds:,.0f}")
            table.add_row(str(batch), f"{context:,}", *times, _marked(share, DECODE_BAR), host)
    return table


def prompts(runner: TorchRunner, check: Check, shape: Shape, card: cards.Card, lengths: Sequence[int]) -> Table:
    table = Table(title="prompts, one chunk each")
    for heading in ("tokens", "ms", "tokens/s", "of products"):
        table.add_column(heading, justify="right")
    for length in lengths:
        seconds = speed.prefill(runner, check, length, 0)
        share = shape.prefill_flops(length) / seconds / card.flops
        times = (f"{1e3 * seconds:.1f}", f"{length / seconds:,.0f}")
        table.add_row(f"{length:,}", *times, _marked(share, PROMPT_BAR))
    return table


def small_steps(runner: TorchRunner, check: Check, shape: Shape, sizes: Sequence[tuple[int, int]]) -> Table:
    """What graphs are worth where a step is short."""
    table = Table(title="decodes beside a prompt's chunk")
    for heading in ("decodes", "tokens in all", "ms", "ms without graphs"):
        table.add_column(heading, justify="right")
    graphs = runner.graphs
    for num_decodes, num_tokens in sizes:
        batch = speed.mixed_batch(runner, num_decodes, shape.context, num_tokens - num_decodes)
        times = []
        for used in (graphs, None):
            runner.graphs = used
            step = partial(runner.run, batch)
            seconds = cards.seconds_of(step, check.device, runs=speed.NUM_STEPS, warm_runs=speed.NUM_WARM_STEPS)
            times.append(f"{1e3 * seconds:.2f}")
        table.add_row(str(num_decodes), str(num_tokens), *times)
    runner.graphs = graphs
    return table


def _marked(share: float, bar: float, *, is_most: bool = False) -> str:
    is_met = share <= bar if is_most else share >= bar
    return f"{share:.0%}" if is_met else f"{share:.0%} (bar {bar:.0%})"


def _idle_share(runner: TorchRunner, check: Check, shape: Shape, batch: int) -> float:
    """Of a decode, the time in which no kernel and no copy runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        seconds = speed.decode(runner, check, shape, batch)
    num_steps = speed.NUM_STEPS + speed.NUM_WARM_STEPS
    busy_s: float = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / num_steps
    return max(0.0, 1.0 - busy_s / seconds)


def main(
    device: GPUDevice = "cuda",
    kv_dtype: Annotated[str, typer.Option(help="Of keys and values: auto (bfloat16) or fp8.")] = "auto",
    quick: Quick = False,
) -> None:
    """Decodes and prompts of an 8 B model."""
    if kv_dtype not in ("auto", "fp8"):
        raise typer.BadParameter(f"{kv_dtype!r} is none; give auto or fp8", param_hint="--kv-dtype")
    begin("bench.gpu", device)
    announce("bench.gpu", about_s=90 if quick else 240, dtypes=("bfloat16",))
    findings: list[Finding] = []
    check = Check(device=device, tell=findings.append)
    shape = replace(TINY if check.is_dry else QWEN3_8B, kv_dtype=kv_dtype)
    batches: Sequence[int] = BATCHES
    contexts: Sequence[int] = CONTEXTS
    lengths: Sequence[int] = PROMPTS
    if check.is_dry:
        batches, contexts, lengths = (1, 2), (40,), (32,)
    elif quick:
        batches, contexts, lengths = (1, 64), (1024,), (2048,)
    card = cards.measure(device)
    print(f"{card.name}: copies {card.bytes_per_s / 1e9:,.0f} GB/s, products {card.flops / 1e12:,.1f} TFLOP/s")
    wanted = max(batches) * (max(contexts) + 2 * speed.BLOCK_SIZE)
    if not check.is_dry:
        room = available_bytes(torch.device(device)) - 2 * shape.num_weights - RESERVE_BYTES
        wanted = min(wanted, room // shape.kv_bytes(1))
    shape = replace(shape, batches=tuple(batches), prompts=(min(lengths), max(lengths)))
    runner = speed.load(check, shape, wanted)
    runner.warm_up()
    speed.fill(runner)
    print(f"attends by {runner.attention_name or 'the CPU'}")
    if runner.graphs is not None:
        print(f"captured {runner.graphs.at_start}")
    print(f"memory: {runner.memory}")
    console = Console(width=110)
    console.print(decodes(runner, check, shape, card, batches, contexts))
    console.print(prompts(runner, check, shape, card, lengths))
    console.print(small_steps(runner, check, shape, [(2, 20)] if check.is_dry else SMALL))


if __name__ == "__main__":
    typer.run(main)
