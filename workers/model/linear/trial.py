"""A few tokens of each of many sequences, of which it is known only afterwards how many count: drafts.

States are read and left as they are. Of each token is kept its key, its decay, and what it adds to the state for that
key (the delta rule's correction, which depends on the tokens before, is in it). So the state after any number of the
tokens is one product away, and costs what one token's state does, whatever that number is.
"""

import torch
from torch import Tensor

from workers.model.linear.decay import LEAST_LOG_DECAY, chunk_decay, factors


class Trial:
    """C tokens of each of B sequences; see `workers.model.linear` for the formulas.

    Args:
        q, k: [B, C, H, d_k], any floating dtype; computed in float32.
        v: [B, C, H, d_v].
        log_decay: [B, C, H] or [B, C, H, d_k], <= 0, down to -inf; None: no decay.
        beta: [B, C, H]; None: no delta rule.
        state: [B, H, d_k, d_v] float32, before the first token; left as it is.
    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, state: Tensor
    ) -> None:
        queries, self._keys, values = (x.transpose(1, 2).float() for x in (q, k, v))  # [B, H, C, d]
        self._log_decay = None if log_decay is None else log_decay.transpose(1, 2).float()
        decay = chunk_decay(self._log_decay)
        self._added = values  # [B, H, C, d_v]: for each key
        if beta is not None:
            betas = beta.transpose(1, 2).float()[..., None]
            lower = decay.pairs(self._keys, self._keys).mul_(betas)
            wanted = (values - torch.matmul(decay.from_start(self._keys), state)).mul_(betas)
            self._added = torch.linalg.solve_triangular(lower, wanted, upper=False, unitriangular=True)
        out = torch.matmul(decay.pairs(queries, self._keys), self._added)
        out += torch.matmul(decay.from_start(queries), state)
        self.outputs = out.transpose(1, 2).to(v.dtype)  # [B, C, H, d_v]

    def after(self, state: Tensor, counts: Tensor) -> Tensor:
        """[B, H, d_k, d_v], a new tensor: after the first `counts` [B] tokens of each, one or more, from `state` as it
        was given before.
        """
        counted = torch.arange(self._keys.shape[2], device=state.device) < counts[:, None]  # [B, C]
        keys = self._keys * counted[:, None, :, None]
        if self._log_decay is None:
            return state + torch.matmul(keys.mT, self._added)
        log_decay = self._log_decay if self._log_decay.dim() == 4 else self._log_decay[..., None]
        # Sums in float64: what two of them differ by is exact to float32 however large they are.
        sums = log_decay.clamp(min=LEAST_LOG_DECAY).double().cumsum(2)  # [B, H, C, d_k or 1]
        last = (counts - 1).view(-1, 1, 1, 1).expand(-1, sums.shape[1], 1, sums.shape[3])
        whole = sums.gather(2, last)
        keys *= factors((whole - sums).float().clamp_(max=0))
        return torch.matmul(keys.mT, self._added).addcmul_(state, factors(whole.float()).mT)
