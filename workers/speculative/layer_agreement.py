"""How often a draft model that attends with several layers at once says what it says exactly, on sample text.

Measured when a gang starts, if nobody has said how many: the most that agree well enough are taken, up to as many as
there are ranks. Every rank runs the same steps; the leader alone sees logits, and tells the others what it chose.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from workers.model.contract import Chunk, ChunkKind, Row

ENOUGH = 0.93  # of the exact draft's tokens: what EasySpec loses at most
CONTEXT, WINDOW = 32, 4  # tokens: read exactly before the first drafts, drafted after each other
MAX_TOKENS = 160
SAMPLE = (
    "The ferry left the island at noon with eleven passengers, two bicycles and a crate of apples. The captain said "
    "that the wind would turn before the evening, and that nobody should expect to be home for dinner. In the cabin a "
    "teacher was explaining to her daughter how the tides work: the moon pulls at the water, the water rises, and the "
    "boats rise with it.\n\n"
    "def mean(values):\n    total = 0\n    for value in values:\n        total = total + value\n"
    "    return total / len(values)\n\n"
    "1. Peel the apples. 2. Cut the apples into slices. 3. Put the slices into a pot. 4. Add sugar, and stir the pot."
)

# (chunks, rows) -> [their tokens, vocab_size], None on ranks that do not lead
Compute = Callable[[Sequence[Chunk], Sequence[Row]], Tensor | None]


def sample_tokens(folder: Path, limit: int) -> list[int]:
    """Of the sample text, by the model's own tokenizer; empty where it has none, or `limit` is too short."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return []
    from tokenizers import Tokenizer

    tokens: list[int] = Tokenizer.from_file(str(path)).encode(SAMPLE).ids[: min(limit, MAX_TOKENS)]
    return tokens if len(tokens) >= CONTEXT + WINDOW else []


def agreement(compute: Compute, tokens: Sequence[int], blocks: Sequence[int]) -> float:
    """The share of places at which near and exact computation find the same token most likely; 0 on other ranks.

    Windows are drafted from the last to the first: what one leaves in the blocks comes after all that the next reads.
    """
    exact = _likeliest(compute, tokens, 0, len(tokens), blocks, ChunkKind.PREFILL)
    starts = range(CONTEXT, len(tokens) - WINDOW + 1, WINDOW)
    same = 0
    for start in reversed(starts):
        found = _likeliest(compute, tokens, start, start + WINDOW, blocks, ChunkKind.DRAFT)
        same += sum(a == b for a, b in zip(found, exact[start : start + WINDOW], strict=True))
    return same / (len(starts) * WINDOW)


def _likeliest(
    compute: Compute, tokens: Sequence[int], start: int, end: int, blocks: Sequence[int], kind: ChunkKind
) -> list[int]:
    chunk = Chunk(
        token_ids=tokens[start:end], start=start, block_ids=blocks, num_sequence_tokens=len(tokens), kind=kind
    )
    logits = compute([chunk], [Row(0, end - start - 1)])
    return [] if logits is None else logits.argmax(-1).tolist()


def most_that_agree(found: Mapping[int, float]) -> int:
    """Of the numbers of layers at once, and how far each agrees; 1 is exact, and always among them."""
    return max(size for size, share in found.items() if share >= ENOUGH or size == 1)
