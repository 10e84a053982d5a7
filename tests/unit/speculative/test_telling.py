"""A draft worker tells what somebody lacks at once, and what grows a few times in a step."""

from baton.v1.draft_pb2 import Follow, News, Written
from tests.unit.engine.driver import make_spec
from tests.unit.speculative.test_draft_engine import PARAMS
from workers.engine.wire import sampling_message
from workers.model.fake import FakeRunner
from workers.spec import Role
from workers.speculative.draft_engine import DraftEngine
from workers.speculative.forecast import Limits
from workers.speculative.forecasts import Peer
from workers.speculative.telling import PER_STEP, Guesses

STEP_S, PASS_S = 0.1, 0.001


class Worker:
    """A draft engine whose passes take `PASS_S`, and how deep each guess was that it told."""

    def __init__(self) -> None:
        self.now_s, self.told = 0.0, list[int]()
        spec = make_spec(Role.DRAFT, memory_bytes=1 << 17)
        self.engine = DraftEngine(
            runner=FakeRunner(spec), spec=spec, emit=lambda report: None, tell=self._take, clock=lambda: self.now_s
        )
        self.peer = self.engine.join(Limits(num_tokens=8, max_len=8192))
        follow = Follow(number=1, prompt_token_ids=[1, 2, 3], sampling=sampling_message(PARAMS))
        self.engine.follow(self.peer, follow)
        self.length = 3

    def _take(self, told: dict[Peer, Guesses]) -> None:
        self.told += [max(guess.parents, default=0) for guesses in told.values() for guess in guesses.values()]

    def step(self, token_id: int | None = None) -> list[int]:
        """A step of the peer, which writes `token_id`; what was told meanwhile."""
        self.told = []
        if token_id is not None:
            written = Written(number=1, start=self.length, token_ids=[token_id])
            self.engine.news(self.peer, News(written=[written]))
            self.length += 1
        until_s = self.now_s + STEP_S
        while self.now_s < until_s:
            self.engine.step()
            self.now_s += PASS_S
        return self.told


def test_growth_is_told_a_few_times_in_a_step() -> None:
    worker = Worker()
    for _ in range(12):
        worker.step(9)  # no model's token: each is a miss
    told = worker.step(9)
    assert 1 <= len(told) <= PER_STEP + 2
    assert told == sorted(told)


def test_all_is_told_in_the_end() -> None:
    worker = Worker()
    for _ in range(12):
        worker.step(9)
    worker.step(9)
    text = worker.peer.texts[1]
    assert worker.told[-1] == max(text.guess[2])
    assert worker.step() == []


def test_what_is_lacked_is_told_as_soon_as_it_is_an_answer() -> None:
    worker = Worker()
    for _ in range(12):
        worker.step(9)
    worker.engine.news(worker.peer, News(written=[Written(number=1, start=worker.length, token_ids=[9])]))
    worker.told, num_passes = [], 0
    worker.peer.told_s = worker.now_s  # growth is not due
    while not worker.told:
        worker.engine.step()
        num_passes += 1
    assert num_passes == 3
