"""What one request of a workload says: a text, or token ids drawn from seeds when they are needed."""

from dataclasses import dataclass

import numpy as np

from cluster.planner.load.traces import HASHED_TOKENS

SEGMENT_TOKENS = HASHED_TOKENS  # draws are of whole segments, so that equal keys share prefixes

# One token each in common vocabularies: what a chat says instead of token ids.
_WORD_LIST = (
    "the of and to in that was his he it with is for as had you not be her on at by which have or from this him but "
    "all she they were my are me one their so an said them we who would been will no when there if more out up into "
    "do any your what has man could other than our some very time upon about may its only now like little"
)
_WORDS = tuple(_WORD_LIST.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """`length` tokens that depend on the run's seed and `key` alone; a shorter one is a prefix of a longer."""

    key: tuple[int, ...]
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """Either `text` or `segments` is set. `arrival_s` counts from the run's start; None: when a slot is free."""

    index: int
    text: str = ""
    segments: tuple[Segment, ...] = ()
    output_len: int
    arrival_s: float | None = None

    @property
    def input_len(self) -> int:
        """Prompt tokens; 0 for a text, which the server counts."""
        return sum(segment.length for segment in self.segments)


def token_ids(request: LoadRequest, *, seed: int, vocab_size: int) -> list[int]:
    """The prompt of `segments`, each id in [0, vocab_size)."""
    ids: list[int] = []
    for segment in request.segments:
        num_drawn = -(-segment.length // SEGMENT_TOKENS) * SEGMENT_TOKENS
        drawn = np.random.default_rng([seed, *segment.key]).integers(0, vocab_size, num_drawn)
        ids.extend(drawn[: segment.length].tolist())
    return ids


def words(request: LoadRequest, *, seed: int) -> str:
    """The prompt of `segments` as that many short words, about a token each."""
    return " ".join(_WORDS[token_id] for token_id in token_ids(request, seed=seed, vocab_size=len(_WORDS)))
