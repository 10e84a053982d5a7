"""Bias, penalties and stops held back, of all rows by one launch after one copy: see `workers.model.logit_adjustments`,
whose values these are to the last bit."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workers.model.cuda.launching import has_triton, passes, to_device

BLOCK = 1024
FIELDS = 14


class Changes(NamedTuple):
    """What is asked of some rows: of each its numbers, and how many tokens of each list are its; lists of token ids,
    row after row.

    Attributes:
        rows: [n] int64: which rows of the logits.
        repetition, frequency, presence: [n] float64.
        follows: [n] int64: where among the last step's samples is one more output token; -1: nowhere.
        seen, num_seen: In prompt or output, in any order, of rows with a repetition penalty.
        biased, num_biased, biases: Each token once; float32.
        counted, num_counted, counts: Output tokens, each once, of rows with a frequency or presence penalty.
        held_back, num_held_back: May not be sampled.
    """

    rows: np.ndarray
    repetition: np.ndarray
    frequency: np.ndarray
    presence: np.ndarray
    follows: np.ndarray
    seen: np.ndarray
    num_seen: np.ndarray
    biased: np.ndarray
    num_biased: np.ndarray
    biases: np.ndarray
    counted: np.ndarray
    num_counted: np.ndarray
    counts: np.ndarray
    held_back: np.ndarray
    num_held_back: np.ndarray

    def by(self, sizes: np.ndarray) -> np.ndarray:
        """Whose each token is, of a list of which rows have so many: [0, n)."""
        return np.repeat(np.arange(len(self.rows)), sizes)

    def values(self, more: int = 0) -> np.ndarray:
        """What is added to the logits of the counted tokens, if they come `more` times more (OpenAI's formula)."""
        by = self.by(self.num_counted)
        return _float32(-(self.frequency[by] * (self.counts + more) + self.presence[by]))

    @property
    def values_of_first(self) -> np.ndarray:
        """[n] The same of a token that comes once."""
        return _float32(-(self.frequency + self.presence))

    @property
    def is_biased_seen(self) -> np.ndarray:
        """Of each biased token."""
        if not (len(self.biased) and len(self.seen)):
            return np.zeros(len(self.biased), dtype=bool)
        theirs, seen = self.by(self.num_biased) << 32 | self.biased, self.by(self.num_seen) << 32 | self.seen
        return np.isin(theirs, seen)


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


@functools.cache
def works(device: torch.device) -> bool:
    """Whether the kernel can be used there; compiles it on the first call, for some seconds: before anybody waits."""
    return device.type == "cuda" and has_triton() and is_right(device)


def is_right(device: torch.device) -> bool:
    """Of one row with all there is, with a token that only the device knows and without."""
    one = np.ones(1, dtype=np.int64)
    changes = Changes(
        rows=one - 1,
        repetition=np.array([2.0]),
        frequency=np.array([0.5]),
        presence=np.array([0.25]),
        follows=-one,
        seen=np.array([0, 1]),
        num_seen=np.array([2]),
        biased=np.array([1]),
        num_biased=one,
        biases=np.array([3.0], dtype=np.float32),
        counted=np.array([2]),
        num_counted=one,
        counts=np.array([2]),
        held_back=np.array([3]),
        num_held_back=one,
    )
    want = [1.0 / 2, (-2.0 + 3.0) / 2, -0.5 - 1.25, -torch.inf]

    def trial() -> str:
        logits = torch.tensor([[1.0, -2.0, -0.5, 7.0, 2.0]], device=device)
        last = torch.tensor([9, 4], device=device)
        told = ((changes, None), (changes._replace(follows=np.array([1])), last))
        found = [adjust(logits, each, pending)[0].tolist() for each, pending in told]
        return "" if found == [[*want, 2.0], [*want, 2.0 / 2 - 0.75]] else str(found)

    return passes(trial, "penalties are given by torch")


def adjust(logits: Tensor, changes: Changes, pending: Tensor | None) -> Tensor:
    """A changed copy of logits. Nothing waits.

    Args:
        logits: [rows, vocab_size] float32; a row is contiguous.
        pending: [samples of the last step] int64, on the device; None: no row follows one.
    """
    from workers.model.cuda.kernels import penalties as kernels

    assert pending is not None or changes.follows.max() < 0, "a token is pending, and not given"
    out = logits.clone(memory_format=torch.contiguous_format)
    there = to_device(torch.from_numpy(_packed(changes)), logits.device)
    kernels.adjust[(len(changes.rows),)](
        logits,
        out,
        there,
        there.view(torch.float32),
        there if pending is None else pending,
        logits.stride(0),
        out.stride(0),
        logits.shape[1],
        HAS_PENDING=pending is not None,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return out


def _packed(changes: Changes) -> np.ndarray:
    """FIELDS int32 for each row, then the lists; floats by their bits."""
    heads = np.zeros((len(changes.rows), FIELDS), dtype=np.int32)
    lists: Sequence[tuple[np.ndarray, tuple[np.ndarray, ...]]] = (
        (changes.num_seen, (changes.seen,)),
        (changes.num_biased, (changes.biased, _bits(changes.biases), changes.is_biased_seen)),
        (changes.num_counted, (changes.counted, _bits(changes.values()), _bits(changes.values(1)))),
        (changes.num_held_back, (changes.held_back,)),
    )
    at = heads.size
    for number, (sizes, parts) in enumerate(lists):
        heads[:, 1 + 2 * number] = at + sizes.cumsum() - sizes
        heads[:, 2 + 2 * number] = sizes
        at += sum(map(len, parts))
    heads[:, 0], heads[:, 9] = changes.rows, changes.follows
    heads[:, 10], heads[:, 11] = _bits(changes.repetition), _bits(changes.values_of_first)
    heads[:, 12], heads[:, 13] = len(changes.biased), len(changes.counted)  # from a token to what is told of it
    return np.concatenate([heads.ravel(), *(part.astype(np.int32) for _, parts in lists for part in parts)])


def _bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).view(np.int32)
