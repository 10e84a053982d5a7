"""Linear layers of one step over pieces (LASP-2): each rank runs its own, all ranks' states and inputs are whole after.

Of a chunk that is cut, the last inputs of each piece and its effect on the state are gathered; every rank keeps the
state after the whole chunk in its slot, as soon as the ranks after it have told theirs (`later`). Other chunks are run
as on a rank alone.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from workers.model.contract import Chunk
from workers.model.hybrid.convolution import Window, convolve
from workers.model.hybrid.mixer import Recurrence
from workers.model.hybrid.split import linear_step
from workers.model.hybrid.states import rows_of
from workers.parallel.division import Division
from workers.parallel.gathering import SequenceRanks
from workers.parallel.halo import Halo
from workers.parallel.later import Later
from workers.parallel.sequence import LastState, linear_attention


class SharedStates:
    """Implements `workers.model.hybrid.mixer.LinearStep`.

    Args:
        parts: As `States` takes them.
        later: Done before any of the states is read again.
    """

    def __init__(
        self,
        ranks: SequenceRanks,
        division: Division,
        parts: Mapping[int, Sequence[Tensor]],
        device: torch.device,
        later: Later,
    ) -> None:
        self._parts = parts
        whole = [chunk for number, chunk in enumerate(division.chunks) if number not in division.pieces]
        self._whole = linear_step(parts, whole, device) if whole else None
        numbers, places = sorted(division.pieces), division.places_of(ranks.rank)
        self._cut = [
            _CutChunk(ranks, place, division.chunks[number], [len(piece) for piece in division.pieces[number]], later)
            for number, place in zip(numbers, places, strict=True)
        ]
        num_rows = sum(len(chunk.token_ids) for chunk in division.chunks_of(ranks.rank))
        is_whole = torch.ones(num_rows, dtype=torch.bool)
        for chunk in self._cut:
            is_whole[chunk.place] = False
        self._rows = is_whole.nonzero()[:, 0].to(device)  # of the chunks that are not cut

    def convolve(self, layer: int, x: Tensor, convolution: nn.Conv1d) -> Tensor:
        """See `LinearStep`."""
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        if self._whole is not None:
            out[self._rows] = self._whole.convolve(layer, x[self._rows], convolution)
        for chunk in self._cut:
            out[chunk.place] = chunk.convolve(self._parts[layer][1:], x[chunk.place], convolution)
        return out

    def recur(self, layer: int, recurrence: Recurrence) -> Tensor:
        """See `LinearStep`."""
        out = torch.empty_like(recurrence.v, memory_format=torch.contiguous_format)
        if self._whole is not None:
            out[self._rows] = self._whole.recur(layer, rows_of(recurrence, self._rows))
        for chunk in self._cut:
            out[chunk.place] = chunk.recur(self._parts[layer][0], rows_of(recurrence, chunk.place))
        return out

    def settle(self, num_tokens: Mapping[int, int]) -> None:
        """See `LinearStep`; chunks that end in drafts are not cut."""
        if self._whole is not None:
            self._whole.settle(num_tokens)


class _CutChunk:
    """One chunk of which this rank has a piece.

    Args:
        place: Of the piece among this rank's rows.
        chunk: The whole one.
        lengths: Of every rank's piece.
    """

    def __init__(self, ranks: SequenceRanks, place: slice, chunk: Chunk, lengths: Sequence[int], later: Later) -> None:
        assert chunk.state_id is not None, "a sequence of a model with states has a slot"
        self.place = place
        self._ranks, self._lengths, self._later = ranks, lengths, later
        self._slot, self._is_new = chunk.state_id, chunk.start == 0
        self._windows: dict[int, Window] = {}

    def convolve(self, parts: Sequence[Tensor], x: Tensor, convolution: nn.Conv1d) -> Tensor:
        num_inputs = convolution.kernel_size[0] - 1
        before = torch.cat([self._before(part).transpose(0, 1).flatten(1) for part in parts], dim=-1)
        halo = Halo(self._ranks, x[-num_inputs:], self._lengths, before)
        if num_inputs not in self._windows:
            self._windows[num_inputs] = Window([len(x)], num_inputs, x.device)
        out, _ = convolve(x, halo.wait()[None], self._windows[num_inputs], convolution)
        self._later.put_off(halo.is_whole, partial(self._keep_inputs, parts, halo))
        return out

    def recur(self, kept: Tensor, recurrence: Recurrence) -> Tensor:
        out, last = linear_attention(self._ranks, *recurrence, self._before(kept))
        self._later.put_off(last.is_known, partial(self._keep_state, kept, last))
        return out

    def _keep_inputs(self, parts: Sequence[Tensor], halo: Halo) -> None:
        sizes = [part.shape[1] * part.shape[3] for part in parts]
        for part, inputs in zip(parts, torch.split(halo.last(), sizes, dim=-1), strict=True):
            part[self._slot] = inputs.view(len(inputs), part.shape[1], part.shape[3]).transpose(0, 1)

    def _keep_state(self, kept: Tensor, last: LastState) -> None:
        kept[self._slot] = last()

    def _before(self, kept: Tensor) -> Tensor:
        """What is kept of the tokens before the chunk."""
        return torch.zeros_like(kept[self._slot]) if self._is_new else kept[self._slot].clone()
