"""One request of the corpus, and what is said in answer, the same whatever API and way of delivery it comes by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PATHS: Mapping[str, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
GRPC = "grpc"
LOGPROB_TOLERANCE = 2e-3  # natural; a batch of another size rounds differently in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """
    Attributes:
        number: Its place in the corpus.
        family: What it exercises.
        api: A key of PATHS, or grpc.
        body: As JSON, without `stream`; over gRPC: `prompt`, and keyword arguments of the SDK's `stream`.
    """

    number: int
    family: str
    api: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One choice. Tokens are texts over HTTP, ids in decimal over gRPC; empty where they were not asked for."""

    text: str = ""
    finish: str = ""
    calls: tuple[tuple[str, str], ...] = ()  # of tools: name, arguments
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`num_tokens`: written for all choices, as the server counts them; None: it did not say."""

    choices: tuple[Said, ...]
    num_tokens: int | None = None


def difference(got: Answer, known: Answer) -> str:
    """What of `got` is not as known; empty: nothing."""
    if len(got.choices) != len(known.choices):
        return f"{len(got.choices)} choices instead of {len(known.choices)}"
    for number, (mine, theirs) in enumerate(zip(got.choices, known.choices, strict=True)):
        if differs := _said_difference(mine, theirs):
            return f"choice {number}: {differs}"
    if None not in (got.num_tokens, known.num_tokens) and got.num_tokens != known.num_tokens:
        return f"{got.num_tokens} tokens counted instead of {known.num_tokens}"
    return ""


def prefix_difference(got: Answer, known: Answer) -> str:
    """As `difference`, of an answer that ended early: what had come must be how the known one begins."""
    if len(got.choices) > len(known.choices):
        return f"{len(got.choices)} choices instead of {len(known.choices)}"
    for number, (mine, theirs) in enumerate(zip(got.choices, known.choices, strict=False)):
        if not theirs.text.startswith(mine.text):
            return f"choice {number}: begins {_clipped(mine.text)}, known is {_clipped(theirs.text)}"
        if mine.tokens != theirs.tokens[: len(mine.tokens)]:
            return f"choice {number}: begins with tokens {mine.tokens[-8:]}"
        for one, other in zip(mine.calls, theirs.calls, strict=False):
            if one[0] and one[0] != other[0]:
                return f"choice {number}: calls {one[0]}, known is {other[0]}"
    return ""


def _said_difference(got: Said, known: Said) -> str:
    for field in ("text", "calls", "tokens", "finish"):
        mine, theirs = getattr(got, field), getattr(known, field)
        if mine != theirs:
            return f"{field} is {_clipped(mine)} instead of {_clipped(theirs)}"
    if len(got.logprobs) != len(known.logprobs):
        return f"{len(got.logprobs)} logprobs instead of {len(known.logprobs)}"
    pairs = list(zip(got.logprobs, known.logprobs, strict=True))
    worst = max((abs(mine - theirs) for mine, theirs in pairs), default=0.0)
    return f"a logprob is off by {worst:.4f}" if worst > LOGPROB_TOLERANCE else ""


def _clipped(value: object, length: int = 400) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"
