"""The tokens that the last step drew, for the chunks of the next one that follow them before a host knows them."""

import torch
from torch import Tensor

from workers.model.tensor_parallel.ranks import Ranks


class LastDrawn:
    """Of a runner.

    Attributes:
        token_ids: [tokens] int64, on the device; None on a rank that does not lead, until it is told, and where the
            last step drew none.
    """

    def __init__(self, ranks: Ranks | None, device: torch.device) -> None:
        self.token_ids: Tensor | None = None
        self._num_tokens = 0
        self._is_everywhere = ranks is None
        self._ranks = ranks
        self._device = device

    def drew(self, token_ids: Tensor | None, num_tokens: int) -> None:
        """On a rank that does not lead, without the tokens."""
        self.token_ids, self._num_tokens, self._is_everywhere = token_ids, num_tokens, self._ranks is None

    def on_every_rank(self) -> Tensor:
        """[tokens]. The leader's reach the other ranks, once, as a sum to which they add nothing."""
        assert self._num_tokens, "a chunk follows a step that sampled nothing"
        if self._ranks is not None and not self._is_everywhere:
            if self.token_ids is None:
                ids = torch.zeros(self._num_tokens, dtype=torch.float32, device=self._device)
            else:
                ids = self.token_ids.float()  # exact below 2^24
            self._ranks.all_reduce(ids)
            self.token_ids, self._is_everywhere = ids.long(), True
        assert self.token_ids is not None
        return self.token_ids
