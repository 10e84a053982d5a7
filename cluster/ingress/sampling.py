"""The one place where sampling parameters are checked, for HTTP and gRPC alike.

A caller's options come in as plain values, None where nothing was said; what goes out is the worker's message with
`n`, `max_tokens` and `seed` always set.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from baton.errors import InvalidRequestError
from baton.v1 import inference_pb2

T = TypeVar("T", int, float)

MAX_CHOICES = 128
MAX_ANSWERS = 1024  # of all prompts of one request: each is state and a share of every step
MAX_LOGPROBS = 20
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
_SEED_RANGE = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """What a caller asked for. `stop` and `include_stop_str_in_output` stay with the ingress."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    n: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int | None = None
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    max_tokens_field: str = "max_tokens"  # the name the caller used, for messages
    logprobs_field: str = "logprobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    max_model_len: int  # tokens, prompt and answer together
    max_request_tokens: int  # what the blocks of the largest worker hold
    vocab_size: int

    @property
    def max_tokens(self) -> int:
        return min(self.max_model_len, self.max_request_tokens)


@dataclass(frozen=True, slots=True)
class _Range:
    low: float
    high: float
    text: str
    includes_low: bool = True

    def holds(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and value <= self.high
            and (value >= self.low if self.includes_low else value > self.low)
        )


_RANGES = {
    "temperature": _Range(0, math.inf, "0 (greedy) or more; 1 is the default"),
    "top_p": _Range(0, 1, "above 0 and at most 1; 1 turns it off", includes_low=False),
    "top_k": _Range(-1, 2**31 - 1, "0 or -1 (off), or 1 to 2147483647"),
    "min_p": _Range(0, 1, "between 0 and 1; 0 turns it off"),
    "n": _Range(1, MAX_CHOICES, f"between 1 and {MAX_CHOICES}"),
    "min_tokens": _Range(0, 2**31 - 1, "between 0 and max_tokens"),
    "seed": _Range(-(2**63), 2**64 - 1, "between -2^63 and 2^64 - 1"),
    "presence_penalty": _Range(-2, 2, "between -2 and 2; 0 turns it off"),
    "frequency_penalty": _Range(-2, 2, "between -2 and 2; 0 turns it off"),
    "repetition_penalty": _Range(0, math.inf, "above 0; 1 turns it off", includes_low=False),
}


def check_prompt(num_tokens: int, limits: Limits, name: str = "prompt") -> None:
    """Raises: InvalidRequestError: nothing to read, or no room left for one token of an answer."""
    if num_tokens == 0:
        raise InvalidRequestError(f"{name} has no tokens; send at least one character or token id", field=name)
    if num_tokens < limits.max_tokens:
        return
    if num_tokens >= limits.max_model_len:
        limit = f"the context of {limits.max_model_len} tokens"
    else:
        limit = f"the {limits.max_request_tokens} tokens that a worker's blocks hold"
    raise InvalidRequestError(
        f"{name} has {num_tokens} tokens, which with one token of answer is over {limit}; "
        f"shorten it to at most {limits.max_tokens - 1}",
        field=name,
    )


def check_answers(num_prompts: int, options: SamplingOptions) -> None:
    """Raises: InvalidRequestError: so many prompts and choices that one request would hold up all others."""
    num_answers = num_prompts * (options.n or 1)
    if num_answers > MAX_ANSWERS:
        raise InvalidRequestError(
            f"n is {options.n or 1}, which for {num_prompts} prompts makes {num_answers} answers; "
            f"ask for at most {MAX_ANSWERS} in one request",
            field="n",
        )


def check_token_ids(token_ids: Sequence[int], limits: Limits, name: str) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < limits.vocab_size:
            raise InvalidRequestError(
                f"{name} has token id {token_id}; ids of this model are between 0 and {limits.vocab_size - 1}",
                field=name,
            )


def check_options(options: SamplingOptions, limits: Limits) -> None:
    """All that does not depend on the prompt. Raises: InvalidRequestError."""
    for name, allowed in _RANGES.items():
        value = getattr(options, name)
        if value is not None and not allowed.holds(value):
            shown = value if isinstance(value, int) else f"{value:g}"
            raise InvalidRequestError(f"{name} is {shown}; it must be {allowed.text}", field=name)
    _check_logprobs(options)
    _check_stops(options)
    check_token_ids(options.stop_token_ids, limits, "stop_token_ids")
    check_token_ids(tuple(options.logit_bias), limits, "logit_bias")
    for token_id, bias in options.logit_bias.items():
        if not -100 <= bias <= 100:
            raise InvalidRequestError(
                f"logit_bias of token {token_id} is {bias:g}; it must be between -100 and 100", field="logit_bias"
            )


def to_message(options: SamplingOptions, num_prompt_tokens: int, limits: Limits) -> inference_pb2.SamplingParams:
    """The worker's message for one prompt; draws a seed where none was asked for.

    Raises: InvalidRequestError: `max_tokens` is 0, does not fit behind the prompt, or is below `min_tokens`.
    """
    max_tokens = _max_tokens(options, num_prompt_tokens, limits)
    seed = secrets.randbits(63) if options.seed is None else options.seed % _SEED_RANGE
    message = inference_pb2.SamplingParams(
        max_tokens=max_tokens,
        n=options.n or 1,
        seed=seed,
        stop_token_ids=options.stop_token_ids,
        logit_bias=dict(options.logit_bias),
        ignore_eos=options.ignore_eos,
    )
    for name in (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "min_tokens",
        "logprobs",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    ):
        value = getattr(options, name)
        if value is not None:
            setattr(message, name, value)
    return message


def from_message(message: inference_pb2.SamplingParams) -> SamplingOptions:
    """The options of a gRPC request. Floats of the wire keep their seven digits in messages."""

    def said(name: str, value: T) -> T | None:
        return value if message.HasField(name) else None

    return SamplingOptions(
        max_tokens=said("max_tokens", message.max_tokens),
        temperature=said("temperature", message.temperature),
        top_p=said("top_p", message.top_p),
        top_k=said("top_k", message.top_k),
        min_p=said("min_p", message.min_p),
        n=said("n", message.n),
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        min_tokens=said("min_tokens", message.min_tokens),
        seed=said("seed", message.seed),
        logit_bias=dict(message.logit_bias),
        logprobs=said("logprobs", message.logprobs),
        presence_penalty=said("presence_penalty", message.presence_penalty),
        frequency_penalty=said("frequency_penalty", message.frequency_penalty),
        repetition_penalty=said("repetition_penalty", message.repetition_penalty),
        ignore_eos=message.ignore_eos,
        include_stop_str_in_output=message.include_stop_str_in_output,
    )


def _max_tokens(options: SamplingOptions, num_prompt_tokens: int, limits: Limits) -> int:
    name = options.max_tokens_field
    room = limits.max_tokens - num_prompt_tokens
    max_tokens = room if options.max_tokens is None else options.max_tokens
    if max_tokens < 1:
        raise InvalidRequestError(f"{name} is {max_tokens}; it must be at least 1", field=name)
    if max_tokens > room:
        raise InvalidRequestError(
            f"{name} is {max_tokens}, but a prompt of {num_prompt_tokens} tokens leaves {room} of {limits.max_tokens}; "
            f"ask for at most {room}, or leave {name} out to get as much as fits",
            field=name,
        )
    if options.min_tokens is not None and options.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens is {options.min_tokens}, above {name} of {max_tokens}; lower it", field="min_tokens"
        )
    return max_tokens


def _check_logprobs(options: SamplingOptions) -> None:
    if options.logprobs is not None and not 0 <= options.logprobs <= MAX_LOGPROBS:
        name = options.logprobs_field
        raise InvalidRequestError(f"{name} is {options.logprobs}; it must be between 0 and {MAX_LOGPROBS}", field=name)


def _check_stops(options: SamplingOptions) -> None:
    if len(options.stop) > MAX_STOPS:
        raise InvalidRequestError(f"stop has {len(options.stop)} strings; send at most {MAX_STOPS}", field="stop")
    for stop in options.stop:
        if not stop:
            raise InvalidRequestError("stop has an empty string; leave it out", field="stop")
        if len(stop) > MAX_STOP_CHARACTERS:
            raise InvalidRequestError(
                f"stop has a string of {len(stop)} characters; use at most {MAX_STOP_CHARACTERS}", field="stop"
            )
