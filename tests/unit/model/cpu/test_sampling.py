"""The draw in one pass takes the tokens that torch's chain of ops takes."""

import pytest
import torch

from workers.model import sampler
from workers.model.contract import SampleRow
from workers.model.cpu import sampling as cpu_sampling
from workers.model.sampling_params import SamplingParams

pytestmark = [
    pytest.mark.skipif(not cpu_sampling.available(), reason="no C compiler"),
    pytest.mark.usefixtures("isa"),
]


def row(seed: int, **fields: float) -> SampleRow:
    params = SamplingParams(max_tokens=9, seed=seed, **fields)  # type: ignore[arg-type]
    return SampleRow(chunk=0, choice=seed % 3, params=params, prompt_token_ids=[1], output_token_ids=[2] * (seed % 5))


@pytest.mark.parametrize("vocab", [1, 5, 16, 1003])
@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0])
def test_a_draw_takes_the_token_that_the_written_out_noise_makes_the_largest(vocab: int, spread: float) -> None:
    rows = [row(seed, temperature=1.0) for seed in range(200)]
    logits = torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    scaled = logits - logits.amax(-1, keepdim=True)
    scores = scaled + sampler._gumbel(scaled, rows)
    found = cpu_sampling.draw(scaled, [sampler._key(r) for r in rows], None)
    assert found.equal(scores.argmax(-1))
    floors = scaled.median(-1, keepdim=True).values
    found = cpu_sampling.draw(scaled, [sampler._key(r) for r in rows], floors)
    assert found.equal(scores.masked_fill(scaled < floors, -torch.inf).argmax(-1))


def test_tokens_that_are_forbidden_are_never_drawn() -> None:
    logits = torch.full((50, 37), -torch.inf)
    logits[:, 30] = 0
    assert cpu_sampling.draw(logits, [(seed, seed) for seed in range(50)], None).eq(30).all()
