"""How likely the tokens of a prompt are, from what a step's layers made of the tokens before them.

The model's own output head makes the logits, of few tokens at a time: those of a whole prompt are never there at once.
What the layers made is that of one step's chunks, and gone after it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from workers.model.contract import Chunk, ChunkKind
from workers.model.likeliest import likeliest
from workers.model.prompt_rows import MAX_ROWS, PromptRow, PromptScores

MAX_BYTES = 100_000_000  # of logits and what is made of them, at any time
# Logits twice in float32 (a part of them in the model's type at the same time, or a mask), whatever the head does.
BYTES_A_LOGIT = 12


def rows_at_once(vocab_size: int) -> int:
    """Tokens whose logits may be there together: 63 where there are 128 K of each."""
    return min(max(MAX_BYTES // (BYTES_A_LOGIT * vocab_size), 1), MAX_ROWS)


def has_scored(chunks: Sequence[Chunk]) -> bool:
    """Whether any is of a prompt whose tokens are to be scored; of steps without prompts the last chunk tells."""
    return chunks[-1].kind is ChunkKind.PREFILL and any(chunk.num_scored for chunk in chunks)


def pieces(chunks: Sequence[Chunk], vocab_size: int) -> Iterator[tuple[int, slice, slice]]:
    """(number of a chunk, some of its tokens to be scored, their places among all that the step computes), in order."""
    begin, size = 0, rows_at_once(vocab_size)
    for number, chunk in enumerate(chunks):
        for first in range(0, chunk.num_scored, size):
            end = min(first + size, chunk.num_scored)
            yield number, slice(first, end), slice(begin + first, begin + end)
        begin += len(chunk.token_ids)


def num_pieces(chunks: Sequence[Chunk], vocab_size: int) -> int:
    return sum(math.ceil(chunk.num_scored / rows_at_once(vocab_size)) for chunk in chunks)


def score_prompts(
    kept: "KeptOutputs",
    chunks: Sequence[Chunk],
    prompts: Sequence[PromptRow],
    *,
    vocab_size: int,
    whole: Callable[[Tensor], Tensor | None],
) -> None:
    """
    Args:
        chunks: As this rank has computed them.
        prompts: Of a rank that does not lead: none, and it finds nothing.
        whole: Puts together the logits of which each rank has a part, on the rank that leads.
    """
    asked = {row.chunk: row for row in prompts}
    for number, some, places in pieces(chunks, vocab_size):
        _score_piece(whole(kept.logits(places)), asked.get(number), some)


def _score_piece(logits: Tensor | None, row: PromptRow | None, some: slice) -> None:
    if logits is not None and row is not None:
        row.found.append(score(logits, row.next_token_ids[some], row.num_top))


def score(logits: Tensor, token_ids: Sequence[int], num_top: int) -> PromptScores:
    """`logits`: [tokens, vocab_size], each of the token before one of `token_ids`."""
    logits = torch.log_softmax(logits.float(), dim=-1)
    own = logits.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])
    ids = likeliest(logits, min(num_top, logits.shape[1]))
    values = logits.gather(1, ids)
    return PromptScores(own[:, 0].cpu().numpy(), 1 + _num_true(logits > own), ids.cpu().numpy(), values.cpu().numpy())


def _num_true(mask: Tensor) -> np.ndarray:
    """[rows]: in each row; on the CPU row by row by numpy, which takes a tenth of torch's time."""
    if mask.device.type != "cpu":
        return mask.sum(-1).cpu().numpy()
    return np.array([np.count_nonzero(row) for row in mask.numpy()], dtype=np.int64)


class KeptOutputs:
    """Keeps what a causal model's layers give while it is entered, and applies the model's head to parts of it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._outputs: Any = None

    def __enter__(self) -> Self:
        self._hook = self._model.base_model.register_forward_hook(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hook.remove()

    def logits(self, places: slice) -> Tensor:
        """[tokens, vocab_size] of these tokens of the step, as the model itself would give them."""
        outputs = copy.copy(self._outputs)
        outputs.last_hidden_state = self._outputs.last_hidden_state[:, places]
        with self._given(outputs):
            logits: Tensor = self._model(logits_to_keep=0, use_cache=False).logits[0]
        return logits

    def _keep(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._outputs = outputs

    @contextmanager
    def _given(self, outputs: Any) -> Iterator[None]:
        """The model without its layers: what families do to logits (caps, scales) is in the model's own `forward`."""
        name, base = self._model.base_model_prefix, self._model.base_model
        setattr(self._model, name, _Given(outputs))
        try:
            yield
        finally:
            setattr(self._model, name, base)


class _Given(nn.Module):
    """In place of the layers: answers what they gave before."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._outputs
