"""The states of sequences with draft tokens: they stay as they are until it is known how many of the tokens count.

All of a step's sequences go through a layer together, each with as many rows as the longest. Where one has fewer, its
last is repeated: what follows a token changes nothing for it, and does not count afterwards.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from workers.model.contract import Chunk
from workers.model.hybrid.mixer import Recurrence
from workers.model.linear.trial import Trial, effects


class TriedStates:
    """Implements `workers.model.hybrid.mixer.LinearStep` for chunks that end in drafts.

    Args:
        parts: As `workers.model.hybrid.states.States` takes them.
        chunks: The batch's.
    """

    def __init__(self, parts: Mapping[int, Sequence[Tensor]], chunks: Sequence[Chunk], device: torch.device) -> None:
        assert all(chunk.start for chunk in chunks), "drafts follow a prompt"
        self._parts = parts
        self._slot_of = [chunk.state_id for chunk in chunks]
        self._slots = torch.tensor(self._slot_of, device=device)
        self._sizes = [len(chunk.token_ids) for chunk in chunks]
        self._device = device
        self._runs: dict[int, _Runs] = {}  # by their size
        self._inputs: dict[int, Tensor] = {}  # by layer: of its convolution, with those before
        self._trials: dict[int, Trial] = {}  # by layer

    def convolve(self, layer: int, x: Tensor, convolution: nn.Conv1d) -> Tensor:
        """See `LinearStep`."""
        runs, parts = self._runs_of(max(self._sizes)), self._parts[layer][1:]
        before = torch.cat([part.index_select(0, self._slots).transpose(1, 2).flatten(2) for part in parts], dim=-1)
        inputs = self._inputs[layer] = torch.cat([before, runs.spread(x)], dim=1)
        taps = inputs.unfold(1, convolution.kernel_size[0], 1)  # [B, C, channels, taps]
        out = (taps * convolution.weight[:, 0].float()).sum(dim=-1)
        if convolution.bias is not None:
            out += convolution.bias
        return runs.join(out).to(x.dtype)

    def recur(self, layer: int, recurrence: Recurrence) -> Tensor:
        """See `LinearStep`; but the states are as before."""
        q, k, v, log_decay, beta = recurrence
        size = max(self._sizes)
        if log_decay is not None and log_decay.dim() == 3:  # decays of each channel are found by halves
            size = 1 << (size - 1).bit_length()
        runs = self._runs_of(size)
        decays, betas = (None if x is None else runs.spread(x) for x in (log_decay, beta))
        rows = runs.spread(q), runs.spread(k), runs.spread(v), decays, betas
        trial = self._trials[layer] = Trial(*rows, self._parts[layer][0].index_select(0, self._slots))
        return runs.join(trial.outputs)

    def settle(self, num_tokens: Mapping[int, int]) -> None:
        """See `LinearStep`."""
        counts = torch.tensor([num_tokens[slot] for slot in self._slot_of if slot is not None], device=self._device)
        for layer, effect in zip(self._trials, effects(list(self._trials.values()), counts), strict=True):
            kept = self._parts[layer][0]
            states = kept.index_select(0, self._slots)
            if effect.transition is not None:
                states *= effect.transition
            kept.index_copy_(0, self._slots, states.add_(effect.contribution))
        for layer, inputs in self._inputs.items():
            _keep_inputs(self._parts[layer][1:], self._slots, inputs, counts)

    def _runs_of(self, size: int) -> "_Runs":
        if size not in self._runs:
            self._runs[size] = _Runs(self._sizes, size, self._device)
        return self._runs[size]


class _Runs:
    """A batch's rows when each chunk has `size` of them."""

    def __init__(self, sizes: Sequence[int], size: int, device: torch.device) -> None:
        counts, places = torch.tensor(sizes)[:, None], torch.arange(size)
        begins = counts.cumsum(0) - counts
        self._shape = (len(sizes), size)
        self._is_even = min(sizes) == size
        self._rows = (begins + torch.minimum(places, counts - 1)).flatten().to(device)
        self._kept = (places < counts).flatten().nonzero()[:, 0].to(device)

    def spread(self, x: Tensor) -> Tensor:
        """[T, ...] -> [B, size, ...]"""
        return (x if self._is_even else x[self._rows]).view(*self._shape, *x.shape[1:])

    def join(self, x: Tensor) -> Tensor:
        """Its inverse."""
        flat = x.flatten(0, 1)
        return flat if self._is_even else flat[self._kept]


def _keep_inputs(parts: Sequence[Tensor], slots: Tensor, inputs: Tensor, counts: Tensor) -> None:
    """Of `inputs` [B, before + C, channels] the last ones once `counts` of the C count."""
    num_rows, num_inputs = inputs.shape[1], parts[0].shape[2]
    begins = torch.arange(0, len(inputs) * num_rows, num_rows, device=counts.device) + counts
    after = inputs.flatten(0, 1)[begins[:, None] + torch.arange(num_inputs, device=counts.device)]
    sizes = [part.shape[1] * part.shape[3] for part in parts]
    for part, mine in zip(parts, torch.split(after, sizes, dim=-1), strict=True):
        part.index_copy_(0, slots, mine.view(*mine.shape[:2], part.shape[1], part.shape[3]).transpose(1, 2))
