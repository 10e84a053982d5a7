"""The Triton kernels against torch at the shapes of an 8 B model, and what attention and sampling alone take."""

import random
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from bench.gpu_check import card as cards
from bench.gpu_check.card import Card
from bench.gpu_check.check import Check, SkippedError
from workers.model import attention_torch, fp8, sampler
from workers.model.attention import PagedMeta, Scoring, build_meta
from workers.model.contract import Chunk, SampleRow
from workers.model.cuda import penalties
from workers.model.cuda.attention import FlashInfer, flashinfer_available, make_workspace
from workers.model.cuda.blocks import Piece, gather, scatter
from workers.model.cuda.elementwise import HeadNorms, rms_norm, rotate_and_write, silu_mul
from workers.model.cuda.launching import has_triton, reason_of
from workers.model.cuda.ragged import RaggedAttention
from workers.model.cuda.sampling import choose
from workers.model.fp8 import KVScales
from workers.model.logit_adjustments import adjust_by_torch, changes_of
from workers.model.sampling_params import SamplingParams
from workers.model.trees import MAX_TOKENS

BLOCK_SIZE = 16
# Query heads, KV heads, head dimensions, width of a layer and of its MLP, vocabulary: of Qwen3-8B, and of a dry run.
SHAPES = {"cuda": (32, 8, 128, 4096, 12288, 151_936), "cpu": (4, 2, 16, 32, 48, 500)}
# (context, new tokens) of each chunk; where a number of drafts is given, the last chunks are trees of so many.
DECODES = {
    "cuda": {
        "1 x 8k": [(8191, 1)],
        "64 x 1k": [(1023, 1)] * 64,
        "64 x 8k": [(8191, 1)] * 64,
        "256 x 1k": [(1023, 1)] * 256,
    },
    "cpu": {"3 x 40": [(39, 1)] * 3},
}
PROMPTS = {"cuda": {"4k": [(0, 4096)], "2k after 14k": [(14336, 2048)]}, "cpu": {"20": [(0, 20)]}}
RAGGED = {"cuda": [(0, 300), (1000, 1), (17, 40), (4000, 1), (250, 63), (0, 1)], "cpu": [(0, 9), (30, 1), (7, 5)]}
BFLOAT16_ERROR = 2e-2  # of values around 1
SAME_BYTES = 0.9  # of FP8 numbers: torch's are rounded to bfloat16 before
MAX_DIFFERING = 0.01  # of drawn tokens: where two are equal to the last bits


def run(check: Check) -> None:
    if not has_triton():
        raise SkippedError("triton is not installed")
    torch.backends.cuda.matmul.allow_tf32 = False
    dtype = torch.float32 if check.is_dry else torch.bfloat16  # the interpreter's products in bfloat16 are wrong
    with check.item("prompts, tokens and trees of one step"):
        _mix(check, dtype)
    with check.item("between products"):
        _elementwise(check, dtype)
    with check.item("drawn tokens"):
        _sampling(check)
    with check.item("penalties"):
        _penalties(check)
    card = cards.measure(check.device)
    with check.item("blocks"):
        _blocks(check, card, dtype)
    for name, spans in (DECODES[check.device] | PROMPTS[check.device]).items():
        with check.item(f"attention, {name}"):
            _attention(check, card, name, spans, dtype)


def _mix(check: Check, dtype: torch.dtype) -> None:
    spans = RAGGED[check.device]
    trees = [[-1, *(random.Random(3).randrange(-1, i) for i in range(1, num))] for num in (8, MAX_TOKENS)]
    meta = _meta(spans, trees if not check.is_dry else trees[:1])
    query, keys, values = _random_case(check, meta, dtype)
    for name, scoring in {
        "plain": Scoring(0.1),
        "window": Scoring(0.1, window=100),
        "cap and sinks": Scoring(0.1, softcap=5.0, sinks=torch.linspace(-1, 2, query.shape[1], device=query.device)),
    }.items():
        want = attention_torch.paged_attention(query.float(), keys.float(), values.float(), meta, scoring)
        found = RaggedAttention(query.device)(query, keys, values, meta, scoring)
        _judge(check, f"prompts, tokens and trees of one step, {name}", found, want)
    if check.is_dry or torch.cuda.get_device_capability() < (8, 9):
        return
    scales = KVScales.of(torch.full((2, keys.shape[2]), 0.5, device=query.device))
    small = [(cache / 0.5).to(torch.float8_e4m3fn) for cache in (keys, values)]
    read = [cache.float() * 0.5 for cache in small]
    want = attention_torch.paged_attention(query.float(), read[0], read[1], meta, Scoring(0.1))
    found = RaggedAttention(query.device)(query, small[0], small[1], meta, Scoring(0.1), scales)
    _judge(check, "prompts, tokens and trees of one step, FP8", found, want)


def _elementwise(check: Check, dtype: torch.dtype) -> None:
    num_heads, num_kv_heads, dim, width, inner, _ = SHAPES[check.device]
    tokens = 70
    x, weight = _random(check, tokens, width, dtype=dtype), _random(check, width)
    _judge(check, "rms_norm", rms_norm(x, weight, 1e-6), F.rms_norm(x.float(), (width,), weight, 1e-6))
    gates = _random(check, tokens, 2 * inner, dtype=dtype)
    gate, up = gates.float().chunk(2, -1)
    _judge(check, "silu_mul", silu_mul(gates), F.silu(gate) * up)
    qkv = _random(check, tokens, num_heads + 2 * num_kv_heads, dim, dtype=dtype)
    angles = _random(check, tokens, dim)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    norms = HeadNorms(_random(check, dim, seed=3), _random(check, dim, seed=4), 1e-6)
    slots = torch.randperm(2 * tokens, generator=torch.Generator().manual_seed(1))[:tokens].to(check.device)
    k_rows, v_rows = torch.zeros(2, 2 * tokens, num_kv_heads, dim, dtype=dtype, device=check.device)
    query = rotate_and_write(qkv, cos, sin, k_rows, v_rows, slots, norms)
    q, k, v = qkv.float().split_with_sizes([num_heads, num_kv_heads, num_kv_heads], 1)
    for name, found, heads, norm in (("queries", query, q, norms.query), ("keys", k_rows[slots], k, norms.key)):
        normed = F.rms_norm(heads, (dim,), norm, norms.eps)
        first, second = normed.chunk(2, -1)
        turned = normed * cos.float()[:, None] + torch.cat([-second, first], -1) * sin.float()[:, None]
        _judge(check, f"rotate_and_write, {name}", found, turned)
    _judge(check, "rotate_and_write, values", v_rows[slots], v)
    scales = KVScales.of(torch.linspace(0.1, 3.0, 2 * num_kv_heads, device=check.device).view(2, num_kv_heads))
    kept = torch.zeros(2, *k_rows.shape, dtype=torch.uint8, device=check.device)
    rotate_and_write(qkv, cos, sin, kept[0], kept[1], slots, norms, scales)
    for name, found, rows, inverse in zip(("keys", "values"), kept, (k_rows, v_rows), scales.inverses, strict=True):
        nearest = fp8.to_bytes(rows[slots].transpose(0, 1), inverse).transpose(0, 1)
        same = float((found[slots] == nearest).float().mean())
        check.judge(f"rotate_and_write, {name} in FP8", same >= SAME_BYTES, f"{same:.2%} of bytes are torch's")


def _blocks(check: Check, card: Card, dtype: torch.dtype) -> None:
    """What a link's message of two layers moves: gathered, scattered to other blocks, and gathered from there."""
    num_tokens = 2048 if not check.is_dry else 48
    heads, dim = SHAPES[check.device][1:3]
    num_blocks = num_tokens // BLOCK_SIZE
    layers = [_random(check, 2, num_blocks * BLOCK_SIZE, heads * dim, dtype=dtype, seed=seed) for seed in (1, 2)]
    ids, other = (random.Random(seed).sample(range(num_blocks), num_blocks) for seed in (3, 4))
    flats = [torch.zeros(layer.nbytes, dtype=torch.uint8, device=check.device) for layer in layers]
    pieces = [Piece(layer, BLOCK_SIZE, ids, 0, num_tokens, flat) for layer, flat in zip(layers, flats, strict=True)]
    gather(pieces)
    slots = torch.cat([torch.arange(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE) for block in ids]).to(check.device)
    is_right = all(flat.view(dtype).equal(layer[:, slots].view(-1)) for layer, flat in zip(layers, flats, strict=True))
    scatter([piece._replace(block_ids=other) for piece in pieces])
    again = [piece._replace(block_ids=other, flat=torch.zeros_like(piece.flat)) for piece in pieces]
    gather(again)
    is_right = is_right and all(piece.flat.equal(flat) for piece, flat in zip(again, flats, strict=True))
    seconds = cards.seconds_of(partial(gather, pieces), check.device, *_runs(check))
    rate = 2 * sum(map(len, flats)) / seconds
    text = (
        f"{'every byte is right' if is_right else 'bytes are wrong'}, {1e6 * seconds:.0f} us by {rate / 1e9:.0f} GB/s"
    )
    check.judge("blocks", is_right, f"{text}, {rate / card.bytes_per_s:.0%} of a copy", us=1e6 * seconds)


def _sampling(check: Check) -> None:
    vocab_size = SHAPES[check.device][-1]
    num_rows = 64 if not check.is_dry else 6
    logits = _random(check, num_rows, vocab_size) * 3
    rng = random.Random(2)
    rows = [_row(i, rng.choice([0.0, 0.7, 1.0]), rng.choice([0, 40]), rng.choice([1.0, 0.95])) for i in range(num_rows)]
    given = [(one.params.temperature, one.params.top_p, one.params.min_p, one.params.top_k) for one in rows]
    keys = [sampler._key(row) for row in rows]
    found = choose(logits, given, keys).tolist()
    want = [one.token_id for one in sampler.sample(logits.cpu(), rows)]
    differing = sum(a != b for a, b in zip(found, want, strict=True))
    text = f"{differing} of {num_rows} differ from the CPU's"
    check.judge("drawn tokens", differing <= MAX_DIFFERING * num_rows, text, differing=differing)
    for name, sampling in {
        "greedy": (0.0, 1.0, 0.0, 0),
        "top_p": (1.0, 0.95, 0.0, 0),
        "all drawn": (1.0, 1.0, 0.0, 0),
    }.items():
        draw = partial(choose, logits, [sampling] * num_rows, keys)
        seconds = cards.seconds_of(draw, check.device, *_runs(check))
        check.figure(
            f"sampling, {name}", f"{1e6 * seconds:.0f} us for {num_rows} rows of {vocab_size}", us=1e6 * seconds
        )


def _penalties(check: Check) -> None:
    """Of rows that ask for everything, each after a token that only the device knows, against torch on the CPU."""
    vocab_size = SHAPES[check.device][-1]
    num_rows, num_tokens = (64, 2000) if not check.is_dry else (3, 40)
    logits, rng = _random(check, num_rows, vocab_size) * 3, random.Random(5)
    params = SamplingParams(
        max_tokens=num_tokens,
        temperature=1.0,
        min_tokens=num_tokens,
        repetition_penalty=1.1,
        frequency_penalty=0.3,
        presence_penalty=-0.5,
        logit_bias=tuple((token, rng.uniform(-5, 5)) for token in rng.sample(range(vocab_size), 20)),
    )
    rows = [
        SampleRow(
            chunk=i,
            choice=0,
            params=params,
            prompt_token_ids=tuple(rng.randrange(vocab_size) for _ in range(num_tokens)),
            output_token_ids=[rng.randrange(vocab_size) for _ in range(num_tokens // 2)],
            follows=num_rows - 1 - i,
        )
        for i in range(num_rows)
    ]
    sampled = torch.tensor([row.output_token_ids[0] if i % 2 else i for i, row in enumerate(rows)])
    pending = sampled.to(check.device)
    changes = changes_of(rows, (1, 2), vocab_size)
    assert changes is not None
    want = adjust_by_torch(logits.cpu(), changes, sampled)
    found = penalties.adjust(logits, changes, pending).cpu()
    differing = int((found != want).sum())
    seconds = cards.seconds_of(partial(penalties.adjust, logits, changes, pending), check.device, *_runs(check))
    text = (
        f"{differing} logits differ from the CPU's, {1e6 * seconds:.0f} us for {num_rows} rows, a copy of them included"
    )
    check.judge("penalties", differing == 0, text, us=1e6 * seconds, differing=differing)


def _attention(check: Check, card: Card, name: str, spans: Sequence[tuple[int, int]], dtype: torch.dtype) -> None:
    """Of one layer, launches included, by a graph where there is a GPU: what it takes of the card."""
    meta = _meta(spans)
    query, keys, values = _random_case(check, meta, dtype)
    scoring = Scoring(query.shape[2] ** -0.5)
    ways = {"triton": RaggedAttention(query.device)}
    if not check.is_dry and flashinfer_available({query.shape[2]}, dtype):
        ways["flashinfer"] = FlashInfer(query.device, make_workspace(query.device))  # type: ignore[assignment]
    read = sum(context + count for context, count in spans) * 2 * keys.shape[2] * keys.shape[3] * dtype.itemsize
    pairs = sum(count * context + count * (count + 1) // 2 for context, count in spans)
    flops = 4 * pairs * query.shape[1] * query.shape[2]
    steps: dict[str, Callable[[], object]] = {
        way: partial(attend, query, keys, values, meta, scoring) for way, attend in ways.items()
    }
    steps["torch's FlashAttention-2, without blocks"] = _flash(check, spans, dtype)
    for way, step in steps.items():
        try:
            step()  # plans and compiles
        except RuntimeError as error:
            if way in ways:
                raise
            check.figure(f"attention, {name}, {way}", f"does not go with it: {reason_of(error)}")
            continue
        seconds = cards.seconds_of(step if check.is_dry else _replayed(step), check.device, *_runs(check))
        figures = {
            "us": 1e6 * seconds,
            "bytes": read / seconds / card.bytes_per_s,
            "flops": flops / seconds / card.flops,
        }
        shares = f"{figures['bytes']:.0%} of the card's bandwidth, {figures['flops']:.0%} of its products"
        check.figure(f"attention, {name}, {way}", f"{1e6 * seconds:.0f} us, {shares}", **figures)


def _flash(check: Check, spans: Sequence[tuple[int, int]], dtype: torch.dtype) -> Callable[[], Tensor]:
    """The same sizes, of chunks that are all alike, over keys and values that lie side by side."""
    num_heads, num_kv_heads, dim = SHAPES[check.device][:3]
    context, count = spans[0]
    total = context + count
    query = _random(check, len(spans), num_heads, count, dim, dtype=dtype)
    keys, values = (_random(check, len(spans), num_kv_heads, total, dim, dtype=dtype, seed=seed) for seed in (1, 2))
    bias = causal_lower_right(count, total) if count > 1 and context else None

    def attend() -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            is_causal = count > 1 and not context
            return F.scaled_dot_product_attention(query, keys, values, bias, is_causal=is_causal, enable_gqa=True)

    return attend


def _runs(check: Check) -> tuple[int, int]:
    """Timed ones, and some before them: interpreted kernels are slow."""
    return (1, 0) if check.is_dry else (cards.NUM_RUNS, cards.NUM_WARM_RUNS)


def _replayed(step: Callable[[], object]) -> Callable[[], object]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _row(number: int, temperature: float, top_k: int, top_p: float) -> SampleRow:
    params = SamplingParams(max_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p, seed=number)
    return SampleRow(chunk=0, choice=0, params=params, prompt_token_ids=(1,), output_token_ids=())


def _meta(spans: Sequence[tuple[int, int]], trees: Sequence[Sequence[int]] = ()) -> PagedMeta:
    """Chunks over shuffled blocks; trees after 70 tokens each."""
    whole = [(context, count, ()) for context, count in spans] + [(70, len(tree) + 1, tuple(tree)) for tree in trees]
    counts = [-(-(context + count) // BLOCK_SIZE) for context, count, _ in whole]
    free = list(range(sum(counts)))
    random.Random(8).shuffle(free)
    chunks = []
    for (context, count, parents), num_blocks in zip(whole, counts, strict=True):
        blocks = [free.pop() for _ in range(num_blocks)]
        end = context + count
        chunks.append(
            Chunk(token_ids=[0] * count, start=context, block_ids=blocks, num_sequence_tokens=end, parents=parents)
        )
    return build_meta(chunks, BLOCK_SIZE)


def _random_case(check: Check, meta: PagedMeta, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    num_heads, num_kv_heads, dim = SHAPES[check.device][:3]
    num_blocks = max(map(max, meta.block_ids)) + 1
    size = (num_blocks, BLOCK_SIZE, num_kv_heads, dim)
    keys, values = (_random(check, *size, dtype=dtype, seed=seed) for seed in (1, 2))
    return _random(check, meta.num_tokens, num_heads, dim, dtype=dtype), keys, values


def _random(check: Check, *size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator(check.device).manual_seed(seed)
    return torch.randn(*size, generator=generator, device=check.device, dtype=dtype)


def _judge(check: Check, name: str, found: Tensor, want: Tensor) -> None:
    error, allowed = float((found.float() - want).abs().max()), BFLOAT16_ERROR * max(float(want.abs().max()), 1.0)
    check.judge(name, error <= allowed, f"off by {error:.1e}, {allowed:.1e} is allowed", error=error, allowed=allowed)
