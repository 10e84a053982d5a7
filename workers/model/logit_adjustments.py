"""Changes logits as a request asks before anything is read off them: bias, penalties, tokens not allowed yet.

Work is proportional to the tokens concerned, not to the vocabulary, and nil for rows that ask for nothing. The last
token of a row may be one that only the device knows: it is looked up there, and nothing waits for it.
Temperature and truncation are the sampler's.
"""

import functools
from collections.abc import Collection, Sequence, Sized
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workers.model.contract import SampleRow
from workers.model.cuda import penalties
from workers.model.cuda.penalties import Changes

MAX_PROMPTS = 128  # whose tokens are kept as arrays, so that they are not made again each step
NONE = np.empty(0, dtype=np.int64)


def adjust_logits(
    logits: Tensor, rows: Sequence[SampleRow], eos_token_ids: Collection[int], pending: Tensor | None = None
) -> Tensor:
    """Applies bias, repetition, frequency and presence penalties and `min_tokens`, in this order.

    Args:
        logits: [rows, vocab], float32; not changed.
        eos_token_ids: Held back with `stop_token_ids` until `min_tokens` are out, unless the row ignores them. Of
            masked rows the masks have done so.
        pending: What the step before sampled, [its rows] int64 on the logits' device: where rows that follow one find
            their last token. None: no row does.
    Returns:
        [rows, vocab]; `logits` itself if no row asks for a change.
    """
    by_kernel = penalties.works(logits.device)  # compiles it, whether anybody asks or not
    changes = changes_of(rows, eos_token_ids, logits.shape[1])
    if changes is None:
        return logits
    if by_kernel and logits.dtype == torch.float32:
        return penalties.adjust(logits, changes, pending)
    return adjust_by_torch(logits, changes, pending)


def adjust_by_torch(logits: Tensor, changes: Changes, pending: Tensor | None) -> Tensor:
    """As `penalties.adjust`, on any device."""
    assert pending is not None or changes.follows.max() < 0, "a token is pending, and not given"
    logits = logits.clone()
    last = _last_tokens(logits, changes, pending) if pending is not None else None
    _add_bias(logits, changes)
    _penalize_repetition(logits, changes, last)
    _penalize_frequency(logits, changes, last)
    _hold_back(logits, changes)
    return logits


def changes_of(rows: Sequence[SampleRow], eos_token_ids: Collection[int], vocab_size: int) -> Changes | None:
    """None: nobody asks for any."""
    asking = [(index, row) for index, row in enumerate(rows) if _asks(row)]
    if not asking:
        return None
    given = [row.params for _, row in asking]
    follows = [-1 if row.follows is None else row.follows for _, row in asking]
    outputs = [_array(row.output_token_ids) for _, row in asking]
    seen = [
        np.concatenate([_prompt(row.prompt_token_ids), output]) if row.params.repetition_penalty != 1.0 else NONE
        for (_, row), output in zip(asking, outputs, strict=True)
    ]
    biased = [[pair for pair in one.logit_bias if pair[0] < vocab_size] for one in given]
    counts_wanted = [
        output if one.frequency_penalty or one.presence_penalty else NONE
        for one, output in zip(given, outputs, strict=True)
    ]
    whose = np.repeat(np.arange(len(asking)), _sizes(counts_wanted))
    counted, counts = np.unique(whose << 32 | np.concatenate(counts_wanted), return_counts=True)
    held_back = [_held_back(row, eos_token_ids, vocab_size) for _, row in asking]
    return Changes(
        rows=_array([index for index, _ in asking]),
        repetition=np.array([one.repetition_penalty for one in given]),
        frequency=np.array([one.frequency_penalty for one in given]),
        presence=np.array([one.presence_penalty for one in given]),
        follows=_array(follows),
        seen=np.concatenate(seen),
        num_seen=_sizes(seen),
        biased=_array([token for pairs in biased for token, _ in pairs]),
        num_biased=_sizes(biased),
        biases=np.array([bias for pairs in biased for _, bias in pairs], dtype=np.float32),
        counted=counted & 0xFFFFFFFF,
        num_counted=np.bincount(counted >> 32, minlength=len(asking)),
        counts=counts,
        held_back=_array([token for tokens in held_back for token in tokens]),
        num_held_back=_sizes(held_back),
    )


def _asks(row: SampleRow) -> bool:
    params = row.params
    return bool(
        params.logit_bias
        or params.repetition_penalty != 1.0
        or params.frequency_penalty
        or params.presence_penalty
        or row.num_outputs < params.min_tokens
    )


def _held_back(row: SampleRow, eos_token_ids: Collection[int], vocab_size: int) -> list[int]:
    if row.is_masked or row.num_outputs >= row.params.min_tokens:
        return []
    return [token for token in row.params.stops(eos_token_ids) if token < vocab_size]


def _sizes(lists: Sequence[Sized]) -> np.ndarray:
    return np.array([len(each) for each in lists])


def _array(token_ids: Sequence[int]) -> np.ndarray:
    return np.array(token_ids, dtype=np.int64)


class _Same:
    """A tuple as itself, not as what is in it: as a key it costs nothing, however long it is."""

    __slots__ = ("token_ids",)

    def __init__(self, token_ids: tuple[int, ...]) -> None:
        self.token_ids = token_ids

    def __hash__(self) -> int:
        return id(self.token_ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.token_ids is other.token_ids


def _prompt(token_ids: Sequence[int]) -> np.ndarray:
    """Which tokens it has."""
    return _once(_Same(token_ids)) if isinstance(token_ids, tuple) else _array(token_ids)


@functools.lru_cache(maxsize=MAX_PROMPTS)
def _once(prompt: _Same) -> np.ndarray:
    return np.unique(_array(prompt.token_ids))


class _Last(NamedTuple):
    """The tokens that only the device knows.

    Attributes:
        by: Whose: [0, n) of `Changes`, of those that have one.
        rows, tokens: [len(by)] on the device.
        of_each: [rows of the logits] -1 where there is none.
    """

    by: np.ndarray
    rows: Tensor
    tokens: Tensor
    of_each: Tensor


def _last_tokens(logits: Tensor, changes: Changes, pending: Tensor) -> _Last:
    by = np.flatnonzero(changes.follows >= 0)
    rows, tokens = _ids(changes.rows[by], logits), pending[_ids(changes.follows[by], logits)]
    of_each = torch.full((len(logits),), -1, device=logits.device)
    of_each[rows] = tokens
    return _Last(by, rows, tokens, of_each)


def _add_bias(logits: Tensor, changes: Changes) -> None:
    if len(changes.biased):
        where = _places(changes, changes.num_biased, changes.biased, logits)
        logits.index_put_(where, _numbers(changes.biases, logits), accumulate=True)


def _penalize_repetition(logits: Tensor, changes: Changes, last: _Last | None) -> None:
    """Tokens seen in prompt or output: positive logits / penalty, others * penalty (CTRL, arXiv 1909.05858)."""
    if (changes.repetition == 1.0).all():
        return
    rows, tokens = _places(changes, changes.num_seen, changes.seen, logits)
    penalty = _numbers(np.repeat(changes.repetition, changes.num_seen), logits)
    if last is not None:
        rows, tokens = torch.cat([rows, last.rows]), torch.cat([tokens, last.tokens])
        penalty = torch.cat([penalty, _numbers(changes.repetition[last.by], logits)])
    old = logits[rows, tokens]
    # A token seen twice is written twice with the same value.
    logits.index_put_((rows, tokens), torch.where(old > 0, old / penalty, old * penalty))


def _penalize_frequency(logits: Tensor, changes: Changes, last: _Last | None) -> None:
    """Output tokens: - frequency_penalty * count - presence_penalty (OpenAI's formula)."""
    if not (changes.frequency.any() or changes.presence.any()):
        return
    rows, tokens = _places(changes, changes.num_counted, changes.counted, logits)
    values = _numbers(changes.values(), logits)
    if last is not None:  # one more of a token that is counted, or the first of one that is not
        is_last = tokens == last.of_each[rows]
        values = torch.where(is_last, _numbers(changes.values(1), logits), values)
        is_counted = torch.zeros_like(last.of_each).index_add_(0, rows, is_last.long())[last.rows] > 0
        first = _numbers(changes.values_of_first[last.by], logits).masked_fill(is_counted, 0.0)
        rows, tokens = torch.cat([rows, last.rows]), torch.cat([tokens, last.tokens])
        values = torch.cat([values, first])
    logits.index_put_((rows, tokens), values, accumulate=True)


def _hold_back(logits: Tensor, changes: Changes) -> None:
    if len(changes.held_back):
        where = _places(changes, changes.num_held_back, changes.held_back, logits)
        logits.index_put_(where, torch.full_like(logits[:1, 0], -torch.inf))


def _places(changes: Changes, sizes: np.ndarray, tokens: np.ndarray, like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and token of each of a list of which rows have so many."""
    return _ids(np.repeat(changes.rows, sizes), like), _ids(tokens, like)


def _ids(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)


def _numbers(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like)
