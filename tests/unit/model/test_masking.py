"""Masks on a device and on the CPU forbid the same tokens of the same rows."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from workers.model.masking import _apply_on_device, apply_masks


@dataclass
class Masks:
    rows: list[int]
    allowed: np.ndarray  # bool [rows, words * 32]
    vocab_size: int

    def bits(self) -> np.ndarray:
        return np.packbits(self.allowed, axis=1, bitorder="little").view(np.int32)

    def forbidden(self) -> np.ndarray:
        return ~self.allowed[:, : self.vocab_size]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 3], [2]])
@pytest.mark.parametrize("vocab_size", [64, 75, 96])
def test_bits_that_travel_to_a_device_forbid_what_bools_do(rows: list[int], vocab_size: int) -> None:
    rng = np.random.default_rng(1)
    masks = Masks(rows, rng.random((len(rows), 96)) < 0.3, vocab_size)
    logits = torch.from_numpy(rng.standard_normal((4, vocab_size), dtype=np.float32))
    here, there = logits.clone(), logits.clone()
    apply_masks(here, masks)
    _apply_on_device(there, masks)
    assert torch.equal(here, there)
    for at, row in enumerate(rows):
        assert np.array_equal(torch.isinf(here[row]).numpy(), ~masks.allowed[at, :vocab_size])
    others = [row for row in range(4) if row not in rows]
    assert torch.equal(here[others], logits[others])
