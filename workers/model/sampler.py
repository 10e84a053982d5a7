"""Turns logits into tokens: adjustments, temperature, truncation, and a draw that depends on nothing else.

Invariant: a row's result is a function of its logits and of (seed, choice, position, token ids), whatever else is in
the batch and wherever it runs. The draw is Gumbel's trick (arg max of logit + Gumbel noise is distributed as softmax),
with the noise hashed from (seed, choice, position, token id): unlike one uniform number held against cumulated
probabilities, it forgives the last bits in which the logits of two batches or two devices differ.
"""

import functools
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from workers.model.contract import Sampled, SampleRow
from workers.model.cpu import sampling as cpu_sampling
from workers.model.cuda import sampling as cuda_sampling
from workers.model.cuda.fetching import Fetched
from workers.model.cuda.launching import to_device
from workers.model.logit_adjustments import adjust_logits

NUCLEUS_WIDTHS = (64, 1024)  # how many of the most likely tokens to sort before sorting all
MASK_64 = (1 << 64) - 1


class Drawn:
    """A token for each row, and what is asked of how likely it was: on the device, and on its way to the host.

    Attributes:
        token_ids: [rows] int64, on the device.
    """

    def __init__(self, logits: Tensor, rows: Sequence[SampleRow], token_ids: Tensor) -> None:
        self.token_ids = token_ids
        self._rows = rows
        self._asking = [index for index, row in enumerate(rows) if row.params.logprobs is not None]
        likely = _logprobs(logits, token_ids, rows, self._asking) if self._asking else ()
        self._fetched = Fetched([token_ids, *likely], token_ids.device)

    def result(self) -> list[Sampled]:
        """Waits for the device."""
        token_ids, *likely = (tensor.tolist() for tensor in self._fetched.wait())
        sampled = [Sampled(token_id=token_id) for token_id in token_ids]
        for at, own, values, ids in zip(self._asking, *likely, strict=True) if likely else ():
            pairs = [pair for pair in zip(ids, values, strict=True) if pair[1] > -math.inf]
            top = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[: self._rows[at].params.logprobs]
            sampled[at] = Sampled(token_id=token_ids[at], logprob=own, top=tuple(top))
        return sampled


def draw(
    logits: Tensor, rows: Sequence[SampleRow], eos_token_ids: Collection[int] = (), pending: Tensor | None = None
) -> Drawn:
    """One token per row, >= 1 of them; on a GPU without waiting for it, but where torch's own ops must do.

    Args:
        logits: [rows, vocab], float32, on any device; row i belongs to rows[i]. Not changed.
        eos_token_ids: Not sampled before `min_tokens`.
        pending: See `adjust_logits`.
    """
    assert logits.shape[0] == len(rows), f"{logits.shape[0]} rows of logits for {len(rows)} samples"
    logits = adjust_logits(logits, rows, eos_token_ids, pending)
    return Drawn(logits, rows, _choose(logits, rows))


def sample(logits: Tensor, rows: Sequence[SampleRow], eos_token_ids: Collection[int] = ()) -> list[Sampled]:
    """`draw`, and waits for it; [] of no rows."""
    return draw(logits, rows, eos_token_ids).result() if rows else []


def _choose(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """[rows]: the most likely token (the lowest id of equals) at temperature 0, a draw above."""
    if cuda_sampling.works(logits.device, logits.shape[1]):
        return cuda_sampling.choose(logits, *drawn_by(rows))
    drawn = [index for index, row in enumerate(rows) if row.params.temperature > 0]
    if len(drawn) == len(rows):
        return _draw(logits, rows)
    token_ids = _best(logits)
    if drawn:
        where = torch.tensor(drawn, device=logits.device)
        token_ids[where] = _draw(logits[where], [rows[index] for index in drawn])
    return token_ids


def drawn_by(rows: Sequence[SampleRow]) -> tuple[list[tuple[float, float, float, int]], list[tuple[int, int]]]:
    """Of each row temperature, top_p, min_p and top_k; and the key of its noise."""
    given = [row.params for row in rows]
    return [(one.temperature, one.top_p, one.min_p, one.top_k) for one in given], [_key(row) for row in rows]


def _best(rows: Tensor) -> Tensor:
    """The first of each row's largest; on the CPU by numpy, whose search takes a fifteenth of torch's time."""
    return rows.argmax(-1) if rows.device.type != "cpu" else torch.from_numpy(rows.numpy().argmax(-1))


def _draw(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    temperature = _column([row.params.temperature for row in rows], logits)
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature  # 0 for the most likely
    floors = _floors(scaled, rows)
    if scaled.device.type == "cpu" and cpu_sampling.available():
        return cpu_sampling.draw(scaled, [_key(row) for row in rows], floors)
    scores = scaled + _gumbel(scaled, rows)
    if floors is not None:
        scores.masked_fill_(scaled < floors, -torch.inf)
    return _best(scores)


def _floors(scaled: Tensor, rows: Sequence[SampleRow]) -> Tensor | None:
    """[rows, 1]: the least scaled logit that top_k, top_p and min_p (in this order) leave; None if nobody truncates.

    Equal logits stay or go together, so that no order among equals can show.
    """
    vocab_size = scaled.shape[1]
    cut_k = [i for i, row in enumerate(rows) if 0 < row.params.top_k < vocab_size]
    cut_p = [i for i, row in enumerate(rows) if row.params.top_p < 1]
    if not (cut_k or cut_p or any(row.params.min_p > 0 for row in rows)):
        return None
    floors = torch.full((len(rows), 1), -torch.inf, dtype=scaled.dtype, device=scaled.device)
    if cut_k:
        top_k = torch.tensor([[rows[i].params.top_k] for i in cut_k], device=scaled.device)
        top = _of(scaled, cut_k).topk(int(top_k.max()), dim=-1).values
        floors[cut_k] = top.gather(1, top_k - 1)
    if cut_p:
        top_p = torch.tensor([rows[i].params.top_p for i in cut_p], dtype=torch.float64, device=scaled.device)
        floors[cut_p] = _nucleus_floors(_of(scaled, cut_p), floors[cut_p], top_p)
    min_p = [math.log(row.params.min_p) if row.params.min_p > 0 else -math.inf for row in rows]
    return torch.maximum(floors, _column(min_p, scaled))


def _nucleus_floors(scaled: Tensor, floors: Tensor, top_p: Tensor) -> Tensor:
    """[rows, 1]: raises `floors` to the last of the most likely tokens that together have `top_p` of what is left."""
    weights = scaled.exp().masked_fill_(scaled < floors, 0.0)
    needed = weights.sum(-1, keepdim=True, dtype=torch.float64) * top_p[:, None]
    found = floors.clone()
    todo = torch.arange(len(scaled), device=scaled.device)
    vocab_size = scaled.shape[1]
    for width in sorted({min(width, vocab_size) for width in (*NUCLEUS_WIDTHS, vocab_size)}):
        top = scaled[todo].topk(width, dim=-1).values
        mass = top.exp().masked_fill_(top < floors[todo], 0.0).cumsum(-1, dtype=torch.float64)
        is_enough = mass >= needed[todo]
        is_done = is_enough[:, -1]
        last = is_enough.to(torch.uint8).argmax(-1, keepdim=True)  # the first that is enough
        found[todo[is_done]] = top.gather(1, last)[is_done]
        todo = todo[~is_done]
        if len(todo) == 0:
            break
    return found


def _gumbel(like: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Standard Gumbel noise [rows, vocab] in float32: -log(E), E exponential, from 31 hashed bits per element."""
    low, high = zip(*(_key(row) for row in rows), strict=True)
    bits = torch.arange(like.shape[1], dtype=torch.int32, device=like.device) * _signed(0x9E3779B1)
    bits = bits ^ torch.tensor(low, dtype=torch.int32, device=like.device)[:, None]
    _mix(bits, 16, 0x7FEB352D)  # the constants of C. Wellons' lowbias32
    bits += torch.tensor(high, dtype=torch.int32, device=like.device)[:, None]
    _mix(bits, 15, 0x846CA68B)
    bits ^= (bits >> 16) & 0xFFFF
    # In (0, 1), with full relative precision near 0, where the winners are.
    uniform = (bits & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _mix(bits: Tensor, shift: int, factor: int) -> None:
    bits ^= (bits >> shift) & ((1 << (32 - shift)) - 1)  # torch shifts int32 with its sign
    bits *= _signed(factor)


def _key(row: SampleRow) -> tuple[int, int]:
    """64 hashed bits of (seed, choice, position) as two int32."""
    key = _splitmix(_key_of_choice(row.params.seed, row.choice) ^ row.num_outputs)
    return _signed(key & 0xFFFFFFFF), _signed(key >> 32)


@functools.lru_cache(maxsize=4096)
def _key_of_choice(seed: int, choice: int) -> int:
    return _splitmix(_splitmix(seed & MASK_64) ^ choice)


def _splitmix(value: int) -> int:
    """One step of splitmix64 (Steele, Lea and Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def _logprobs(
    logits: Tensor, token_ids: Tensor, rows: Sequence[SampleRow], asking: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rows that ask: [n] of the token; [n, most asked for] of the likeliest ones, and their ids."""
    logprobs = torch.log_softmax(_of(logits, asking), dim=-1)
    own = logprobs.gather(1, _of(token_ids, asking)[:, None])[:, 0]
    num_top = min(max(rows[index].params.logprobs or 0 for index in asking), logits.shape[1])
    return own, *logprobs.topk(num_top, dim=-1)


def _of(rows: Tensor, indices: Sequence[int]) -> Tensor:
    if len(indices) == len(rows):
        return rows
    return rows.index_select(0, to_device(torch.tensor(indices), rows.device))


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
