"""Whatever the route through engines and links, greedy tokens and logprobs are those of transformers' generate."""

import functools
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baton.v1 import inference_pb2, worker_pb2
from tests.models import FAMILIES, tiny
from tests.unit.engine.driver import INGRESS, OPEN, Driver
from tests.unit.engine.oracle import Oracle
from tests.unit.model.driver import Expected, generate, make_spec, prompts_of
from workers.engine.drafting import Drafter
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, WorkerSpec
from workers.speculative.ngram import NgramDrafter

QUICK = ("llama", "qwen3_moe", "gemma3_text", "gpt_oss")  # of the other families, `test_disaggregated...` alone
SOME_FAMILIES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
NUM_OUTPUTS = 10
LENGTHS = (1, 2, 3, 4, 5, 8, 17, 40)
EVERYTHING: dict[str, object] = {  # that sampling can be asked for at once
    "temperature": 0.9,
    "top_p": 0.9,
    "presence_penalty": 0.6,
    "frequency_penalty": 0.4,
    "repetition_penalty": 1.2,
    "logit_bias": {3: 2.0},
    "min_tokens": 4,
    "logprobs": 2,
}


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


@functools.cache
def prompts() -> list[list[int]]:
    return prompts_of(random.Random(5), LENGTHS, 160)


@functools.cache
def expected(folder: Path) -> list[Expected]:
    return generate(folder, prompts(), NUM_OUTPUTS)


def spec(folder: Path, role: Role, **engine: object) -> WorkerSpec:
    settings: dict[str, object] = {
        "block_size": 4,
        "memory_bytes": 4 << 20,
        "max_model_len": 96,
        "max_batched_tokens": 7,
    }
    base = make_spec(folder)
    return replace(base, role=role, engine=EngineSpec(**{**settings, **engine}))  # type: ignore[arg-type]


def mixed(folder: Path, drafter: Drafter | None = None, **engine: object) -> Driver:
    return Driver([spec(folder, Role.MIXED, **engine)], TorchRunner, drafter)


def pair(folder: Path, drafter: Drafter | None = None, **engine: object) -> Driver:
    specs = [spec(folder, role, **engine) for role in (Role.PREFILL, Role.DECODE)]
    return Driver(specs, TorchRunner, drafter)


def ask(driver: Driver, turn: str = "") -> None:
    for index, prompt in enumerate(prompts()):
        driver.submit(f"{turn}{index}", prompt, max_tokens=NUM_OUTPUTS, logprobs=0)


def check(driver: Driver, folder: Path, turn: str = "") -> None:
    for index, want in enumerate(expected(folder)):
        assert driver.answer(f"{turn}{index}") == want.tokens, f"prompt {index}"
        logprobs = [driver.logprobs[f"{turn}{index}", 0][position] for position in range(NUM_OUTPUTS)]
        assert logprobs == pytest.approx(want.logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_disaggregated_and_chunked_at_odd_sizes(family: str) -> None:
    folder = tiny(family)
    driver = pair(folder)
    ask(driver)
    driver.run()
    check(driver, folder)
    assert driver.engines[1].stats.num_output_tokens == len(LENGTHS) * (NUM_OUTPUTS - 1)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_co_located_and_cached_in_full_in_part_and_not(family: str) -> None:
    folder = tiny(family)
    driver = mixed(folder)
    for turn in ("cold", "warm"):
        ask(driver, turn)
        driver.run()
        check(driver, folder, turn)
    assert driver.engines[0].stats.num_prefix_hit_tokens > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_prompts_run_whole_before_decodes(family: str) -> None:
    folder = tiny(family)
    driver = mixed(folder, chunked_prefill=False)
    ask(driver)
    driver.run()
    check(driver, folder)
    assert driver.engines[0].stats.num_output_tokens == len(LENGTHS) * NUM_OUTPUTS


@pytest.mark.parametrize("make", [mixed, pair])
def test_preempted_and_resumed(make: object) -> None:
    folder = tiny("llama")
    driver = make(folder, memory_bytes=30 * 4 * 3 * 2 * 2 * 16 * 4)  # type: ignore[operator]
    assert driver.engines[-1].runner.num_blocks == 30
    for turn in "abc":
        ask(driver, turn)
    driver.run()
    again = {key[0] for key, finals in driver.finals.items() if any(final.error.retryable for final in finals)}
    assert driver.engines[-1].stats.num_preemptions > 0
    for turn in "abc":
        for index, want in enumerate(expected(folder)):
            if f"{turn}{index}" not in again:  # a new attempt is the dispatcher's business
                assert driver.answer(f"{turn}{index}") == want.tokens
    assert len(again) < 12


@pytest.mark.parametrize("num_known", [1, 4, 9])
def test_a_new_attempt_goes_on_from_the_tokens_already_sent(num_known: int) -> None:
    folder = tiny("llama")
    driver = pair(folder)
    for index, (prompt, want) in enumerate(zip(prompts(), expected(folder), strict=True)):
        submit = worker_pb2.Submit(
            request_id=str(index),
            attempt=1,
            prompt_token_ids=prompt,
            choices=[worker_pb2.ChoiceStart(choice=0, output_token_ids=want.tokens[:num_known])],
            sampling=inference_pb2.SamplingParams(max_tokens=NUM_OUTPUTS, temperature=0.0, seed=1),
            timeout_s=100.0,
            decode=worker_pb2.DecodeRoute(worker_id="decode-0"),
        )
        driver.engines[0].submit(INGRESS, submit)
    driver.run()
    for index, want in enumerate(expected(folder)):
        got = driver.tokens[str(index), 0]
        assert [got[position] for position in range(num_known, NUM_OUTPUTS)] == want.tokens[num_known:]


def test_an_answer_whose_first_token_is_the_end_hands_nothing_over() -> None:
    folder = tiny("llama")
    first = expected(folder)[5].tokens[0]
    ending = tiny("llama", eos_token_id=first)
    driver = pair(ending)
    driver.submit("r", prompts()[5], ignore_eos=False)
    driver.run()
    assert driver.answer("r") == [first]
    assert driver.finals["r", 0][0].finish_reason == inference_pb2.FINISH_REASON_STOP
    assert driver.engines[1].stats.num_output_tokens == 0


def test_each_of_several_end_tokens_of_the_generation_config_ends_an_answer(tmp_path: Path) -> None:
    wanted = expected(tiny("llama"))[4:6]
    ends = [answer.tokens[2] for answer in wanted]
    folder = tmp_path / "model"
    shutil.copytree(tiny("llama"), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    driver = mixed(folder)
    for index in range(2):
        driver.submit(str(index), prompts()[4 + index], ignore_eos=False)
    driver.run()
    for index, answer in enumerate(wanted):
        num_tokens = next(at for at, token in enumerate(answer.tokens) if token in ends) + 1
        assert driver.answer(str(index)) == answer.tokens[:num_tokens]
        assert driver.finals[str(index), 0][0].finish_reason == inference_pb2.FINISH_REASON_STOP


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss"])
def test_drafts_right_and_wrong_change_neither_tokens_nor_logprobs(family: str) -> None:
    folder = tiny(family)
    answers = {(str(index), 0): want.tokens for index, want in enumerate(expected(folder))}
    for make in (mixed, pair):
        driver = make(folder, Oracle(answers, vocab_size=160, num_drafts=5), max_batched_tokens=24)
        ask(driver)
        driver.run()
        check(driver, folder)
        assert 0 < driver.engines[-1].stats.num_accepted_tokens < driver.engines[-1].stats.num_draft_tokens


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_copies_of_what_stood_before_change_no_token(family: str) -> None:
    folder = tiny(family)
    repeating = [[*prompt, *prompt, *prompt[:4]] for prompt in prompts() if len(prompt) < 24]
    answers: list[list[list[int]]] = []
    for driver in (mixed(folder), *(make(folder, NgramDrafter(), max_batched_tokens=24) for make in (mixed, pair))):
        for index, prompt in enumerate(repeating):
            driver.submit(str(index), prompt, max_tokens=NUM_OUTPUTS)
        driver.run()
        answers.append([driver.answer(str(index)) for index in range(len(repeating))])
        assert (driver.engines[-1].stats.num_draft_tokens > 0) == (len(answers) > 1)
    assert all(answer == answers[0] for answer in answers)


def test_penalties_seeds_and_choices_do_not_depend_on_the_route() -> None:
    folder = tiny("llama")
    answers: list[dict[tuple[str, int], list[int]]] = []
    known: dict[tuple[str, int], list[int]] = {}
    drafter = Oracle(known, vocab_size=160, num_drafts=5)
    drafted = [make(folder, drafter, max_batched_tokens=24) for make in (mixed, pair)]
    for driver in (mixed(folder), pair(folder), mixed(folder, max_batched_tokens=64, max_sequences=1), *drafted):
        for index, prompt in enumerate(prompts()):
            driver.submit(str(index), prompt, choices=2, seed=index, **EVERYTHING)
        driver.run()
        found = {(str(i), choice): driver.answer(str(i), choice) for i in range(len(LENGTHS)) for choice in range(2)}
        answers.append(found)
        known.update(found)
    assert all(answer == answers[0] for answer in answers)
    assert all(driver.engines[-1].stats.num_accepted_tokens > 0 for driver in drafted)
