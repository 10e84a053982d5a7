"""What stood before is guessed at; which workers do so, and for which requests."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from baton.v1 import inference_pb2
from tests.unit.engine.driver import OPEN, Driver, make_spec
from tests.unit.engine.oracle import Oracle
from workers.engine.sequence import Sequence
from workers.engine.wire import sampling_params
from workers.model.contract import ModelRunner
from workers.model.fake import VOCAB_SIZE, FakeRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import Role, SpeculationSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.ngram import READ_AT_ONCE, NgramDrafter


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def sampling(**settings: object) -> SamplingParams:
    return sampling_params(inference_pb2.SamplingParams(max_tokens=20, temperature=0.0, **settings))  # type: ignore[arg-type]


def sequence(prompt: list[int], output: list[int], name: str = "r", attempt: int = 0) -> Sequence:
    return Sequence(
        request_id=name,
        choice=0,
        attempt=attempt,
        ingress_id="i",
        prompt_token_ids=tuple(prompt),
        output_token_ids=output,
        params=sampling(),
        arrived_s=0.0,
        deadline_s=9.0,
    )


def test_prompt_and_answer_are_searched_and_longer_agreement_is_surer() -> None:
    drafter = NgramDrafter()
    seq = sequence([1, 2, 3, 4, 5, 6, 7], [9, 2, 3])
    (draft,) = drafter.propose([seq], 3)
    assert (draft.token_ids, draft.kind) == ([4, 5, 6], 0)
    seq.output_token_ids += [4, 5]
    (longer,) = drafter.propose([seq], 3)
    assert longer.token_ids == [6, 7, 9]
    assert longer.kind > draft.kind


def test_another_attempt_is_another_text() -> None:
    drafter = NgramDrafter()
    drafter.propose([sequence([1, 2, 3], [4, 1, 2, 8])], 2)
    (draft,) = drafter.propose([sequence([1, 2, 3], [1, 2], attempt=1)], 2)
    assert draft.token_ids == [3, 1]


def test_texts_are_forgotten_when_their_sequences_are_gone() -> None:
    drafter = NgramDrafter()
    for number in range(9):
        drafter.propose([sequence([1, 2, 3], [], name=str(number)), sequence([1, 2, 3], [], name="stays")], 2)
    assert len(drafter._texts) == 2
    drafter.propose([], 2)
    assert not drafter._texts


def test_long_prompts_are_read_bit_by_bit() -> None:
    """Whoever decodes beside them waits for a few milliseconds, not for a hundred thousand tokens."""
    drafter = NgramDrafter()
    long = sequence([*range(READ_AT_ONCE + 10), 1, 2, 3], [], name="long")
    short = sequence([1, 2, 3, 1, 2], [], name="short")
    assert [draft.token_ids for draft in drafter.propose([long, short], 2)] == [(), ()]
    assert [draft.token_ids for draft in drafter.propose([long, short], 2)] == [[4, 5], [3, 1]]


def test_a_request_may_go_without() -> None:
    answer = FakeRunner.expected_output([5], sampling(seed=1, ignore_eos=True), 0, 20)
    drafter = Oracle({("a", 0): answer, ("b", 0): answer}, vocab_size=VOCAB_SIZE, right=1.0)
    for word, drafts in (("none", False), ("auto", True)):
        driver = Driver([make_spec(Role.MIXED)], drafter=drafter)
        driver.submit("a", [5], max_tokens=20, speculation=word)
        driver.run()
        assert driver.answer("a") == answer
        assert bool(driver.engines[0].stats.num_draft_tokens) == drafts


def runner(num_states: int = 0) -> ModelRunner:
    return cast(ModelRunner, SimpleNamespace(num_states=num_states, max_model_len=64, vocab_size=100))


@pytest.mark.parametrize(
    ("role", "method", "num_states", "speculates"),
    [
        (Role.MIXED, "auto", 0, True),
        (Role.DECODE, "ngram", 0, True),
        (Role.DECODE, "none", 0, False),
        (Role.PREFILL, "ngram", 0, False),
        (Role.DECODE, "auto", 4, True),
        (Role.MIXED, "ngram", 4, True),
    ],
)
def test_who_speculates(role: Role, method: str, num_states: int, speculates: bool) -> None:
    spec = replace(make_spec(role), speculation=SpeculationSpec(method=method))
    assert (choose_speculation(spec, runner(num_states)) is not None) == speculates
