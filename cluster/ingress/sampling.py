"""The one place where sampling parameters are checked, for HTTP and gRPC alike, by the rows of `SamplingParams`.

A caller's options come in as plain values by name; what goes out is the worker's message with `n`, `max_tokens` and
`seed` always set.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from baton.errors import InvalidRequestError
from baton.v1 import inference_pb2
from workers.model.sampling_params import INGRESS_ROWS, ROWS

MAX_ANSWERS = 1024  # of all prompts of one request: each is state and a share of every step
MAX_PROMPT_LOGPROBS = 1_000_000  # values of one answer: of 47,000 tokens with 20 likely ones each, or 500,000 with one
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
_SEED_RANGE = 1 << 64
_KEPT = INGRESS_ROWS.keys() - {"n"}  # workers are not told


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """What a caller asked for.

    Attributes:
        said: Values by the names of `ROWS`, of the rows' types; what was left out is not there.
        echo: The answer's text begins with the prompt's.
        names: Where the caller used another name for a field: that, for messages.
        max_tokens_fit: `max_tokens` is a bound that may lie above what fits: as much as fits, then.
    """

    said: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    max_tokens_fit: bool = False
    echo: bool = False

    @property
    def may_write_nothing(self) -> bool:
        """Whether reading the prompt is of use by itself."""
        return self.echo or "prompt_logprobs" in self.said

    @property
    def writes_nothing(self) -> bool:
        return self.said.get("max_tokens") == 0

    @property
    def n(self) -> int:
        return int(self.said.get("n", 1))

    @property
    def stop(self) -> tuple[str, ...]:
        return tuple(self.said.get("stop", ()))

    @property
    def include_stop(self) -> bool:
        return bool(self.said.get("include_stop_str_in_output"))

    def name(self, field_name: str) -> str:
        return self.names.get(field_name, field_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    max_model_len: int  # tokens, prompt and answer together
    max_request_tokens: int  # what the blocks of the largest worker hold
    vocab_size: int

    @property
    def max_tokens(self) -> int:
        return min(self.max_model_len, self.max_request_tokens)


def check_prompt(num_tokens: int, limits: Limits, name: str = "prompt", *, is_all: bool = False) -> None:
    """`is_all`: nothing is to be written after it.

    Raises: InvalidRequestError: nothing to read, or no room left for one token of an answer.
    """
    if num_tokens == 0:
        raise InvalidRequestError(f"{name} has no tokens; send at least one character or token id", field=name)
    if num_tokens + (not is_all) <= limits.max_tokens:
        return
    if num_tokens >= limits.max_model_len:
        limit = f"the context of {limits.max_model_len} tokens"
    else:
        limit = f"the {limits.max_request_tokens} tokens that a worker's blocks hold"
    with_answer = "" if is_all else "with one token of answer "
    raise InvalidRequestError(
        f"{name} has {num_tokens} tokens, which {with_answer}is over {limit}; "
        f"shorten it to at most {limits.max_tokens - (not is_all)}",
        field=name,
    )


def check_answers(num_prompts: int, options: SamplingOptions) -> None:
    """Raises: InvalidRequestError: so many prompts and choices that one request would hold up all others."""
    num_answers = num_prompts * options.n
    if num_answers > MAX_ANSWERS:
        raise InvalidRequestError(
            f"n is {options.n}, which for {num_prompts} prompts makes {num_answers} answers; "
            f"ask for at most {MAX_ANSWERS} in one request",
            field="n",
        )


def check_prompt_logprobs(num_tokens: int, options: SamplingOptions) -> None:
    """Of all prompts, which have `num_tokens` together.

    Raises: InvalidRequestError: so many values that one answer would take hundreds of megabytes.
    """
    num_top = options.said.get("prompt_logprobs")
    if num_top is None:
        return
    num_values = num_tokens * options.n * (num_top + 1)
    if num_values > MAX_PROMPT_LOGPROBS:
        name = options.name("prompt_logprobs")
        raise InvalidRequestError(
            f"{name} is {num_top}, which for {num_tokens} tokens of prompts and n of {options.n} makes {num_values} "
            f"values; ask for at most {MAX_PROMPT_LOGPROBS} in one request: fewer likely tokens, prompts or choices",
            field=name,
        )


def check_token_ids(token_ids: Sequence[int], limits: Limits, name: str) -> None:
    if not token_ids or (min(token_ids) >= 0 and max(token_ids) < limits.vocab_size):  # nearly always, and fast
        return
    for token_id in token_ids:
        if not 0 <= token_id < limits.vocab_size:
            raise InvalidRequestError(
                f"{name} has token id {token_id}; ids of this model are between 0 and {limits.vocab_size - 1}",
                field=name,
            )


def check_options(options: SamplingOptions, limits: Limits) -> None:
    """All that does not depend on the prompt. Raises: InvalidRequestError."""
    for field_name, value in options.said.items():
        name = options.name(field_name)
        refusal = ROWS[field_name].refusal(name, value)
        if refusal is not None:
            raise InvalidRequestError(refusal, field=name)
    if options.writes_nothing and not options.may_write_nothing:
        refusal = f"{options.name('max_tokens')} is 0; it must be {ROWS['max_tokens'].allowed}"
        raise InvalidRequestError(refusal, field=options.name("max_tokens"))
    _check_stops(options.stop)
    for name in ("stop_token_ids", "logit_bias"):
        check_token_ids(tuple(options.said.get(name, ())), limits, name)


def to_message(
    options: SamplingOptions, num_prompt_tokens: int, limits: Limits, defaults: Mapping[str, Any]
) -> inference_pb2.SamplingParams:
    """The worker's message for one prompt; draws a seed where none was asked for.

    Args:
        defaults: The model's, by the names of `ROWS`, for what was left out.
    Raises: InvalidRequestError: `max_tokens` does not fit behind the prompt, or is below `min_tokens`.
    """
    values = {"n": 1, "seed": secrets.randbits(63), **defaults, **options.said}
    values["seed"] %= _SEED_RANGE
    values["max_tokens"] = _max_tokens(options, num_prompt_tokens, limits)
    return inference_pb2.SamplingParams(**{name: value for name, value in values.items() if name not in _KEPT})


def from_message(message: inference_pb2.SamplingParams) -> SamplingOptions:
    """The options of a gRPC request. Floats of the wire keep their seven digits in messages."""
    said = {descriptor.name: value for descriptor, value in message.ListFields()}
    said.pop("structured_output", None)  # see `cluster.ingress.structured.message`
    return SamplingOptions(said=said)


def _max_tokens(options: SamplingOptions, num_prompt_tokens: int, limits: Limits) -> int:
    name = options.name("max_tokens")
    room = limits.max_tokens - num_prompt_tokens
    max_tokens: int = options.said.get("max_tokens", room)
    if max_tokens > room and options.max_tokens_fit:
        max_tokens = room
    if max_tokens > room:
        raise InvalidRequestError(
            f"{name} is {max_tokens}, but a prompt of {num_prompt_tokens} tokens leaves {room} of {limits.max_tokens}; "
            f"ask for at most {room}, or leave {name} out to get as much as fits",
            field=name,
        )
    min_tokens: int = options.said.get("min_tokens", 0)
    if min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens is {min_tokens}, above {name} of {max_tokens}; lower it", field="min_tokens"
        )
    return max_tokens


def _check_stops(stops: Sequence[str]) -> None:
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(f"stop has {len(stops)} strings; send at most {MAX_STOPS}", field="stop")
    for stop in stops:
        if not stop:
            raise InvalidRequestError("stop has an empty string; leave it out", field="stop")
        if len(stop) > MAX_STOP_CHARACTERS:
            raise InvalidRequestError(
                f"stop has a string of {len(stop)} characters; use at most {MAX_STOP_CHARACTERS}", field="stop"
            )
