"""Takes out of logits the tokens that a step's masks forbid."""

import torch
from torch import Tensor

from workers.model.contract import TokenMasks


def apply_masks(logits: Tensor, masks: TokenMasks) -> None:
    """Waits for the masks and sets what they forbid to -inf.

    Args:
        logits: [rows, vocab], float; changed in place, in the masks' rows.
    """
    forbidden = _on_cpu(masks) if logits.device.type == "cpu" else _unpacked(masks, logits)
    if len(masks.rows) == len(logits):
        logits.masked_fill_(forbidden, -torch.inf)
        return
    for at, row in enumerate(masks.rows):
        logits[row].masked_fill_(forbidden[at], -torch.inf)


def _on_cpu(masks: TokenMasks) -> Tensor:
    return torch.from_numpy(masks.forbidden())


def _unpacked(masks: TokenMasks, like: Tensor) -> Tensor:
    """[rows, vocab], bool, on the device, to which bits alone travel."""
    bits = torch.from_numpy(masks.bits()).to(like.device)
    allowed = bits[:, :, None] >> torch.arange(32, dtype=torch.int32, device=like.device) & 1
    return allowed.flatten(1)[:, : like.shape[1]] == 0
