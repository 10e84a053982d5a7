"""The drafter of draft workers, against one in this process: same tokens, and nothing is kept of what has ended."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from baton.v1 import inference_pb2
from tests.draft_server import PATIENCE_S, DraftServer, waiting_drafter
from tests.unit.engine.driver import OPEN, Driver, make_spec
from workers.engine.wire import sampling_message, sampling_params
from workers.model.fake import VOCAB_SIZE, FakeRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import Role, SpeculationSpec
from workers.speculative.remote import RemoteDrafter

NUM_OUTPUTS = 24
PROMPTS = {f"r{index}": [index + 1, *range(20, 22 + 7 * index)] for index in range(4)}


@pytest.fixture(scope="module")
def server() -> Iterator[DraftServer]:
    server = DraftServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def drive(server: DraftServer, *roles: Role, width: int = 1, **engine: object) -> tuple[Driver, RemoteDrafter]:
    settings: dict[str, object] = {"max_batched_tokens": 64, "max_sequences": 24} | engine
    specs = [replace(make_spec(role, **settings), speculation=SpeculationSpec(tree_width=width)) for role in roles]
    drafter = waiting_drafter(specs[-1], VOCAB_SIZE)
    driver = Driver(specs, drafter=drafter)
    driver.draft = server.route
    jobs = driver.engines[-1].jobs
    jobs.watch = drafter
    return driver, drafter


def answer(prompt: list[int], choice: int = 0, **sampling: object) -> list[int]:
    settings = {"max_tokens": NUM_OUTPUTS, "seed": 1, "temperature": 0.0, "ignore_eos": True} | sampling
    params = sampling_params(inference_pb2.SamplingParams(**settings))  # type: ignore[arg-type]
    return FakeRunner.expected_output(prompt, params, choice, NUM_OUTPUTS)


def until_told(drafter: RemoteDrafter, driver: Driver) -> None:
    """Until the draft worker has guessed at all that was submitted, or has refused to."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not drafter._drafted:
        driver.step()
    (link,) = drafter._links.values()
    while any(drafted.futures is None for drafted in drafter._drafted.values()) and not link.refusal:
        assert time.monotonic() < deadline_s, "nothing is guessed"
        time.sleep(0.005)


@pytest.mark.parametrize("roles", [(Role.MIXED,), (Role.PREFILL, Role.DECODE)], ids=["mixed", "pair"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("width", [1, 2])
def test_answers_are_those_without_drafts(
    server: DraftServer, roles: tuple[Role, ...], temperature: float, width: int
) -> None:
    driver, drafter = drive(server, *roles, width=width)
    for name, prompt in PROMPTS.items():
        driver.submit(name, prompt, choices=2, max_tokens=NUM_OUTPUTS, temperature=temperature)
    until_told(drafter, driver)
    driver.run()
    for name, prompt in PROMPTS.items():
        for choice in range(2):
            assert driver.answer(name, choice) == answer(prompt, choice, temperature=temperature)
    stats = driver.engines[-1].stats
    assert stats.num_accepted_tokens > 0
    assert drafter.counts.num_hits > 0
    state = server.until(lambda state: not state.num_running + state.num_waiting)
    assert state.num_free_blocks == state.num_blocks
    drafter.close()


def test_preempted_sequences_are_followed_on_and_aborted_ones_forgotten(server: DraftServer) -> None:
    driver, drafter = drive(server, Role.MIXED, memory_bytes=20 * 128, prefix_cache=False)
    for name, prompt in PROMPTS.items():
        driver.submit(name, prompt, max_tokens=NUM_OUTPUTS)
    until_told(drafter, driver)
    driver.abort("r1")
    driver.run()
    for name, prompt in PROMPTS.items():
        if name != "r1":
            assert driver.answer(name) == answer(prompt)
    assert driver.engines[0].stats.num_preemptions > 0
    server.until(lambda state: not state.num_running + state.num_waiting)
    drafter.close()
    server.until(lambda state: not state.num_draft_peers)


def test_a_draft_model_of_another_vocabulary_is_refused_with_both_sizes(server: DraftServer) -> None:
    spec = make_spec(Role.MIXED)
    drafter = waiting_drafter(spec, 300)
    driver = Driver([spec], drafter=drafter)
    driver.engines[0].jobs.watch, driver.draft = drafter, server.route
    driver.submit("r0", PROMPTS["r0"], max_tokens=NUM_OUTPUTS)
    until_told(drafter, driver)
    driver.run()
    assert driver.answer("r0") == answer(PROMPTS["r0"])
    (link,) = drafter._links.values()
    assert "has a vocabulary of 512 tokens, the model of mixed-0 one of 300" in link.refusal
    drafter.close()


def test_sampling_parameters_go_over_whole() -> None:
    params = SamplingParams(
        max_tokens=7,
        temperature=0.5,
        top_p=0.25,
        top_k=3,
        min_p=0.125,
        seed=2**63,
        stop_token_ids=frozenset({4, 9}),
        min_tokens=2,
        logit_bias=((3, -100.0), (5, 1.5)),
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.25,
        ignore_eos=True,
    )
    assert sampling_params(sampling_message(params)) == params
