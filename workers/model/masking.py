"""Takes out of logits the tokens that a step's masks forbid."""

import numpy as np
import torch
from torch import Tensor

from workers.model.contract import TokenMasks


def apply_masks(logits: Tensor, masks: TokenMasks) -> None:
    """Waits for the masks and sets what they forbid to -inf.

    Args:
        logits: [rows, vocab], float; changed in place, in the masks' rows.
    """
    if logits.device.type != "cpu":
        _apply_on_device(logits, masks)
        return
    forbidden = torch.from_numpy(masks.forbidden())
    if len(masks.rows) == len(logits):
        logits.masked_fill_(forbidden, -torch.inf)
        return
    for at, row in enumerate(masks.rows):
        logits[row].masked_fill_(forbidden[at], -torch.inf)


def _apply_on_device(logits: Tensor, masks: TokenMasks) -> None:
    """In as many calls however many rows there are."""
    forbidden = _unpacked(masks, logits)
    if len(masks.rows) == len(logits):
        logits.masked_fill_(forbidden, -torch.inf)
        return
    rows = torch.tensor(masks.rows, device=logits.device)
    logits[rows] = logits[rows].masked_fill_(forbidden, -torch.inf)


def _unpacked(masks: TokenMasks, like: Tensor) -> Tensor:
    """[rows, vocab], bool, on the device, to which bits alone travel; a byte a token at any time."""
    octets = torch.from_numpy(masks.bits().view(np.uint8)).to(like.device)  # little-endian: token i is bit i % 8
    allowed = octets[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=like.device) & 1
    return allowed.flatten(1)[:, : like.shape[1]] == 0
