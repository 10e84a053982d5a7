"""What becomes of requests while their grammar is being compiled: they are aborted, late, drained away, cut down."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from baton.errors import BatonError, InternalError
from baton.v1 import worker_pb2
from tests.unit.engine.driver import OPEN, Driver
from tests.unit.grammar.model import DEMO, demo_spec, ids, regex, text
from tests.unit.grammar.test_engine import HANDOVER
from workers.engine.following import Follower
from workers.grammar.book import GrammarBook
from workers.model.contract import ModelRunner, SampleRow, TokenMasks
from workers.model.fake import FakeRunner
from workers.spec import Role, WorkerSpec

PROMPT = ids("Yes or no?")
GRAMMAR = regex("yes|no")


class HeldGrammars:
    """Compiles at once, and tells nobody before `release`."""

    def __init__(self, runner: ModelRunner) -> None:
        self.is_held = False
        self._book = GrammarBook(Path(DEMO), runner)
        self._held: list[Callable[[], None]] = []

    def follower(self, text: str, done: Callable[[Follower | BatonError], None]) -> Follower | BatonError | None:
        def told(found: Follower | BatonError) -> None:
            if self.is_held:
                self._held.append(lambda: done(found))
            else:
                done(found)

        if not self.is_held:
            return self._book.follower(text, done)
        found = self._book.follower(text, told)
        if found is not None:
            told(found)
        return None

    def masks(self, rows: Sequence[SampleRow], followers: Sequence[Follower | None]) -> TokenMasks | None:
        return self._book.masks(rows, followers)

    def release(self) -> None:
        self.is_held = False
        for tell in self._held:
            tell()


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def held(roles: tuple[Role, ...]) -> tuple[Driver, HeldGrammars]:
    """The last engine's are held, once what it compiles is known."""
    made: list[HeldGrammars] = []

    def make(_: WorkerSpec, runner: ModelRunner) -> HeldGrammars:
        made.append(HeldGrammars(runner))
        return made[-1]

    driver = Driver([demo_spec(role) for role in roles], FakeRunner, make_grammars=make)
    driver.submit("first", PROMPT, grammar=GRAMMAR, max_tokens=20)
    driver.run()
    made[-1].is_held = True
    return driver, made[-1]


def until_compiling(driver: Driver) -> None:
    while not len(driver.engines[-1].jobs):
        driver.step()
    for _ in range(20):
        driver.step()


@pytest.mark.parametrize("roles", [(Role.MIXED,), HANDOVER])
@pytest.mark.parametrize("ends", ["abort", "disconnect", "deadline"])
def test_one_that_ends_meanwhile_is_gone_at_once_and_leaves_nothing(roles: tuple[Role, ...], ends: str) -> None:
    driver, grammars = held(roles)
    driver.submit("r", PROMPT, grammar=GRAMMAR, max_tokens=20)
    until_compiling(driver)
    if ends == "abort":
        driver.abort("r")
    elif ends == "disconnect":
        for engine in driver.engines:
            engine.disconnect("ingress-0")
    else:
        driver.clock.now_s += 2000.0
    driver.run()
    assert [final.error.code for final in driver.finals["r", 0]][:1] == (
        ["deadline_exceeded"] if ends == "deadline" else []
    )
    grammars.release()
    driver.submit("next", PROMPT, grammar=GRAMMAR, max_tokens=20)
    driver.run()
    assert text(driver.answer("next")) in ("yes", "no")
    assert driver.engines[-1].jobs.num_with_grammar == 0


def test_a_worker_that_drains_serves_what_it_took() -> None:
    driver, grammars = held((Role.MIXED,))
    driver.submit("r", PROMPT, grammar=GRAMMAR, max_tokens=20)
    until_compiling(driver)
    driver.engines[0].drain()
    driver.step()
    assert not driver.engines[0].is_idle
    grammars.release()
    driver.run()
    assert text(driver.answer("r")) in ("yes", "no")


def test_a_worker_that_drains_gives_back_what_was_offered_to_it() -> None:
    driver, grammars = held(HANDOVER)
    driver.submit("r", PROMPT, grammar=GRAMMAR, max_tokens=20)
    until_compiling(driver)
    driver.engines[1].drain()
    driver.run()
    [final] = driver.finals["r", 0]
    assert (final.error.code, final.error.retryable) == ("preempted", True)
    grammars.release()
    driver.run()


@pytest.mark.parametrize("roles", [(Role.MIXED,), HANDOVER])
def test_the_first_of_several_choices_may_be_dropped_meanwhile(roles: tuple[Role, ...]) -> None:
    driver, grammars = held(roles)
    driver.submit("r", PROMPT, grammar=GRAMMAR, max_tokens=20, choices=3, temperature=1.0)
    until_compiling(driver)
    for engine in driver.engines:
        engine.abort(worker_pb2.Abort(request_id="r", attempt=0, choices=[0]))
    driver.step()
    grammars.release()
    driver.run()
    assert [text(driver.answer("r", choice)) in ("yes", "no") for choice in (1, 2)] == [True, True]
    assert not driver.finals["r", 0]


@pytest.mark.parametrize("roles", [(Role.MIXED,), HANDOVER])
def test_one_that_fails_to_compile_tells_every_choice(roles: tuple[Role, ...]) -> None:
    driver, grammars = held(roles)
    grammars.follower = lambda text, done: InternalError("grammar: broken")  # type: ignore[method-assign]
    driver.submit("r", PROMPT, grammar=GRAMMAR, max_tokens=20, choices=3, temperature=1.0)
    driver.run()
    assert ["grammar: broken" in driver.finals["r", choice][0].error.message for choice in range(3)] == [True] * 3
