"""The kernel changes logits as torch does, bit for bit, and a token that only the device knows as one that is known."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.model.sampling import make_row, random_logits
from workers.model import logit_adjustments
from workers.model.contract import SampleRow
from workers.model.cuda import penalties
from workers.model.logit_adjustments import adjust_by_torch, adjust_logits, changes_of

pytest.importorskip("triton", reason="triton is not installed (make kernels)")
EOS = (3, 5)
VOCAB = 60


@st.composite
def rows(draw: st.DrawFn) -> SampleRow:
    """That ask for any of it, or for nothing."""
    tokens = st.lists(st.integers(0, VOCAB - 1), max_size=12)
    bias = draw(st.dictionaries(st.integers(0, VOCAB + 5), st.floats(-100, 100, width=32), max_size=4))
    return make_row(
        prompt=tuple(draw(tokens)),
        output=draw(tokens),
        logit_bias=tuple(bias.items()),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.7])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.3, -1.7])),
        presence_penalty=draw(st.sampled_from([0.0, 1.1, -0.3])),
        min_tokens=draw(st.sampled_from([0, 3, 10])),
        stop_token_ids=draw(st.frozensets(st.integers(0, VOCAB + 5), max_size=3)),
        ignore_eos=draw(st.booleans()),
    )


def by_both(
    logits: torch.Tensor, asked: Sequence[SampleRow], pending: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """By the kernel, and by torch."""
    changes = changes_of(asked, EOS, logits.shape[1])
    if changes is None:
        return logits, logits
    return penalties.adjust(logits, changes, pending), adjust_by_torch(logits, changes, pending)


@settings(max_examples=60, derandomize=True)
@given(asked=st.lists(rows(), min_size=1, max_size=5), is_masked=st.booleans(), seed=st.integers(0, 99))
def test_rows_that_ask_for_anything(asked: list[SampleRow], is_masked: bool, seed: int) -> None:
    asked = [replace(row, is_masked=is_masked) for row in asked]
    logits = random_logits(len(asked), VOCAB, seed)
    logits[:, ::7] = -torch.inf
    before = logits.clone()
    found, want = by_both(logits, asked)
    assert found.equal(want)
    assert logits.equal(before)


@settings(max_examples=60, derandomize=True)
@given(
    asked=st.lists(rows(), min_size=1, max_size=5),
    sampled=st.lists(st.integers(0, VOCAB - 1), min_size=5, max_size=5),
    seed=st.integers(0, 99),
)
def test_a_token_that_is_pending_counts_as_one_that_is_known(
    asked: list[SampleRow], sampled: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    follows = [rng.choice([None, *range(len(sampled))]) for _ in asked]
    logits = random_logits(len(asked), VOCAB, seed)
    pending = torch.tensor(sampled)
    waiting = [replace(row, follows=at) for row, at in zip(asked, follows, strict=True)]
    known = [
        row if at is None else replace(row, output_token_ids=[*row.output_token_ids, sampled[at]])
        for row, at in zip(asked, follows, strict=True)
    ]
    want = adjust_logits(logits, known, EOS)
    for found in by_both(logits, waiting, pending):
        assert found.equal(want)
    assert adjust_logits(logits, waiting, EOS, pending).equal(want)


def test_lists_of_more_tokens_than_a_program_holds_and_rows_that_do_not_lie_side_by_side() -> None:
    rng = random.Random(1)
    size = 3 * penalties.BLOCK
    asked = [
        make_row(
            prompt=[rng.randrange(size) for _ in range(size)],
            output=[rng.randrange(size) for _ in range(size // 2)],
            logit_bias=tuple((token, rng.uniform(-9, 9)) for token in rng.sample(range(size), size // 2)),
            repetition_penalty=1.2,
            frequency_penalty=0.1,
            presence_penalty=0.7,
        )
        for _ in range(2)
    ]
    logits = random_logits(4, size)[::2]
    found, want = by_both(logits, asked)
    assert found.equal(want)
    waiting = [replace(row, follows=i) for i, row in enumerate(asked)]
    found, want = by_both(logits, waiting, torch.tensor([asked[0].output_token_ids[0], size - 1]))
    assert found.equal(want)


def test_a_prompt_is_told_apart_from_an_equal_one_and_looked_at_once() -> None:
    (prompt, other), logits = (tuple(range(20)) for _ in range(2)), random_logits(1, VOCAB)
    row = make_row(prompt=prompt, repetition_penalty=2.0)
    before = logit_adjustments._once.cache_info()
    for _ in range(3):
        adjust_logits(logits, [row], EOS)
    adjust_logits(logits, [replace(row, prompt_token_ids=other)], EOS)
    after = logit_adjustments._once.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (2, 2)


def test_a_pending_token_that_is_not_given_is_a_bug() -> None:
    row = replace(make_row(repetition_penalty=2.0), follows=0)
    with pytest.raises(AssertionError, match="pending, and not given"):
        adjust_logits(random_logits(1, VOCAB), [row], EOS)


def test_the_kernel_finds_itself_right_here_and_is_not_used_on_a_cpu() -> None:
    assert penalties.is_right(torch.device("cpu"))
    assert not penalties.works(torch.device("cpu"))
