"""What a draft worker guesses is what its model would write, whatever is written: the fake checks every block."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from baton.errors import InvalidRequestError
from baton.v1.draft_pb2 import Follow, News, Written
from baton.v1.worker_pb2 import ChoiceStart, Submit
from tests.unit.engine.driver import make_spec
from workers.engine.engine import StepReport
from workers.engine.wire import sampling_message
from workers.model.contract import Batch, ChunkKind, Sampled
from workers.model.fake import VOCAB_SIZE, FakeRunner, _packed, _state, _token
from workers.model.sampling_params import SamplingParams
from workers.spec import GangSpec, Role
from workers.speculative.draft_engine import DraftEngine
from workers.speculative.forecast import Limits
from workers.speculative.forecasts import Peer
from workers.speculative.futures import ROOT, Futures
from workers.speculative.telling import Guesses

PARAMS = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)


class Worker:
    """A draft engine that a test steps, and what it told last of each text."""

    def __init__(self, *, num_tokens: int = 4, ahead: bool = True, keeps: bool = True, **engine: object) -> None:
        spec = make_spec(Role.DRAFT, **({"memory_bytes": 1 << 17, "max_sequences": 16} | engine))
        if not keeps:
            spec = replace(spec, gang=GangSpec(layer_parallel=2))  # the fake computes as a rank alone does
        self.engine = DraftEngine(runner=FakeRunner(spec), spec=spec, emit=lambda report: None, tell=self._take)
        self.limits = Limits(num_tokens=num_tokens, max_len=8192, ahead=ahead, keeps_drafted=keeps)
        self.guesses: dict[tuple[Peer, int], Futures] = {}

    def _take(self, told: dict[Peer, Guesses]) -> None:
        for peer, guesses in told.items():
            for number, guess in guesses.items():
                self.guesses[peer, number] = Futures(guess.base, guess.token_ids, guess.parents)

    def follow(self, peer: Peer, number: int, prompt: Sequence[int], params: SamplingParams = PARAMS) -> None:
        follow = Follow(number=number, prompt_token_ids=prompt, sampling=sampling_message(params))
        self.engine.follow(peer, follow)

    def write(self, peer: Peer, number: int, start: int, token_ids: Sequence[int]) -> None:
        self.engine.news(peer, News(written=[Written(number=number, start=start, token_ids=token_ids)]))

    def run(self, max_steps: int = 400) -> int:
        """Until nothing more is worth guessing. How many passes."""
        for num_steps in range(max_steps):
            if not self.engine.step():
                self.engine.blocks.check_integrity()
                return num_steps
        raise AssertionError(f"still busy after {max_steps} passes")

    @property
    def is_clean(self) -> bool:
        return self.engine.blocks.num_free_blocks == self.engine.runner.num_blocks


def following(prompt: Sequence[int], output: Sequence[int], n: int, params: SamplingParams = PARAMS) -> list[int]:
    """What the model writes next, whatever it is that was written."""
    text = list(output)
    for _ in range(n):
        state = _state(_packed([*prompt, *text]), len(text), 0, params)
        text.append(_token(state, len(text), params, VOCAB_SIZE, set()))
    return text[len(output) :]


def test_it_guesses_a_chain_as_long_as_two_steps_can_use_and_waits() -> None:
    worker = Worker(num_tokens=4)
    peer = worker.engine.join(worker.limits)
    prompt = list(range(1, 40))
    worker.follow(peer, 7, prompt)
    worker.run()
    futures = worker.guesses[peer, 7]
    assert futures.base == 39
    assert futures.path(ROOT, 99)[:4] == following(prompt, [], 4)
    assert len(futures.path(ROOT, 99)) <= 9
    assert worker.run() == 0


def test_what_was_foreseen_needs_no_drafting() -> None:
    worker = Worker(num_tokens=4)
    peer = worker.engine.join(worker.limits)
    prompt = list(range(1, 40))
    worker.follow(peer, 7, prompt)
    worker.run()
    before = worker.guesses[peer, 7]
    right = following(prompt, [], 3)
    worker.write(peer, 7, 39, right)
    node = before.after(right)
    assert node is not None
    assert before.path(node, 2) == following(prompt, right, 2)
    worker.run()
    assert worker.guesses[peer, 7].base == 42
    assert worker.engine.forecasts.counts.num_hits == 1


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_guesses_are_the_models_own_whatever_is_written(
    ahead: bool, keeps: bool, temperature: float, seed: int
) -> None:
    rng = random.Random(seed)
    worker = Worker(num_tokens=3, ahead=ahead, keeps=keeps)
    peer = worker.engine.join(worker.limits)
    params = SamplingParams(max_tokens=60, temperature=temperature, seed=5, ignore_eos=True)
    texts = {number: [number + 1, *range(1, 5 + 9 * number)] for number in range(5)}
    outputs: dict[int, list[int]] = {number: [] for number in texts}
    for number, prompt in texts.items():
        worker.follow(peer, number, prompt, params)
    for _ in range(12):
        if rng.random() < 0.7:
            worker.run()
        else:
            worker.engine.step()
        for number, prompt in texts.items():
            output = outputs[number]
            right = following(prompt, output, rng.randint(1, 4), params)
            kind = rng.random()
            if kind < 0.4:  # the fake's runner-up
                right[-1] = (right[-1] + 1) % VOCAB_SIZE
            elif kind < 0.6:
                right[-1] = rng.randrange(VOCAB_SIZE)
            worker.write(peer, number, len(prompt) + len(output), right)
            output += right
    worker.run()
    for number, prompt in texts.items():
        futures, output = worker.guesses[peer, number], outputs[number]
        assert futures.base == len(prompt) + len(output)
        assert futures.path(ROOT, 3) == following(prompt, output, 3, params)
    counts = worker.engine.forecasts.counts
    assert counts.num_misses > 0
    assert (counts.num_hits > 0) == ahead
    worker.engine.leave(peer)
    worker.run()
    assert worker.is_clean


def test_a_layer_parallel_worker_guesses_in_passes_without_known_tokens() -> None:
    worker = Worker(num_tokens=4, keeps=False)
    kinds: list[set[ChunkKind]] = []
    run = worker.engine.runner.run

    def noting(batch: Batch, on_layer: object = None) -> list[list[Sampled]]:
        kinds.append({chunk.kind for chunk in batch.chunks})
        return run(batch)

    worker.engine.runner.run = noting  # type: ignore[method-assign]
    peer = worker.engine.join(worker.limits)
    for number in range(4):
        worker.follow(peer, number, list(range(1 + number, 40)))
        for _ in range(3):
            worker.engine.step()
    worker.run()
    assert {ChunkKind.DRAFT} in kinds
    assert all(len(one) == 1 for one in kinds)


@pytest.mark.parametrize("seed", range(6))
def test_peers_share_few_blocks_and_places_and_all_are_given_back(seed: int) -> None:
    rng = random.Random(seed)
    worker = Worker(num_tokens=4, memory_bytes=40 * 128, max_sequences=3)
    assert worker.engine.runner.num_blocks == 40
    peers = [worker.engine.join(worker.limits) for _ in range(3)]
    outputs: dict[tuple[int, int], list[int]] = {}
    prompts: dict[tuple[int, int], list[int]] = {}
    for turn in range(60):
        which, number = rng.randrange(3), rng.randrange(4)
        key = which, number
        if key not in prompts or rng.random() < 0.1:
            prompts[key] = [rng.randrange(1, VOCAB_SIZE) for _ in range(rng.randrange(1, 60))]
            outputs[key] = []
            worker.follow(peers[which], number, prompts[key])
        elif rng.random() < 0.15:
            worker.engine.news(peers[which], News(forgotten=[number]))
            del prompts[key]
        else:
            tokens = following(prompts[key], outputs[key], rng.randint(1, 3))
            worker.write(peers[which], number, len(prompts[key]) + len(outputs[key]), tokens)
            outputs[key] += tokens
        for _ in range(rng.randrange(12)):
            worker.engine.step()
        assert worker.engine.forecasts.num_active <= 3, turn
    worker.run(5000)
    drafted = [key for key in prompts if worker.guesses.get((peers[key[0]], key[1]))]
    assert drafted
    for peer in peers:
        worker.engine.leave(peer)
    worker.run()
    assert worker.is_clean


def test_a_text_that_grew_past_what_the_model_reads_gives_its_place_to_others() -> None:
    worker = Worker(num_tokens=4, memory_bytes=40 * 128, max_sequences=1)
    limits = replace(worker.limits, max_len=50)
    peer = worker.engine.join(limits)
    worker.follow(peer, 1, list(range(1, 41)))
    worker.follow(peer, 2, [5, 6, 7])
    worker.run()
    assert (peer, 2) not in worker.guesses
    worker.write(peer, 1, 40, following(list(range(1, 41)), [], 15))
    worker.run()
    assert list(peer.texts) == [2]
    assert worker.guesses[peer, 2].path(ROOT, 4) == following([5, 6, 7], [], 4)


def test_tokens_that_the_model_does_not_have_are_refused() -> None:
    worker = Worker()
    peer = worker.engine.join(worker.limits)
    with pytest.raises(InvalidRequestError, match="token id 512 is not in the vocabulary of 512"):
        worker.follow(peer, 1, [5, 512])
    with pytest.raises(InvalidRequestError, match="token id 600 is not"):
        worker.follow(peer, 1, [5], replace(PARAMS, logit_bias=((600, 1.0),)))
    worker.follow(peer, 1, [5, 6])
    with pytest.raises(InvalidRequestError, match="token id 900 is not"):
        worker.write(peer, 1, 2, [7, 900])
    worker.run()


@pytest.mark.parametrize("choices", [[0], [0, 0, 1], []])
def test_requests_are_refused_by_name_malformed_or_not(choices: list[int]) -> None:
    reports: list[StepReport] = []
    spec = make_spec(Role.DRAFT)
    engine = DraftEngine(runner=FakeRunner(spec), spec=spec, emit=reports.append, tell=lambda told: None)
    submit = Submit(request_id="r", attempt=2, choices=[ChoiceStart(choice=choice) for choice in choices])
    engine.submit("i", submit)
    engine.step()
    outputs = [output for report in reports for output in report.outputs.get("i", [])]
    assert [(output.choice, output.attempt) for output in outputs] == [(choice, 2) for choice in sorted(set(choices))]
    assert all("draft worker and takes no requests" in output.error.message for output in outputs)


def test_a_first_pass_that_hangs_is_seen_from_outside() -> None:
    reports: list[StepReport] = []
    spec = make_spec(Role.DRAFT)
    runner = FakeRunner(spec)
    engine = DraftEngine(runner=runner, spec=spec, emit=reports.append, tell=lambda told: None)
    run, waited = runner.run, []

    def noting(batch: Batch, on_layer: object = None) -> list[list[Sampled]]:
        waited.append(reports[-1].load.waiting_since_s if reports else None)
        return run(batch)

    runner.run = noting  # type: ignore[method-assign]
    peer = engine.join(Limits(num_tokens=4, max_len=8192))
    engine.follow(peer, Follow(number=1, prompt_token_ids=[5, 6, 7], sampling=sampling_message(PARAMS)))
    while engine.step():
        pass
    assert waited
    assert None not in waited
