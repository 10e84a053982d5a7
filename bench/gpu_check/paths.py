"""The ways to attend on a GPU against plain torch: gathered blocks, FlashInfer, and steps replayed from CUDA graphs."""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.gpu_check.check import Check, SkippedError
from tests.models import tiny
from tests.unit.model.driver import Driver, make_spec, prompts_of
from workers.model import attention_torch
from workers.model.attention import PagedMeta, Scoring, build_meta
from workers.model.contract import Chunk
from workers.model.cuda.attention import FlashInfer, flashinfer_available, gathered, make_workspace
from workers.model.runner import TorchRunner

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 8, 2, 64
BLOCK_SIZE, NUM_BLOCKS = 16, 256
MAX_RATIO = 2.0  # of the error of plain torch in the same dtype
LEAST_ERROR = {torch.float32: 5e-5, torch.bfloat16: 2e-3}  # forgiven whatever plain torch's is
DECODES = [(context, 1) for context in (0, 1, 15, 16, 100, 511, 700, 33)]  # (context, new tokens)
RAGGED = [*DECODES[:4], (0, 40), (30, 17), (256, 64)]
GRAPH_FAMILIES = ("llama", "gemma2", "gpt_oss")
MAY_BE_EAGER = ("gpt_oss",)  # transformers' experts may wait for the device, which no graph holds

Attend = Callable[[Tensor, Tensor, Tensor, PagedMeta, Scoring], Tensor]


def run(check: Check) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(check.device)
    for name, scoring in _scorings(device).items():
        for dtype in (torch.float32, torch.bfloat16):
            with check.item(f"gathered, {name}, {_short(dtype)}"):
                _judge(check, f"gathered, {name}, {_short(dtype)}", _gathered, DECODES, scoring, dtype)
        for label, shape, fixed in (("ragged", RAGGED, False), ("fixed buffers", DECODES, True)):
            with check.item(f"flashinfer {label}, {name}"):
                attend = _flashinfer(device, len(shape) if fixed else None)
                _judge(check, f"flashinfer {label}, {name}", attend, shape, scoring, torch.bfloat16)
    for family in GRAPH_FAMILIES:
        with check.item(f"graphs, {family}"):
            _graphs(check, family)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _scorings(device: torch.device) -> dict[str, Scoring]:
    scale = HEAD_DIM**-0.5
    sinks = torch.linspace(-1, 2, NUM_HEADS, device=device)
    return {
        "plain": Scoring(scale),
        "window": Scoring(scale, window=50),
        "softcap": Scoring(scale, softcap=2.0),
        "sinks": Scoring(scale, window=50, sinks=sinks),
    }


def _flashinfer(device: torch.device, fixed_batch: int | None) -> FlashInfer:
    if device.type != "cuda":
        raise SkippedError("FlashInfer needs a GPU")
    if not flashinfer_available({HEAD_DIM}, torch.bfloat16):
        raise SkippedError("flashinfer is not installed")
    return FlashInfer(device, make_workspace(device), fixed_batch=fixed_batch, max_blocks=NUM_BLOCKS)


def _gathered(query: Tensor, k_cache: Tensor, v_cache: Tensor, meta: PagedMeta, scoring: Scoring) -> Tensor:
    tables, lengths = meta.block_tables.to(query.device), (meta.positions + 1).to(query.device)
    return gathered(query, k_cache, v_cache, tables, lengths, scoring)


def _judge(
    check: Check, name: str, attend: Attend, shape: Sequence[tuple[int, int]], scoring: Scoring, dtype: torch.dtype
) -> None:
    """Errors against plain torch in float32, of `attend` and of plain torch, both in `dtype`."""
    meta = _meta(shape)
    generator = torch.Generator().manual_seed(4)
    query = torch.randn(meta.num_tokens, NUM_HEADS, HEAD_DIM, generator=generator) * 2
    caches = torch.randn(2, NUM_BLOCKS, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM, generator=generator)
    query, caches = query.to(check.device, dtype), caches.to(check.device, dtype)
    exact = attention_torch.paged_attention(query.float(), caches[0].float(), caches[1].float(), meta, scoring)
    plain = attention_torch.paged_attention(query, caches[0], caches[1], meta, scoring)
    found = attend(query, caches[0], caches[1], meta, scoring)
    error, allowed = _largest(found - exact), max(MAX_RATIO * _largest(plain - exact), LEAST_ERROR[dtype])
    check.judge(name, error <= allowed, f"off by {error:.1e}, {allowed:.1e} is allowed", error=error, allowed=allowed)


def _largest(difference: Tensor) -> float:
    return float(difference.float().abs().max())


def _meta(shape: Sequence[tuple[int, int]]) -> PagedMeta:
    """Chunks over shuffled blocks."""
    free = list(range(NUM_BLOCKS))
    random.Random(8).shuffle(free)
    chunks = []
    for context, count in shape:
        end = context + count
        blocks = [free.pop() for _ in range(-(-end // BLOCK_SIZE))]
        chunks.append(Chunk(token_ids=[0] * count, start=context, block_ids=blocks, num_sequence_tokens=end))
    return build_meta(chunks, BLOCK_SIZE)


def _graphs(check: Check, family: str) -> None:
    """The same requests with and without what `native` brings, CUDA graphs above all, as sequences end one by one."""
    prompts = prompts_of(random.Random(6), (1, 3, 8, 21, 40), 160)
    streams = []
    num_captured = 0
    for native in (True, False):
        runner = TorchRunner(make_spec(tiny(family), device=check.device), native=native)
        runner.warm_up()
        driver = Driver(runner, seed=2)
        for i, prompt in enumerate(prompts):
            driver.add(prompt, 6 + 4 * i)
        driver.finish()
        streams.append([stream.tokens for stream in driver.streams])
        num_captured += runner.graphs.num_captured if runner.graphs is not None else 0
    differing = sum(a != b for ours, theirs in zip(*streams, strict=True) for a, b in zip(ours, theirs, strict=True))
    is_enough = num_captured > 0 or check.is_dry or family in MAY_BE_EAGER
    check.judge(
        f"graphs, {family}",
        differing == 0 and is_enough,
        f"{differing} tokens differ from eager steps, {num_captured} graphs",
        differing=differing,
        graphs=num_captured,
    )
