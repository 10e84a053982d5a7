"""Drafts of a model that keeps states: a rejected token leaves no trace in them. The fake checks them at every step."""

import random
from collections.abc import Callable, Iterator

import pytest

from tests.unit.engine.driver import OPEN, Driver, make_spec
from tests.unit.engine.oracle import Oracle
from tests.unit.engine.stateful_fake import StatefulFakeRunner
from tests.unit.engine.test_engine import expected
from workers.engine.drafting import Draft, Drafter
from workers.engine.sequence import Sequence
from workers.engine.stateful_blocks import StatefulBlocks
from workers.model.contract import Batch
from workers.model.fake import VOCAB_SIZE
from workers.spec import Role

NUM_OUTPUTS = 30
PROMPTS = {f"r{index}": [index + 1, *range(20, 20 + 7 * index)] for index in range(6)}
Make = Callable[..., Driver]


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def oracle(right: float = 0.8, num_choices: int = 1, **sampling: object) -> Oracle:
    answers = {
        (name, choice): expected(prompt, NUM_OUTPUTS, choice, **sampling)
        for name, prompt in PROMPTS.items()
        for choice in range(num_choices)
    }
    return Oracle(answers, vocab_size=VOCAB_SIZE, right=right)


def mixed(drafter: Drafter, **engine: object) -> Driver:
    """States are kept every 8 tokens, in as many slots as there are sequences and 20 more."""
    settings: dict[str, object] = {"max_batched_tokens": 32, "max_sequences": 24} | engine
    return Driver([make_spec(Role.MIXED, **settings)], _runner, drafter)


def pair(drafter: Drafter, **engine: object) -> Driver:
    settings: dict[str, object] = {"max_batched_tokens": 32, "max_sequences": 24} | engine
    return Driver([make_spec(role, **settings) for role in (Role.PREFILL, Role.DECODE)], _runner, drafter)


def _runner(spec: object) -> StatefulFakeRunner:
    return StatefulFakeRunner(spec, num_extra=20)  # type: ignore[arg-type]


def finish(driver: Driver) -> None:
    driver.run()
    for engine in driver.engines:
        assert isinstance(engine.blocks, StatefulBlocks)
        assert engine.blocks.slots.num_free == engine.blocks.num_states, "a slot is held"
    assert driver.engines[0].stats.num_draft_tokens == 0 or len(driver.engines) == 1, "prefill does not draft"


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("right", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("make", [mixed, pair])
def test_answers_are_those_without_drafts(make: Make, right: float, chunked: bool) -> None:
    driver = make(oracle(right, 2, temperature=1.0), chunked_prefill=chunked)
    for name, prompt in PROMPTS.items():
        driver.submit(name, prompt, choices=2, max_tokens=NUM_OUTPUTS, temperature=1.0)
    finish(driver)
    for name, prompt in PROMPTS.items():
        for choice in range(2):
            assert driver.answer(name, choice) == expected(prompt, NUM_OUTPUTS, choice, temperature=1.0)
    stats = driver.engines[-1].stats
    assert stats.num_draft_tokens > 0
    assert (stats.num_accepted_tokens > 0) == (right > 0)


@pytest.mark.parametrize("right", [0.5, 1.0])
@pytest.mark.parametrize("chunked", [True, False])
def test_states_that_are_kept_of_answers_are_of_accepted_tokens_and_found_again(chunked: bool, right: float) -> None:
    driver = mixed(oracle(right), chunked_prefill=chunked)
    for name, prompt in PROMPTS.items():
        driver.submit(name, prompt, max_tokens=NUM_OUTPUTS)
        finish(driver)
        before = driver.engines[0].stats.num_prefix_hit_tokens
        turn = [*prompt, *driver.answer(name), 7, 7]
        driver.submit(f"then-{name}", turn)
        finish(driver)
        assert driver.answer(f"then-{name}") == expected(turn)
        found = driver.engines[0].stats.num_prefix_hit_tokens - before
        assert found == (len(prompt) + NUM_OUTPUTS - 1) // 8 * 8, "a state after each 8 tokens that were computed"


def test_no_chunk_goes_past_a_state_that_is_to_be_kept() -> None:
    driver = mixed(oracle(right=1.0))
    runner = driver.engines[0].runner
    run, longest = runner.run, 0

    def noting(batch: Batch, *rest: object) -> object:
        nonlocal longest
        for chunk in batch.chunks:
            end = chunk.start + len(chunk.token_ids)
            assert chunk.start // 8 == (end - 1) // 8
            longest = max(longest, chunk.num_drafts)
        return run(batch, *rest)  # type: ignore[arg-type]

    runner.run = noting  # type: ignore[assignment, method-assign]
    driver.submit("r1", PROMPTS["r1"], max_tokens=NUM_OUTPUTS)
    finish(driver)
    assert driver.answer("r1") == expected(PROMPTS["r1"], NUM_OUTPUTS)
    assert longest > 1


def test_an_answer_that_ends_inside_a_run_of_accepted_tokens_leaves_no_wrong_state() -> None:
    prompt = PROMPTS["r2"]
    whole = expected(prompt, NUM_OUTPUTS)
    for place in range(NUM_OUTPUTS):
        driver = mixed(oracle(right=1.0))
        driver.submit("r2", prompt, max_tokens=NUM_OUTPUTS, stop_token_ids=[whole[place]])
        finish(driver)
        answer = driver.answer("r2")
        assert answer == whole[: whole.index(whole[place]) + 1]
        turn = [*prompt, *answer, 9]
        driver.submit("then", turn)
        finish(driver)
        assert driver.answer("then") == expected(turn)


@pytest.mark.parametrize("make", [mixed, pair])
def test_preempted_sequences_go_on_with_the_same_tokens(make: Make) -> None:
    driver = make(oracle(), memory_bytes=36 * 128)
    for _ in range(2):
        for name, prompt in PROMPTS.items():
            driver.submit(name, prompt, max_tokens=NUM_OUTPUTS)
        finish(driver)
        for name, prompt in PROMPTS.items():
            if not driver.finals[name, 0][0].error.retryable:  # a new attempt is the ingress's business
                assert driver.answer(name) == expected(prompt, NUM_OUTPUTS)
        driver.tokens.clear(), driver.finals.clear()
    stats = driver.engines[-1].stats
    assert stats.num_preemptions > 0
    assert stats.num_accepted_tokens > 0


def test_of_a_tree_a_model_that_keeps_states_is_given_the_first_path() -> None:
    tree = Draft([4, 5, 6, 7, 8, 9], 2, [-1, -1, 0, 1, 0, 2])  # 4, then 6 or 8, and 9 after 6; or 5, then 7
    assert tree.first_path() == Draft([4, 6, 9], 2)
    assert Draft([4, 5]).first_path() == Draft([4, 5])

    class Trees:
        """After each token a right one and a wrong one; the right one is now first, now second."""

        def __init__(self) -> None:
            self._rng = random.Random(3)

        def propose(self, seqs: list[Sequence], depth: int) -> list[Draft]:
            return [self._tree(seq, depth) for seq in seqs]

        def _tree(self, seq: Sequence, depth: int) -> Draft:
            start = len(seq.output_token_ids)
            token_ids: list[int] = []
            parents: list[int] = []
            at = -1
            for token in expected(list(seq.prompt_token_ids), NUM_OUTPUTS)[start : start + depth]:
                both = [token, (token + 1) % VOCAB_SIZE]
                if self._rng.random() < 0.3:
                    both.reverse()
                parents += [at, at]
                token_ids += both
                at = token_ids.index(token, len(token_ids) - 2)
            return Draft(token_ids, 0, parents)

    driver = mixed(Trees())  # type: ignore[arg-type]
    driver.submit("r3", PROMPTS["r3"], max_tokens=NUM_OUTPUTS)
    finish(driver)
    assert driver.answer("r3") == expected(PROMPTS["r3"], NUM_OUTPUTS)
    assert driver.engines[0].stats.num_accepted_tokens > 0
