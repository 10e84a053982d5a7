"""Which layers a model can do without and still mostly say the same (SWIFT): measured on text of its own.

Layers that turn what they are given least (ShortGPT's block influence) are left out together, more and more. What a
level is worth follows from how often its most likely token is the whole model's, and from what a pass of it takes.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workers.model.contract import Batch, Chunk, ChunkKind, Row, SampleRow
from workers.model.layer_subset import LayerSubset
from workers.model.sampling_params import SamplingParams

logger = logging.getLogger(__name__)
LEAST_LAYERS = 3  # the first and the last always run
SHARES = (0.15, 0.25, 0.35, 0.5, 0.65)  # of the layers, left out together
NUM_TEXTS, LENGTH = 4, 40  # of the sample
MOST_TOKENS = 8  # of a draft, for what a level is worth
PASSES = 4  # timed, of which the fastest counts


class Level(NamedTuple):
    skipped: frozenset[int]
    agreement: float  # share of tokens that are the whole model's
    cost: float  # of a pass of one token, in passes of the whole model


def gain(agreement: float, cost: float) -> float:
    """Tokens a second beside none, with the best length of draft, if verifying a draft takes one step."""
    agreements = [agreement**place for place in range(MOST_TOKENS + 1)]
    return max(sum(agreements[: depth + 1]) / (1 + depth * cost) for depth in range(MOST_TOKENS + 1))


def choose_levels(subset: LayerSubset, *, limit_s: float, clock: Callable[[], float]) -> list[Level]:
    """Levels with fewer and fewer layers, empty where the model has too few; before its engine runs, in its blocks.

    Args:
        limit_s: After which no further level is tried.
    """
    if subset.num_layers < LEAST_LAYERS:
        return []
    began_s = clock()
    chunks = _sample_text(subset)
    with _Turns(subset) as turns:
        whole = _best(subset, chunks, ())
    ranked = sorted(range(1, subset.num_layers - 1), key=turns.by_layer.__getitem__)  # without the ends little is left
    whole_s = _pass_s(subset, (), clock)
    levels: list[Level] = []
    for count in sorted({max(int(share * subset.num_layers), 1) for share in SHARES}):
        if levels and clock() - began_s > limit_s:
            break
        skipped = frozenset(ranked[:count])
        agreement = _agreement(_best(subset, chunks, skipped), whole)
        cost = _pass_s(subset, skipped, clock) / max(whole_s, 1e-9)
        levels.append(Level(skipped, agreement, cost))
        logger.info("self-drafting skipped=%s agreement=%.2f cost=%.2f", sorted(skipped), agreement, cost)
    logger.info("self-drafting levels=%d took_s=%.1f", len(levels), clock() - began_s)
    return levels


class _Turns:
    """While it is open: by how much each layer turns the hidden states, 1 - their cosine before and after it."""

    def __init__(self, subset: LayerSubset) -> None:
        self.by_layer: list[float] = [0.0] * subset.num_layers
        self._layers = subset.layers
        self._handles: list[RemovableHandle] = []
        self._given = torch.empty(0)

    def __enter__(self) -> "_Turns":
        for index, layer in enumerate(self._layers):
            self._handles.append(layer.register_forward_pre_hook(self._before, with_kwargs=True))
            self._handles.append(layer.register_forward_hook(partial(self._after, index)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        given: Tensor = args[0] if args else kwargs["hidden_states"]
        self._given = given.clone()  # some layers change it in place

    def _after(self, index: int, layer: nn.Module, args: object, answer: Any) -> None:
        found: Tensor = answer if isinstance(answer, Tensor) else answer[0]
        cosine = torch.cosine_similarity(self._given.float(), found.float(), dim=-1)
        self.by_layer[index] = 1.0 - float(cosine.mean())


def _sample_text(subset: LayerSubset) -> list[Chunk]:
    """Texts that the model writes by itself, each as one chunk to read."""
    runner = subset.runner
    size = runner.store.block_size
    length = min(LENGTH, runner.max_model_len)
    num_texts = min(NUM_TEXTS, runner.num_blocks // -(-length // size))
    texts = [[(7 + 31 * number) % runner.vocab_size] for number in range(num_texts)]
    per_text = -(-length // size)
    blocks = [list(range(number * per_text, (number + 1) * per_text)) for number in range(num_texts)]
    while len(texts[0]) < length:
        batch = Batch(
            chunks=[_chunk(text, len(text) - 1, held) for text, held in zip(texts, blocks, strict=True)],
            samples=[_row(number, text) for number, text in enumerate(texts)],
        )
        for text, (sampled,) in zip(texts, runner.run(batch), strict=True):
            text.append(sampled.token_id)
    return [_chunk(text, 0, held) for text, held in zip(texts, blocks, strict=True)]


def _chunk(text: Sequence[int], start: int, block_ids: list[int]) -> Chunk:
    return Chunk(
        token_ids=text[start:],
        start=start,
        block_ids=block_ids,
        num_sequence_tokens=len(text),
        kind=ChunkKind.PREFILL if start == 0 else ChunkKind.DECODE,
    )


def _row(number: int, text: Sequence[int]) -> SampleRow:
    params = SamplingParams(max_tokens=LENGTH, temperature=0.8, seed=number, ignore_eos=True)
    return SampleRow(chunk=number, choice=0, params=params, prompt_token_ids=text[:1], output_token_ids=text[1:])


def _best(subset: LayerSubset, chunks: Sequence[Chunk], skipped: Sequence[int] | frozenset[int]) -> Tensor:
    """The most likely token after each."""
    rows = [Row(index, len(chunk.token_ids) - 1) for index, chunk in enumerate(chunks)]
    logits = subset.compute(chunks, rows, skipped)
    assert logits is not None
    return logits.argmax(-1)


def _agreement(some: Tensor, whole: Tensor) -> float:
    return float((some == whole).to(torch.float32).mean())


def _pass_s(subset: LayerSubset, skipped: Sequence[int] | frozenset[int], clock: Callable[[], float]) -> float:
    chunk, row = _chunk([1, 1], 1, [0]), Row(0, 0)
    took: list[float] = []
    for _ in range(PASSES):
        began_s = clock()
        subset.compute([chunk], [row], skipped)
        took.append(clock() - began_s)
    return min(took)
