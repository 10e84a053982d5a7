"""What is sampled with trees of drafts, right and wrong, is distributed as the model says."""

from collections import Counter
from random import Random

import torch

from tests.unit.model.sampling import make_row
from tests.unit.model.test_sampler import assert_follows
from workers.model.contract import SampleRow
from workers.model.drafts import accept, single_rows
from workers.model.sampler import sample

VOCAB_SIZE, NUM_TOKENS, NUM_DRAWS = 4, 3, 6000


def random_row(rng: Random, seed: int, output: list[int]) -> SampleRow:
    """Children of a token differ; now and then there are none."""
    parents: list[int] = []
    token_ids: list[int] = []
    for _ in range(rng.randint(0, 6)):
        parent = rng.randint(-1, len(parents) - 1)
        token_id = rng.randrange(VOCAB_SIZE)
        if (parent, token_id) not in zip(parents, token_ids, strict=True):
            parents.append(parent)
            token_ids.append(token_id)
    row = make_row(seed=seed, temperature=0.8, output=output)
    return SampleRow(
        chunk=0,
        choice=0,
        params=row.params,
        prompt_token_ids=(),
        output_token_ids=output,
        draft_token_ids=token_ids,
        parents=parents,
    )


def test_three_tokens_of_a_small_vocabulary() -> None:
    torch.set_num_threads(1)
    rng, logits = Random(7), torch.randn(VOCAB_SIZE + 1, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    answers: list[list[int]] = [[] for _ in range(NUM_DRAWS)]
    num_right = 0
    while going := [seed for seed, answer in enumerate(answers) if len(answer) < NUM_TOKENS]:
        rows = [random_row(rng, seed, answers[seed]) for seed in going]
        singles = single_rows(rows)
        last = [row.output_token_ids[-1] if row.output_token_ids else VOCAB_SIZE for row in singles]
        for seed, run in zip(going, accept(rows, sample(logits[last], singles)), strict=True):
            answers[seed] += [sampled.token_id for sampled in run]
            num_right += len(run) - 1
    assert num_right > NUM_DRAWS / 2
    chances = (logits / 0.8).softmax(-1)
    joint = chances[VOCAB_SIZE][:, None, None] * chances[:-1][:, :, None] * chances[:-1][None]
    cells = [(answer[0] * VOCAB_SIZE + answer[1]) * VOCAB_SIZE + answer[2] for answer in answers]
    assert_follows(Counter(cells), joint.flatten())
