"""Changes logits as a request asks before anything is read off them: bias, penalties, tokens not allowed yet.

Work is proportional to the tokens concerned, not to the vocabulary, and nil for rows that ask for nothing.
Temperature and truncation are the sampler's.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from workers.model.contract import SampleRow


def adjust_logits(logits: Tensor, rows: Sequence[SampleRow], eos_token_ids: Collection[int]) -> Tensor:
    """Applies bias, repetition, frequency and presence penalties and `min_tokens`, in this order.

    Args:
        logits: [rows, vocab], float32; not changed.
        eos_token_ids: Held back with `stop_token_ids` until `min_tokens` are out, unless the row ignores them. Of
            masked rows the masks have done so.
    Returns:
        [rows, vocab]; `logits` itself if no row asks for a change.
    """
    asking = [(index, row) for index, row in enumerate(rows) if _asks(row)]
    if not asking:
        return logits
    logits = logits.clone()
    _add_bias(logits, asking)
    _penalize_repetition(logits, asking)
    _penalize_frequency(logits, asking)
    _hold_back_stops(logits, asking, eos_token_ids)
    return logits


def _asks(row: SampleRow) -> bool:
    params = row.params
    return bool(
        params.logit_bias
        or params.repetition_penalty != 1.0
        or params.frequency_penalty
        or params.presence_penalty
        or row.num_outputs < params.min_tokens
    )


def _add_bias(logits: Tensor, asking: Sequence[tuple[int, SampleRow]]) -> None:
    vocab_size = logits.shape[1]
    entries = [(i, token, bias) for i, row in asking for token, bias in row.params.logit_bias if token < vocab_size]
    if entries:
        indices, tokens, biases = zip(*entries, strict=True)
        where = (_ids(indices, logits), _ids(tokens, logits))
        logits.index_put_(where, torch.tensor(biases, dtype=logits.dtype, device=logits.device), accumulate=True)


def _penalize_repetition(logits: Tensor, asking: Sequence[tuple[int, SampleRow]]) -> None:
    """Tokens seen in prompt or output: positive logits / penalty, others * penalty (CTRL, arXiv 1909.05858)."""
    indices: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    penalties: list[np.ndarray] = []
    for index, row in asking:
        if row.params.repetition_penalty != 1.0:
            seen = np.array([*row.prompt_token_ids, *row.output_token_ids], dtype=np.int64)
            tokens.append(seen)
            indices.append(np.full(len(seen), index))
            penalties.append(np.full(len(seen), row.params.repetition_penalty, dtype=np.float32))
    if tokens:
        where = (_ids(np.concatenate(indices), logits), _ids(np.concatenate(tokens), logits))
        penalty = torch.from_numpy(np.concatenate(penalties)).to(logits.device)
        old = logits[where]
        # A token seen twice is written twice with the same value.
        logits.index_put_(where, torch.where(old > 0, old / penalty, old * penalty))


def _penalize_frequency(logits: Tensor, asking: Sequence[tuple[int, SampleRow]]) -> None:
    """Output tokens: - frequency_penalty * count - presence_penalty (OpenAI's formula)."""
    indices: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for index, row in asking:
        params = row.params
        if (params.frequency_penalty or params.presence_penalty) and row.output_token_ids:
            seen, counts = np.unique(np.array(row.output_token_ids, dtype=np.int64), return_counts=True)
            tokens.append(seen)
            indices.append(np.full(len(seen), index))
            values.append(-(params.frequency_penalty * counts + params.presence_penalty))
    if tokens:
        where = (_ids(np.concatenate(indices), logits), _ids(np.concatenate(tokens), logits))
        value = torch.from_numpy(np.concatenate(values)).to(logits.device, logits.dtype)
        logits.index_put_(where, value, accumulate=True)


def _hold_back_stops(logits: Tensor, asking: Sequence[tuple[int, SampleRow]], eos_token_ids: Collection[int]) -> None:
    vocab_size = logits.shape[1]
    for index, row in asking:
        params = row.params
        if row.num_outputs < params.min_tokens and not row.is_masked:
            held_back = sorted(token for token in params.stops(eos_token_ids) if token < vocab_size)
            logits[index, _ids(held_back, logits)] = -torch.inf


def _ids(values: Sequence[int] | np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64)).to(like.device)
