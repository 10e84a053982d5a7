"""What a step is asked of prompts beside their KV: how likely their tokens are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_ROWS = 512  # tokens of one `PromptScores`: each is a message to the ingress, 90 KB where 20 likely tokens are named


class PromptScores(NamedTuple):
    """How likely consecutive tokens of a prompt are: natural logarithms, of the model's logits as they are.

    Attributes:
        logprobs: float array [tokens].
        ranks: int array [tokens]: 1 for the most likely token, and so on; equals have the same.
        top_ids: int array [tokens, num_top], the most likely tokens at each place, most likely first.
        top_logprobs: float array [tokens, num_top].
    """

    logprobs: Any
    ranks: Any
    top_ids: Any
    top_logprobs: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """How likely the tokens are that follow the first ones of chunk number `chunk`, of a prompt.

    Attributes:
        next_token_ids: One after each of the chunk's first `num_scored` tokens, which is how many there are.
        num_top: How many of the most likely tokens to name at each place.
        found: Where the runner puts what it finds, in order, at most MAX_ROWS tokens a piece.
    """

    chunk: int
    next_token_ids: Sequence[int]
    num_top: int
    found: list[PromptScores] = field(default_factory=list)
