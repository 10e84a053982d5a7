"""Makes the requests of a run: synthetic, from a file of prompts, or from a trace.

Notes say in plain words whatever was changed on the way (spread, clipped, guessed); the caller prints them.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from baton.errors import ConfigError
from cluster.load.arrival import gamma_arrivals_s
from cluster.load.options import LoadOptions
from cluster.load.requests import SEGMENT_TOKENS, LoadRequest, Segment
from cluster.load.trace_file import read_trace
from cluster.planner.load.traces import TraceRow, spread_ticks

DEFAULT_NUM_PROMPTS = 100
DEFAULT_INPUT_LEN = 512
DEFAULT_OUTPUT_LEN = 128

# First part of a segment's key, so that warm-up, synthetic, unhashed and hashed prompts never share tokens.
_SYNTHETIC, _HASHED, _WARMUP = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    requests: tuple[LoadRequest, ...]
    notes: tuple[str, ...]


def make_workload(options: LoadOptions, *, max_model_len: int | None) -> Workload:
    """The requests in the order they are due.

    Args:
        options: Checked ones.
        max_model_len: The served model's context; None when the server does not say.
    Raises:
        ConfigError: A file is wrong, or a request does not fit in the context and `clip` is off.
    """
    rng = np.random.default_rng([options.seed, _SYNTHETIC])
    notes: list[str] = []
    if options.trace is not None:
        requests = _of_trace(options, options.trace, rng, notes)
    elif options.prompts is not None:
        requests = _of_prompts(options, options.prompts)
    else:
        requests = _synthetic(options, rng)
    if max_model_len is not None:
        requests = _fit(requests, max_model_len, clip=options.clip, notes=notes)
    if options.rate is not None:
        arrivals_s = gamma_arrivals_s(options.rate, options.burstiness or 1.0, len(requests), rng)
        requests = [
            replace(request, arrival_s=arrival_s) for request, arrival_s in zip(requests, arrivals_s, strict=True)
        ]
    return Workload(requests=tuple(requests), notes=tuple(notes))


def warmup_requests(workload: Workload, count: int) -> list[LoadRequest]:
    """`count` requests of the workload's lengths but other tokens, so that they fill no cache it would hit."""
    chosen = [workload.requests[number % len(workload.requests)] for number in range(count)]
    return [
        replace(
            request,
            index=number,
            text="",
            segments=(Segment(key=(_WARMUP, number), length=request.input_len or 32),),
            arrival_s=None,
        )
        for number, request in enumerate(chosen)
    ]


def _synthetic(options: LoadOptions, rng: np.random.Generator) -> list[LoadRequest]:
    count = options.num_prompts or DEFAULT_NUM_PROMPTS
    input_lens = _lengths(options.input_len or DEFAULT_INPUT_LEN, options.range_ratio, count, rng)
    output_lens = _lengths(options.output_len or DEFAULT_OUTPUT_LEN, options.range_ratio, count, rng)
    return [
        LoadRequest(index=index, segments=(Segment(key=(_SYNTHETIC, index), length=input_len),), output_len=output_len)
        for index, (input_len, output_len) in enumerate(zip(input_lens, output_lens, strict=True))
    ]


def _lengths(mean: int, ratio: float, count: int, rng: np.random.Generator) -> list[int]:
    """Uniform in [mean * (1 - ratio), mean * (1 + ratio)], both ends included, at least 1."""
    low, high = max(1, math.floor(mean * (1 - ratio))), math.ceil(mean * (1 + ratio))
    lengths: list[int] = rng.integers(low, high + 1, count).tolist()
    return lengths


def _of_prompts(options: LoadOptions, path: Path) -> list[LoadRequest]:
    texts = read_prompts(path)[: options.limit]
    count = options.num_prompts or len(texts)
    output_len = options.output_len or DEFAULT_OUTPUT_LEN
    return [LoadRequest(index=index, text=texts[index % len(texts)], output_len=output_len) for index in range(count)]


def read_prompts(path: Path) -> list[str]:
    """The non-empty lines of a text file, or the `prompt` of each line of a .jsonl file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"--prompts {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--prompts {path} is not UTF-8 text: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ConfigError(f"--prompts {path} holds no prompts")
    if path.suffix != ".jsonl":
        return [line for _, line in numbered]
    return [_prompt(path, number, line) for number, line in numbered]


def _prompt(path: Path, number: int, line: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{number} is not JSON: {error}") from error
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise ConfigError(f"{path}:{number} needs a key 'prompt' with a text that is not empty")
    return prompt


def _of_trace(options: LoadOptions, path: Path, rng: np.random.Generator, notes: list[str]) -> list[LoadRequest]:
    rows, tick_s = spread_ticks(read_trace(path, limit=options.limit), rng)
    if options.concurrency is not None:
        notes.append("the trace's times are not used: --concurrency sends a request as soon as another ends")
    elif tick_s:
        notes.append(f"the trace's times are rounded to {tick_s:g} s; spread over their ticks at random")
    speed = options.trace_speed or 1.0
    return [
        LoadRequest(
            index=index,
            segments=_segments(row, index),
            output_len=row.output_len,
            arrival_s=None if options.concurrency is not None else row.time_s / speed,
        )
        for index, row in enumerate(rows)
    ]


def _segments(row: TraceRow, index: int) -> tuple[Segment, ...]:
    if not row.hash_ids:
        return (Segment(key=(_SYNTHETIC, index), length=row.input_len),)
    whole = [Segment(key=(_HASHED, hash_id), length=SEGMENT_TOKENS) for hash_id in row.hash_ids[:-1]]
    rest = row.input_len - SEGMENT_TOKENS * len(whole)
    return (*whole, Segment(key=(_HASHED, row.hash_ids[-1]), length=rest))


def _fit(requests: list[LoadRequest], max_model_len: int, *, clip: bool, notes: list[str]) -> list[LoadRequest]:
    """Outputs cut to half the context at most, then prompts to what is left of it, keeping their heads."""
    fitted = [_clipped(request, max_model_len) for request in requests]
    changed = [before for before, after in zip(requests, fitted, strict=True) if before is not after]
    if changed and not clip:
        first = changed[0]
        raise ConfigError(
            f"request {first.index} needs {first.input_len} + {first.output_len} tokens, the model's context has "
            f"{max_model_len}; add --clip to cut the {len(changed)} requests that do not fit"
        )
    if changed:
        notes.append(f"{len(changed)} of {len(requests)} requests clipped to the context of {max_model_len} tokens")
    return fitted


def _clipped(request: LoadRequest, max_model_len: int) -> LoadRequest:
    if request.input_len + request.output_len <= max_model_len:
        return request
    output_len = min(request.output_len, max(1, max_model_len // 2))
    room = max_model_len - output_len
    segments: list[Segment] = []
    for segment in request.segments:
        if room > 0:
            segments.append(replace(segment, length=min(segment.length, room)))
        room -= segment.length
    return replace(request, segments=tuple(segments), output_len=output_len)
