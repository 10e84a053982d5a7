"""Draft tokens change how many steps an answer takes, never its tokens: the fake model checks every block it reads."""

from collections.abc import Callable, Iterator

import pytest

from baton.v1 import inference_pb2, worker_pb2
from tests.unit.engine.driver import INGRESS, OPEN, Driver, make_spec
from tests.unit.engine.oracle import Answers, Oracle
from workers.engine.drafting import Draft, Drafter, proposed
from workers.engine.sequence import SamplingParams, Sequence
from workers.engine.wire import sampling_params
from workers.model.contract import Sampled, SampleRow
from workers.model.drafts import accept, single_rows
from workers.model.fake import VOCAB_SIZE, FakeRunner
from workers.spec import Role

Make = Callable[[Drafter | None], Driver]
NUM_OUTPUTS = 30
PROMPTS = {f"r{index}": [index + 1, *range(20, 20 + 7 * index)] for index in range(6)}


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def answer(prompt: list[int], choice: int = 0, **sampling: object) -> list[int]:
    settings = {"max_tokens": NUM_OUTPUTS, "seed": 1, "temperature": 0.0, "ignore_eos": True} | sampling
    params = sampling_params(inference_pb2.SamplingParams(**settings))  # type: ignore[arg-type]
    return FakeRunner.expected_output(prompt, params, choice, NUM_OUTPUTS)


def answers(num_choices: int = 1, **sampling: object) -> dict[tuple[str, int], list[int]]:
    return {
        (name, choice): answer(prompt, choice, **sampling)
        for name, prompt in PROMPTS.items()
        for choice in range(num_choices)
    }


def oracle(known: Answers, *, right: float = 0.8, num_drafts: int = 6) -> Oracle:
    return Oracle(known, vocab_size=VOCAB_SIZE, right=right, num_drafts=num_drafts)


def mixed(drafter: Drafter | None, **engine: object) -> Driver:
    settings: dict[str, object] = {"max_batched_tokens": 32, "max_sequences": 24}
    return Driver([make_spec(Role.MIXED, **{**settings, **engine})], drafter=drafter)


def pair(drafter: Drafter | None, **engine: object) -> Driver:
    settings: dict[str, object] = {"max_batched_tokens": 32, "max_sequences": 24}
    roles = (Role.PREFILL, Role.DECODE)
    return Driver([make_spec(role, **{**settings, **engine}) for role in roles], drafter=drafter)


def ask(driver: Driver, *, choices: int = 1, **sampling: object) -> None:
    for name, prompt in PROMPTS.items():
        driver.submit(name, prompt, choices=choices, **({"max_tokens": NUM_OUTPUTS} | sampling))


@pytest.mark.parametrize("right", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("make", [mixed, pair])
def test_answers_are_those_without_drafts(make: Make, temperature: float, right: float) -> None:
    known = answers(2, temperature=temperature)
    driver = make(oracle(known, right=right))
    ask(driver, choices=2, temperature=temperature)
    driver.run()
    for (name, choice), tokens in known.items():
        assert driver.answer(name, choice) == tokens
    stats = driver.engines[-1].stats
    assert stats.num_draft_tokens > 0
    assert (stats.num_accepted_tokens == stats.num_draft_tokens) == (right == 1.0)
    assert (stats.num_accepted_tokens > 0) == (right > 0.0)


def test_right_drafts_save_steps() -> None:
    plain, drafted = mixed(None), mixed(oracle(answers(), right=1.0))
    for driver in (plain, drafted):
        driver.submit("r0", PROMPTS["r0"], max_tokens=NUM_OUTPUTS)
        driver.run()
    assert drafted.engines[0].stats.num_steps < plain.engines[0].stats.num_steps / 2
    assert drafted.engines[0].stats.num_output_tokens == NUM_OUTPUTS


@pytest.mark.parametrize("make", [mixed, pair])
@pytest.mark.parametrize("num_outputs", range(1, 12))
def test_a_run_of_accepted_tokens_ends_with_max_tokens(make: Make, num_outputs: int) -> None:
    driver = make(oracle(answers(), right=1.0, num_drafts=20))
    ask(driver, max_tokens=num_outputs)
    driver.run()
    for name, prompt in PROMPTS.items():
        assert driver.answer(name) == answer(prompt)[:num_outputs]
        assert driver.finals[name, 0][0].finish_reason == inference_pb2.FINISH_REASON_LENGTH


@pytest.mark.parametrize("make", [mixed, pair])
@pytest.mark.parametrize("place", range(1, 9))
def test_a_run_of_accepted_tokens_ends_with_a_stop_token_or_eos(make: Make, place: int) -> None:
    whole = answer(PROMPTS["r3"])
    end = whole.index(whole[place]) + 1
    for sampling in ({"stop_token_ids": [whole[place]]}, {"logit_bias": {0: 0.0}, "ignore_eos": False}):
        driver = make(oracle({("r", 0): whole}, right=1.0, num_drafts=20))
        for engine in driver.engines:
            engine.runner.eos_token_ids = frozenset({whole[place]})
        driver.submit("r", PROMPTS["r3"], max_tokens=NUM_OUTPUTS, **sampling)  # type: ignore[arg-type]
        driver.run()
        assert driver.answer("r") == whole[:end]
        final = driver.finals["r", 0][0]
        assert final.finish_reason == inference_pb2.FINISH_REASON_STOP
        assert final.stop_reason == (str(whole[place]) if "stop_token_ids" in sampling else "")


def test_stop_tokens_wait_for_min_tokens_inside_a_run() -> None:
    whole = answer(PROMPTS["r2"])
    sampling = {"stop_token_ids": [whole[3], whole[9]], "min_tokens": 6}
    expected = answer(PROMPTS["r2"], **sampling)
    assert len(expected) >= 6
    driver = mixed(oracle({("r", 0): whole}, right=1.0, num_drafts=20))
    driver.submit("r", PROMPTS["r2"], max_tokens=NUM_OUTPUTS, **sampling)
    driver.run()
    assert driver.answer("r") == expected


@pytest.mark.parametrize("length", [24, 25, 26, 27])
def test_a_run_of_accepted_tokens_ends_with_the_models_length(length: int) -> None:
    whole = answer(PROMPTS["r1"])
    driver = mixed(oracle({("r", 0): whole}, right=1.0, num_drafts=20), max_model_len=length)
    driver.submit("r", PROMPTS["r1"], max_tokens=NUM_OUTPUTS)
    driver.run()
    assert driver.answer("r") == whole[: length - len(PROMPTS["r1"])]


def test_logprobs_come_one_per_token_and_are_those_without_drafts() -> None:
    plain, drafted = mixed(None), mixed(oracle(answers(temperature=1.0)))
    for driver in (plain, drafted):
        ask(driver, temperature=1.0, logprobs=2)
        driver.run()
    assert drafted.logprobs == plain.logprobs
    assert len(drafted.logprobs["r0", 0]) == NUM_OUTPUTS


@pytest.mark.parametrize("make", [mixed, pair])
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_preempted_sequences_go_on_with_the_same_tokens(make: Make, prefix_cache: bool) -> None:
    known = {(f"{turn}{name}", 0): answer(prompt) for turn in "ab" for name, prompt in PROMPTS.items()}
    driver = make(oracle(known), memory_bytes=36 * 128, prefix_cache=prefix_cache)  # type: ignore[call-arg]
    assert driver.engines[-1].runner.num_blocks == 36
    for turn in "ab":
        for name, prompt in PROMPTS.items():
            driver.submit(f"{turn}{name}", prompt, max_tokens=NUM_OUTPUTS)
    driver.run()
    assert driver.engines[-1].stats.num_preemptions > 0
    assert driver.engines[-1].stats.num_accepted_tokens > 0
    lost = {key for key, finals in driver.finals.items() if finals[0].error.retryable}
    assert len(lost) < len(known)  # a new attempt is the ingress's business; how many depends on when KV arrives
    for key, tokens in known.items():
        if key not in lost:
            assert driver.answer(*key) == tokens


def test_what_drafts_filled_is_found_in_the_prefix_cache() -> None:
    driver = mixed(oracle(answers(), right=1.0, num_drafts=9))
    for turn in range(2):
        ask(driver)
        driver.run()
        driver.tokens.clear()
        driver.finals.clear()
        if turn == 0:
            for name, prompt in PROMPTS.items():
                driver.submit(f"on-{name}", [*prompt, *answer(prompt)[:-1]], max_tokens=1)
            before = driver.engines[0].stats.num_prefix_hit_tokens
            driver.run()
            found = driver.engines[0].stats.num_prefix_hit_tokens - before
    full = [(len(prompt) + NUM_OUTPUTS - 2) // 4 * 4 for prompt in PROMPTS.values()]
    assert found == sum(full)


def test_drafts_delay_no_prompt_and_stay_within_the_budget() -> None:
    driver = mixed(oracle(answers(), right=0.5, num_drafts=30), max_batched_tokens=16)
    sizes: list[list[int]] = []
    scheduler = driver.engines[0].scheduler
    plan_one = scheduler.plan

    def noting(*arguments: object, **options: object) -> object:
        plan = plan_one(*arguments, **options)  # type: ignore[arg-type]
        sizes.append([chunk.num_tokens + len(chunk.draft_token_ids) for chunk in plan.chunks])
        waiting = any(seq.num_uncomputed_tokens > 1 for seq in scheduler.waiting)
        if waiting and any(chunk.draft_token_ids for chunk in plan.chunks):
            assert sum(chunk.num_tokens for chunk in plan.chunks) < 16
        return plan

    scheduler.plan = noting  # type: ignore[assignment, method-assign]
    ask(driver)
    driver.run()
    assert max(map(sum, sizes)) == 16


def test_an_attempt_that_is_handed_over_again_drafts_on_the_decode_side_alone() -> None:
    prompt, whole = PROMPTS["r4"], answer(PROMPTS["r4"])
    driver = pair(oracle({("r", 0): whole}, right=1.0))
    for attempt, num_known in ((0, 0), (1, 9)):
        submit = worker_pb2.Submit(
            request_id="r",
            attempt=attempt,
            prompt_token_ids=prompt,
            choices=[worker_pb2.ChoiceStart(choice=0, output_token_ids=whole[:num_known])],
            sampling=inference_pb2.SamplingParams(max_tokens=NUM_OUTPUTS, temperature=0.0, seed=1, ignore_eos=True),
            timeout_s=100.0,
            decode=worker_pb2.DecodeRoute(worker_id="decode-0"),
        )
        driver.tokens.clear()
        driver.engines[0].submit(INGRESS, submit)
        driver.run()
        assert [driver.tokens["r", 0][index] for index in range(num_known, NUM_OUTPUTS)] == whole[num_known:]
    assert driver.engines[0].stats.num_draft_tokens == 0
    assert driver.engines[1].stats.num_accepted_tokens > 0


def test_only_what_can_be_of_use_is_drafted() -> None:
    def draft(tokens: list[int], *, max_tokens: int = 10, num_outputs: int = 1, max_model_len: int = 100) -> list[int]:
        seq = Sequence(
            request_id="r",
            choice=0,
            attempt=0,
            ingress_id=INGRESS,
            prompt_token_ids=(1, 2, 3),
            output_token_ids=[4] * num_outputs,
            params=SamplingParams(max_tokens=max_tokens),
            arrived_s=0.0,
            deadline_s=1.0,
        )

        class Fixed:
            def propose(self, seqs: object, depth: int) -> list[Draft]:
                return [Draft(tokens)]

        return list(proposed(Fixed(), [seq], 6, max_model_len=max_model_len, vocab_size=10)[0].token_ids)

    assert draft([5, 6, 7]) == [5, 6, 7]
    assert draft([5, 10, 7]) == [5]
    assert draft([5, -1, 7]) == [5]
    assert draft([5, 6, 7], max_tokens=3) == [5]  # one is written, one drafted, and one follows
    assert draft([5, 6, 7], max_tokens=2) == []
    assert draft([5, 6, 7], max_model_len=7) == [5, 6]


def test_a_run_is_accepted_up_to_its_first_difference() -> None:
    def row(draft: list[int]) -> SampleRow:
        return SampleRow(
            chunk=0,
            choice=0,
            params=SamplingParams(max_tokens=9),
            prompt_token_ids=(1,),
            output_token_ids=[2, 3],
            draft_token_ids=draft,
        )

    rows = [row([4, 5]), row([]), row([6])]
    singles = single_rows(rows)
    assert [one.output_token_ids for one in singles] == [[2, 3], [2, 3, 4], [2, 3, 4, 5], [2, 3], [2, 3], [2, 3, 6]]
    found = accept(rows, [Sampled(token_id=token) for token in (4, 9, 5, 7, 6, 8)])
    assert [[token.token_id for token in run] for run in found] == [[4, 9], [7], [6, 8]]


def test_a_step_that_fails_teaches_nothing() -> None:
    driver = mixed(oracle(answers()))
    engine = driver.engines[0]
    speculation, run, learnt = engine._speculation, engine.runner.run, []
    assert speculation is not None
    speculation.learn = lambda chunks, num_accepted, took_s: learnt.append(took_s)  # type: ignore[method-assign]

    def fail(*args: object) -> list[list[Sampled]]:
        engine.runner.run = run  # type: ignore[method-assign]
        raise ValueError("out of memory")

    driver.submit("r0", PROMPTS["r0"], max_tokens=NUM_OUTPUTS)
    driver.step()
    engine.runner.run = fail  # type: ignore[method-assign]
    driver.step()
    assert driver.finals["r0", 0][0].error.message == "the step failed: out of memory"
    assert len(learnt) <= 1  # of the prompt, if its step was done before
