"""Three tokens that the demo model draws, over many seeds, follow its own probabilities, with drafts as without.

Against an oracle that has nothing of ours: transformers' logits, the formula of temperature and top-k.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.unit.engine.driver import Driver
from tests.unit.model.driver import make_spec
from workers.engine.drafting import Drafter
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, WorkerSpec
from workers.speculative.draft_model import ModelDrafter
from workers.speculative.draft_runner import load_draft_runner
from workers.speculative.ngram import NgramDrafter
from workers.speculative.recycling import RecyclingDrafter, Successors

BUNDLED = Path("workers/model/bundled").resolve()
pytestmark = pytest.mark.skipif(
    not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"
)
TEXT = "He went out of the room, and she went out of the"  # copies are right now and then
TOP_K, TEMPERATURE, NUM_TOKENS = 4, 1.3, 3
MIN_EXPECTED = 5.0  # of a cell of the chi-square; rarer outcomes are one
AT_ONCE = 64

Outcome = tuple[int, ...]
Make = Callable[[WorkerSpec, TorchRunner], Drafter | None]


def by_model(spec: WorkerSpec, runner: TorchRunner) -> Drafter:
    return ModelDrafter(load_draft_runner(replace(spec, draft_model=str(BUNDLED / "demo-draft")), runner), kind=4)


DRAFTERS: dict[str, Make] = {
    "none": lambda spec, runner: None,
    "ngram": lambda spec, runner: NgramDrafter(),
    "trees": lambda spec, runner: RecyclingDrafter(NgramDrafter(4), Successors(runner.vocab_size), width=4),
    "draft": by_model,
    "draft trees": lambda spec, runner: RecyclingDrafter(
        by_model(spec, runner), Successors(runner.vocab_size), width=4
    ),
}


@cache
def prompt() -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(BUNDLED / "demo" / "tokenizer.json")).encode(TEXT).ids
    return ids


@cache
def probabilities() -> dict[Outcome, float]:
    """Of all that three draws of the 4 likeliest can give."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BUNDLED / "demo", dtype=torch.float32)
    found: dict[Outcome, float] = {(): 1.0}
    for _ in range(NUM_TOKENS):
        outcomes = list(found)
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt(), *outcome] for outcome in outcomes])).logits[:, -1].double()
        top = logits.topk(TOP_K)
        shares = torch.softmax(top.values / TEMPERATURE, -1).tolist()
        found = {
            (*outcome, token): found[outcome] * share
            for outcome, tokens, row in zip(outcomes, top.indices.tolist(), shares, strict=True)
            for token, share in zip(tokens, row, strict=True)
        }
    return found


def drawn(make: Make, first_seed: int, num_seeds: int) -> tuple[Counter[Outcome], Driver]:
    engine = EngineSpec(
        block_size=16, memory_bytes=64 << 20, max_model_len=64, max_sequences=AT_ONCE, max_batched_tokens=2048
    )
    spec = make_spec(BUNDLED / "demo", engine=engine)
    runner = TorchRunner(spec)
    driver = Driver([spec], lambda spec: runner, make(spec, runner))
    found: Counter[Outcome] = Counter()
    for start in range(0, num_seeds, AT_ONCE):
        for seed in range(start, min(start + AT_ONCE, num_seeds)):
            driver.submit(
                str(seed),
                prompt(),
                max_tokens=NUM_TOKENS,
                temperature=TEMPERATURE,
                top_k=TOP_K,
                seed=first_seed + seed,
            )
        driver.run()
        found.update(tuple(driver.answer(str(seed))) for seed in range(start, min(start + AT_ONCE, num_seeds)))
    return found, driver


def chi_square(found: Counter[Outcome]) -> tuple[float, float]:
    """The statistic, and what it passes once in a million; outcomes that cannot come are an error."""
    num_draws, rare_found, rare_expected, statistic, num_cells = found.total(), 0, 0.0, 0.0, 0
    assert set(found) <= set(probabilities())
    for outcome, probability in probabilities().items():
        expected = num_draws * probability
        if expected < MIN_EXPECTED:
            rare_found, rare_expected = rare_found + found[outcome], rare_expected + expected
        else:
            statistic, num_cells = statistic + (found[outcome] - expected) ** 2 / expected, num_cells + 1
    if rare_expected >= 1.0:
        statistic, num_cells = statistic + (rare_found - rare_expected) ** 2 / rare_expected, num_cells + 1
    spread = 2 / (9 * (num_cells - 1))
    return statistic, (num_cells - 1) * (1 - spread + 4.75 * math.sqrt(spread)) ** 3  # Wilson and Hilferty 1931


def check(name: str, first_seed: int, num_seeds: int) -> None:
    found, driver = drawn(DRAFTERS[name], first_seed, num_seeds)
    statistic, limit = chi_square(found)
    assert statistic < limit, f"{statistic:.1f} is above {limit:.1f}: {found.most_common(8)}"
    stats = driver.engines[0].stats
    if name != "none":
        assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens


def test_the_oracles_probabilities_are_whole_and_spread() -> None:
    assert sum(probabilities().values()) == pytest.approx(1.0)
    assert len(probabilities()) == TOP_K**NUM_TOKENS
    assert max(probabilities().values()) < 0.5


@pytest.mark.parametrize("name", ["none", "draft trees"])
def test_a_few_hundred_draws_follow_it(name: str) -> None:
    check(name, first_seed=1, num_seeds=384)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAFTERS)
def test_many_draws_follow_it(name: str) -> None:
    check(name, first_seed=1 << 20, num_seeds=3072)


@pytest.mark.slow
def test_a_draft_that_were_taken_more_often_than_it_is_drawn_would_be_seen() -> None:
    """One draw in 12 is the likeliest outcome whatever was drawn."""
    found, _ = drawn(DRAFTERS["none"], 1, 3072)
    likeliest = max(probabilities(), key=probabilities().__getitem__)
    bent: Counter[Outcome] = Counter({outcome: count - count // 12 for outcome, count in found.items()})
    bent[likeliest] += found.total() - bent.total()
    statistic, limit = chi_square(bent)
    assert statistic > limit
