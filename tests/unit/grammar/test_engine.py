"""Answers that follow a grammar: whatever way they are written, they follow it, and are the same."""

import json
from collections.abc import Iterator, Sequence

import jsonschema
import pytest

from baton.v1 import inference_pb2, worker_pb2
from tests.unit.engine.driver import INGRESS, OPEN, Driver
from tests.unit.engine.oracle import Oracle
from tests.unit.grammar.model import (
    EOS,
    PERSON,
    VOCAB_SIZE,
    demo_spec,
    driver,
    ids,
    json_grammar,
    regex,
    text,
)
from workers.engine.draft import Draft
from workers.engine.sequence import Sequence as Seq
from workers.model.fake import FakeRunner
from workers.spec import Role

STOP, LENGTH = inference_pb2.FINISH_REASON_STOP, inference_pb2.FINISH_REASON_LENGTH
HANDOVER = (Role.PREFILL, Role.DECODE)
PROMPT = ids("Tell me of somebody.")


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def ask(driver: Driver, count: int = 6, choices: int = 1, **sampling: object) -> dict[tuple[str, int], list[int]]:
    settings = {"max_tokens": 200, "temperature": 1.0, "ignore_eos": False, "grammar": json_grammar(PERSON)} | sampling
    for index in range(count):
        driver.submit(str(index), [*PROMPT, index], choices=choices, seed=index, **settings)  # type: ignore[arg-type]
    driver.run()
    return {
        (str(index), choice): driver.answer(str(index), choice) for index in range(count) for choice in range(choices)
    }


def check(answers: dict[tuple[str, int], list[int]]) -> None:
    for answer in answers.values():
        jsonschema.validate(json.loads(text(answer)), PERSON)


def test_every_answer_follows_it_and_ends_with_it() -> None:
    plain = driver()
    answers = ask(plain)
    check(answers)
    assert len(set(map(tuple, answers.values()))) == len(answers)
    assert all(EOS not in answer for answer in answers.values())  # nothing may follow, so nobody is asked for an end
    assert all(final.finish_reason == STOP and not final.token_ids for [final] in plain.finals.values())


def test_forced_tokens_are_not_written_one_by_one() -> None:
    one = driver()
    answers = ask(one, count=1)
    num_forced = len(ids('", "height": '))
    assert one.engines[0].stats.num_steps < len(answers["0", 0]) - num_forced


class NoDrafter:
    def propose(self, seqs: Sequence[Seq], depth: int) -> list[Draft]:
        return [Draft() for _ in seqs]


def test_forced_tokens_are_not_counted_as_guesses_that_were_right() -> None:
    one = driver(drafter=NoDrafter())
    answers = ask(one, count=1)
    assert one.engines[0].stats.num_steps < len(answers["0", 0])
    assert (one.engines[0].stats.num_draft_tokens, one.engines[0].stats.num_accepted_tokens) == (0, 0)


@pytest.mark.parametrize(("count", "choices"), [(4, 1), (2, 3)])
def test_the_same_handed_over_preempted_drafted_for_and_forked(count: int, choices: int) -> None:
    want = ask(driver(), count=count, choices=choices)
    check(want)
    assert ask(driver(HANDOVER), count=count, choices=choices) == want
    assert ask(driver(max_batched_tokens=7), count=count, choices=choices) == want
    assert ask(driver(prefix_cache=False), count=count, choices=choices) == want
    for width in (1, 4):
        for roles in ((Role.MIXED,), HANDOVER):
            oracle = Oracle(want, vocab_size=VOCAB_SIZE, right=0.8, width=width)
            drafted = driver(roles, oracle)
            assert ask(drafted, count=count, choices=choices) == want
            assert drafted.engines[-1].stats.num_accepted_tokens > 0


def test_the_same_with_so_few_blocks_that_some_are_preempted() -> None:
    want = ask(driver())
    tight = driver(memory_bytes=60 * 4 * 4 * 4)
    assert ask(tight) == want
    assert tight.engines[0].stats.num_preemptions > 0


@pytest.mark.parametrize("roles", [(Role.MIXED,), HANDOVER])
def test_tried_again_from_anywhere_it_goes_on_as_before(roles: tuple[Role, ...]) -> None:
    whole = ask(driver(), count=1)["0", 0]
    for num_written in (1, len(whole) // 2, len(whole) - 1, len(whole)):
        again = driver(roles)
        submit = worker_pb2.Submit(
            request_id="0",
            attempt=1,
            prompt_token_ids=[*PROMPT, 0],
            choices=[worker_pb2.ChoiceStart(choice=0, output_token_ids=whole[:num_written])],
            sampling=inference_pb2.SamplingParams(max_tokens=200, temperature=1.0, seed=0),
            timeout_s=100.0,
            grammar=json_grammar(PERSON),
        )
        if len(roles) > 1:
            submit.decode.CopyFrom(again.route)
        again.engines[0].submit(INGRESS, submit)
        again.run()
        written = again.tokens["0", 0]
        assert [written[index] for index in sorted(written)] == whole[num_written:]
        assert [final.finish_reason for final in again.finals["0", 0]] == [STOP]


def test_an_end_of_text_comes_only_where_the_grammar_may_end() -> None:
    one = driver()
    for seed in range(20):
        one.submit(
            str(seed), PROMPT, seed=seed, temperature=1.0, ignore_eos=False, grammar=regex("(ab){2,}"), max_tokens=400
        )
    one.run()
    for seed in range(20):
        answer = one.answer(str(seed))
        assert set(text(answer).replace("ab", "?")) == {"?"}
        assert len(text(answer)) >= 4
        assert (answer[-1] == EOS) == (one.finals[str(seed), 0][0].finish_reason == STOP)


def test_ends_that_are_ignored_or_too_early_come_where_nothing_else_is_left() -> None:
    one = driver()
    one.submit("ignored", PROMPT, ignore_eos=True, grammar=regex("(ab)+"), max_tokens=30)
    one.submit("early", PROMPT, ignore_eos=False, min_tokens=20, grammar=regex("(ab)+"), max_tokens=40)
    one.submit("over", PROMPT, ignore_eos=True, min_tokens=50, grammar=regex("abc|xyz"), max_tokens=60)
    one.submit("empty", PROMPT, ignore_eos=True, min_tokens=5, grammar='start: ""', max_tokens=60)
    one.run()
    assert EOS not in one.answer("ignored")
    assert one.finals["ignored", 0][0].finish_reason == LENGTH
    assert len(one.answer("early")) >= 20
    assert text(one.answer("over")) in ("abc", "xyz")
    assert one.finals["over", 0][0].finish_reason == STOP
    assert text(one.answer("empty")) == ""
    assert one.finals["empty", 0][0].finish_reason == STOP


def test_stop_tokens_are_allowed_where_the_grammar_may_end() -> None:
    stop = ids("!")[0]
    one = driver()
    for seed in range(12):
        one.submit(
            str(seed),
            PROMPT,
            seed=seed,
            temperature=1.0,
            grammar=regex("(ab){3,}"),
            stop_token_ids=[stop],
            max_tokens=400,
        )
    one.run()
    for seed in range(12):
        answer = one.answer(str(seed))
        if one.finals[str(seed), 0][0].finish_reason == STOP:
            assert answer[-1] == stop
            answer = answer[:-1]
        assert stop not in answer
        assert text(answer).startswith("ababab")
    assert any(final.stop_reason == str(stop) for [final] in one.finals.values())


def test_a_bad_grammar_is_refused_by_name_and_others_go_on() -> None:
    for roles in ((Role.MIXED,), HANDOVER):
        one = driver(roles)
        one.submit("bad", PROMPT, grammar="start: /[/")
        one.submit("impossible", PROMPT, grammar="%llguidance {}\nstart: %json false")
        one.submit("good", PROMPT, grammar=regex("yes|no"), max_tokens=20)
        one.submit("free", PROMPT)
        one.run()
        for name in ("bad", "impossible"):
            [final] = one.finals[name, 0]
            assert final.error.code == "invalid_request"
            assert final.error.message.startswith("grammar: ")
        assert text(one.answer("good")) in ("yes", "no")
        assert len(one.answer("free")) == 8


def test_without_a_tokenizer_a_grammar_is_refused() -> None:
    one = Driver([demo_spec()], FakeRunner)
    one.submit("0", PROMPT, grammar=regex("yes"))
    one.run()
    assert "tokenizer" in one.finals["0", 0][0].error.message


def test_a_request_that_is_aborted_while_its_grammar_is_compiled_is_forgotten() -> None:
    for roles in ((Role.MIXED,), HANDOVER):
        one = driver(roles)
        one.submit("0", PROMPT, grammar=json_grammar(PERSON))
        one.abort("0")
        one.submit("1", PROMPT, grammar=json_grammar(PERSON), max_tokens=200)
        one.run()
        assert not one.finals["0", 0]
        assert one.finals["1", 0][0].finish_reason == STOP


def test_outputs_that_break_the_grammar_end_their_request_alone() -> None:
    one = driver()
    submit = worker_pb2.Submit(
        request_id="0",
        prompt_token_ids=PROMPT,
        choices=[worker_pb2.ChoiceStart(choice=0, output_token_ids=ids("x"))],
        sampling=inference_pb2.SamplingParams(max_tokens=20),
        timeout_s=100.0,
        grammar=regex("abc"),
    )
    one.engines[0].submit(INGRESS, submit)
    one.submit("1", PROMPT, grammar=regex("abc"), max_tokens=10)
    one.run()
    assert one.finals["0", 0][0].error.code == "internal"
    assert text(one.answer("1")) == "abc"


def test_a_library_that_raises_in_the_middle_ends_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    one = driver()
    one.submit("0", PROMPT, grammar=regex("(ab)+"), max_tokens=40)
    one.submit("1", PROMPT, max_tokens=40)
    for _ in range(200):
        one.step()
        if len(one.tokens["0", 0]) > 4:
            break
    seq = next(seq for seq in one.engines[0].scheduler.running if seq.request_id == "0")
    assert seq.follower is not None
    seq.follower.matcher.consume_token(ids("x")[0])  # type: ignore[attr-defined]  # it is in error from now on
    one.run()
    assert one.finals["0", 0][0].error.code == "internal"
    assert "grammar" in one.finals["0", 0][0].error.message
    assert len(one.answer("1")) == 40


def test_where_nobody_follows_a_grammar_no_masks_are_made() -> None:
    one = driver()
    one.submit("0", PROMPT, grammar=regex("yes|no"), max_tokens=20)
    one.run()
    assert one.engines[0].jobs.num_with_grammar == 0
    made = one.engines[0]._grammars
    assert made is not None
    made.masks = None  # type: ignore[assignment, method-assign]
    one.submit("1", PROMPT)
    one.run()
    assert len(one.answer("1")) == 8
