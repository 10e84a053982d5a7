"""The likeliest tokens are those that torch's own search finds."""

import pytest
import torch

from workers.model.likeliest import WIDTH, likeliest


@pytest.mark.parametrize("vocab_size", [8, 160, 8 * WIDTH, 20 * WIDTH, 20 * WIDTH + 77])
def test_whatever_the_vocabulary(vocab_size: int) -> None:
    logits = torch.randn(50, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    assert likeliest(logits, 8).equal(logits.topk(8, dim=-1).indices)
    logits[:, -3:] += 9  # in the tail, if there is one
    assert likeliest(logits, 8).equal(logits.topk(8, dim=-1).indices)
