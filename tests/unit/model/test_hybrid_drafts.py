"""Drafts of models with layers of linear attention: the tokens of generate, and the states of tokens that count."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.models import HYBRIDS, tiny
from tests.unit.engine.driver import Driver
from tests.unit.engine.oracle import Oracle
from tests.unit.model import test_hybrid_engine as plain
from tests.unit.model.test_hybrid_engine import FAMILY, NUM_OUTPUTS, check, expected, prompts, spec_of
from workers.engine.engine import Engine
from workers.model.contract import Batch, Chunk, ChunkKind, SampleRow
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import Role

VOCAB_SIZE = 160
KINDS = (FAMILY, "minimax", "bamba")  # one of each kind of recurrence but the vector decay's; the others take longer
SOME_FAMILIES = [f if f in KINDS else pytest.param(f, marks=pytest.mark.slow) for f in HYBRIDS]


@pytest.fixture(autouse=True)
def _one_thread_and_closed_links() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while plain.OPEN:
        plain.OPEN.pop().close()


def oracle(answers: list[list[int]], right: float = 0.8) -> Oracle:
    return Oracle(
        {(f"r{index}", 0): tokens for index, tokens in enumerate(answers)}, vocab_size=VOCAB_SIZE, right=right
    )


def mixed(family: str, *, right: float = 0.8, **engine: object) -> Driver:
    return Driver([spec_of(tiny(family), **engine)], plain.shared_runner, oracle(expected(family), right))


def check_drafted(engine: Engine) -> None:
    assert 0 < engine.stats.num_accepted_tokens < engine.stats.num_draft_tokens


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_drafts_beside_prompts_in_chunks_with_prefix_hits(family: str) -> None:
    """States are kept every 8 tokens, of answers too; two of three answers are drafted, beside chunks of prompts."""
    driver = mixed(family)
    for _ in range(2 if family == FAMILY else 1):  # then from stored states
        for index, prompt in enumerate(prompts()):
            word = "none" if index % 3 == 2 else "auto"
            driver.submit(f"r{index}", prompt, max_tokens=NUM_OUTPUTS, speculation=word)
            driver.step()
        check(driver, family)
        driver.tokens.clear(), driver.finals.clear()
    check_drafted(driver.engines[0])
    for index, (prompt, answer) in enumerate(zip(prompts(), expected(family), strict=True)):
        driver.submit(f"on-{index}", [*prompt, *answer[:-1]], max_tokens=1)
        driver.run()
        assert driver.answer(f"on-{index}") == answer[-1:]  # from a state that was kept while drafting
    assert driver.engines[0].stats.num_prefix_hit_tokens > 0


@pytest.mark.parametrize("family", [FAMILY, *(pytest.param(f, marks=pytest.mark.slow) for f in HYBRIDS if f != FAMILY)])
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_drafts_that_are_all_wrong_or_all_right(family: str, right: float) -> None:
    driver = mixed(family, right=right, prefix_cache=False, state_cache_spacing=None)
    plain.submit_all(driver)
    check(driver, family)
    stats = driver.engines[0].stats
    assert stats.num_draft_tokens > 0
    assert stats.num_accepted_tokens == right * stats.num_draft_tokens


@pytest.mark.parametrize(
    "family", [f if f in (FAMILY, "minimax") else pytest.param(f, marks=pytest.mark.slow) for f in HYBRIDS]
)
def test_drafts_of_prompts_that_were_handed_over(family: str) -> None:
    specs = [spec_of(tiny(family), role) for role in (Role.PREFILL, Role.DECODE)]
    driver = Driver(specs, lambda spec: TorchRunner(spec), oracle(expected(family)))
    plain.submit_all(driver)
    check(driver, family)
    assert driver.engines[0].stats.num_draft_tokens == 0
    check_drafted(driver.engines[1])


def test_sequences_that_lose_their_blocks() -> None:
    driver = mixed(FAMILY)
    plain.run_short_of_blocks(driver, num_left=17)
    check(driver, FAMILY)
    check_drafted(driver.engines[0])


def test_sampling_with_seeds_penalties_and_choices_is_that_without_drafts() -> None:
    sampling: dict[str, object] = {
        "temperature": 0.9,
        "seed": 11,
        "frequency_penalty": 0.7,
        "top_p": 0.95,
        "logprobs": 0,
    }
    family, answers = "qwen3_5_text", dict[tuple[str, int], list[int]]()
    drivers = []
    for drafter in (None, Oracle(answers, vocab_size=VOCAB_SIZE)):
        driver = Driver([spec_of(tiny(family))], plain.shared_runner, drafter)
        for index, prompt in enumerate(prompts()):
            driver.submit(f"r{index}", prompt, choices=2, max_tokens=NUM_OUTPUTS, **sampling)
        driver.run()
        answers |= {key: driver.answer(*key) for key in driver.tokens}
        drivers.append(driver)
    plainly, drafted = drivers
    assert drafted.tokens == plainly.tokens
    for key, logprobs in plainly.logprobs.items():
        assert drafted.logprobs[key] == pytest.approx(logprobs, abs=1e-4)
    check_drafted(drafted.engines[0])


@pytest.mark.parametrize("family", HYBRIDS)
def test_a_state_is_that_of_the_tokens_that_count_whatever_the_drafts_were(family: str) -> None:
    """Beside it one decodes without drafts and one reads its prompt. It is nearly the state of single steps."""
    runner = plain.shared_runner(spec_of(tiny(family)))
    rng = random.Random(4)
    prompt = [rng.randrange(2, VOCAB_SIZE) for _ in range(9)]
    beside = [rng.randrange(2, VOCAB_SIZE) for _ in range(11)]
    blocks = {0: list(range(8)), 1: list(range(8, 16)), 2: list(range(16, 24))}

    def run(*chunks: Chunk, draft: list[int] = []) -> list[int]:  # noqa: B006
        rows = [_row(index, chunk, draft if chunk.num_drafts else []) for index, chunk in enumerate(chunks)]
        return [token.token_id for token in runner.run(Batch(chunks=chunks, samples=rows))[0]]

    def chunk(slot: int, tokens: list[int], start: int, kind: ChunkKind = ChunkKind.DECODE) -> Chunk:
        return Chunk(
            token_ids=tokens,
            start=start,
            block_ids=blocks[slot],
            num_sequence_tokens=start + len(tokens),
            kind=kind,
            state_id=slot,
        )

    def snapshot(slot: int) -> list[torch.Tensor]:
        return [part[slot].clone() for parts in runner.store.states for part in parts]

    (first,) = run(chunk(0, prompt, 0, ChunkKind.PREFILL))
    run(chunk(1, beside, 0, ChunkKind.PREFILL))
    written, states = [first], [snapshot(0)]
    for place in range(5):
        written += run(chunk(0, [written[-1]], len(prompt) + place))
        states.append(snapshot(0))
    for num_right in range(5):
        draft = [*written[1 : num_right + 1], *([(written[num_right + 1] + 1) % VOCAB_SIZE] * (4 - num_right))]
        run(chunk(0, prompt, 0, ChunkKind.PREFILL))
        drafted = chunk(0, [first, *draft], len(prompt))
        found = run(drafted, chunk(1, [5], len(beside)), chunk(2, beside, 0, ChunkKind.PREFILL), draft=draft)
        assert found == written[1 : num_right + 2]
        for mine, theirs in zip(snapshot(0), states[num_right + 1], strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


def _row(index: int, chunk: Chunk, draft: list[int]) -> SampleRow:
    params: dict[str, Any] = {"max_tokens": 64, "temperature": 0.0}
    return SampleRow(
        chunk=index,
        choice=0,
        params=SamplingParams(**params),
        prompt_token_ids=(1,),
        output_token_ids=(),
        draft_token_ids=draft,
    )
