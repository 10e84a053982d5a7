"""What a request can ask of sampling: one table for HTTP's bodies, messages, model folders and the sampler.

A row is a field of `SamplingParams` with its `Row`: its name is HTTP's and that of `baton.v1.SamplingParams`, its
default what holds where neither request nor model says anything. Limits that depend on the model or the prompt, and
whose word goes before whose, are `cluster.ingress.sampling`'s. No torch here.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_SHOWN = 40  # characters of a number in a message
_MAX_INT = 2**31 - 1


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Which values a field takes from outside.

    Attributes:
        kind: Of a value in JSON: float, int, bool, str, list[...], or dict[int, float] (token ids to numbers).
        allowed: The range in words, to end "it must be ...".
        choices: Of a word.
        low, high, above: Bounds of a number, or of each value where `kind` is a dict; `above` itself is out.
        of_model: A model folder's generation_config.json may set it.
        read: Makes of a message's value the sampler's.
    """

    kind: Any
    allowed: str = ""
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    of_model: bool = False
    choices: tuple[str, ...] = ()
    read: Callable[[Any], Any] = _as_it_is

    def refusal(self, name: str, value: Any) -> str | None:
        """Why a value of the right type is not taken, None where it is; `name` is what the caller calls the field."""
        if isinstance(value, Mapping):
            each = (self.refusal(f"{name} of token {key}", one) for key, one in value.items())
            return next((refusal for refusal in each if refusal is not None), None)
        if self.choices and value not in self.choices:
            return f"{name} is {value!r}; it must be {self.allowed}"
        if self.kind is bool or not isinstance(value, int | float) or self._holds(value):
            return None
        shown = str(value) if isinstance(value, int) else f"{value:g}"
        if len(shown) > MAX_SHOWN:
            shown = f"{shown[:MAX_SHOWN]}..."
        finite = "" if isinstance(value, int) or math.isfinite(value) else "a finite number, "
        return f"{name} is {shown}; it must be {finite}{self.allowed}"

    def _holds(self, value: float) -> bool:
        is_finite = isinstance(value, int) or math.isfinite(value)  # of a float alone: ints have no bound
        return is_finite and self.low <= value <= self.high and value > self.above


def _row(default: Any, kind: Any, allowed: str = "", **more: Any) -> Any:
    return field(default=default, metadata={"row": Row(kind=kind, allowed=allowed, **more)})


def _none_or_more(value: int) -> int:
    return max(value, 0)


def _is_wanted(word: str) -> bool:
    return word != "none"


def _pairs(value: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(value.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Of one request, checked; every field has a value."""

    # 0: the prompt is read and nothing written
    max_tokens: int = field(
        metadata={"row": Row(kind=int, allowed="at least 1, or 0 with prompt_logprobs or echo", low=0)}
    )
    temperature: float = _row(1.0, float, "0 (greedy) or more", low=0, of_model=True)
    top_p: float = _row(1.0, float, "above 0 and at most 1; 1 turns it off", above=0, high=1, of_model=True)
    top_k: int = _row(  # 0: off
        0, int, f"0 or -1 (off), or 1 to {_MAX_INT}", low=-1, high=_MAX_INT, of_model=True, read=_none_or_more
    )
    min_p: float = _row(0.0, float, "between 0 and 1; 0 turns it off", low=0, high=1, of_model=True)
    seed: int = _row(0, int, "between -2^63 and 2^64 - 1", low=-(2**63), high=2**64 - 1)
    stop_token_ids: frozenset[int] = _row(frozenset(), list[int], read=frozenset)
    min_tokens: int = _row(0, int, "between 0 and max_tokens", low=0, high=_MAX_INT)
    logit_bias: tuple[tuple[int, float], ...] = _row(
        (), dict[int, float], "between -100 and 100", low=-100, high=100, read=_pairs
    )
    # None: none; k: of the sampled token and of the k most likely
    logprobs: int | None = _row(None, int, f"between 0 and {MAX_LOGPROBS}", low=0, high=MAX_LOGPROBS)
    # None: none; k: of each token of the prompt but the first and of the k most likely there, of the model's own logits
    prompt_logprobs: int | None = _row(None, int, f"between 0 and {MAX_LOGPROBS}", low=0, high=MAX_LOGPROBS)
    presence_penalty: float = _row(0.0, float, "between -2 and 2; 0 turns it off", low=-2, high=2)
    frequency_penalty: float = _row(0.0, float, "between -2 and 2; 0 turns it off", low=-2, high=2)
    repetition_penalty: float = _row(1.0, float, "above 0; 1 turns it off", above=0, of_model=True)
    ignore_eos: bool = _row(False, bool)
    speculation: bool = _row(  # whether drafts of what comes next may be verified: the text is the same
        True, str, "'auto' or 'none'", choices=("auto", "none"), read=_is_wanted
    )

    def stops(self, eos_token_ids: Iterable[int]) -> frozenset[int]:
        """Tokens that end the answer, once it has `min_tokens`; those of the model that end a text are given."""
        return self.stop_token_ids if self.ignore_eos else self.stop_token_ids.union(eos_token_ids)


SAMPLER_ROWS: Mapping[str, Row] = {one.name: one.metadata["row"] for one in fields(SamplingParams)}
INGRESS_ROWS: Mapping[str, Row] = {  # no worker reads them: the ingress numbers choices and finds stop strings
    "n": Row(kind=int, allowed=f"between 1 and {MAX_CHOICES}", low=1, high=MAX_CHOICES),
    "stop": Row(kind=list[str]),
    "include_stop_str_in_output": Row(kind=bool),
}
ROWS: Mapping[str, Row] = {**SAMPLER_ROWS, **INGRESS_ROWS}
# What a model may set, where it does not.
NEUTRAL: Mapping[str, Any] = {one.name: one.default for one in fields(SamplingParams) if ROWS[one.name].of_model}
