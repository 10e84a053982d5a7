"""Limits hold, in any minute, however many ingress replicas a key's requests reach."""

import asyncio
import random
from bisect import bisect_left
from collections import Counter

import pytest

from baton.errors import RateLimitError
from cluster.config.api_key import APIKey, KeyLimits
from cluster.doors.budget import WINDOW_S, Ask, Grant, Ledger, Window
from cluster.doors.share import SETTLE_S, Share


class Clock:
    """A ledger with a time that tests turn, as replicas ask for it."""

    def __init__(self) -> None:
        self.now_s = 1000.25
        self.num_asked = 0
        self._ledger = Ledger()

    async def draw(self, ask: Ask) -> Grant:
        self.num_asked += 1
        await asyncio.sleep(0)  # as a call elsewhere would
        return self._ledger.draw(ask, self.now_s)

    def shares(self, num_replicas: int, **limits: int) -> list[Share]:
        key = APIKey(name="alice", sha256="0" * 64, limits=KeyLimits(**limits))
        return [
            Share(key, self.draw, replica=f"r{number}", num_replicas=num_replicas) for number in range(num_replicas)
        ]


def test_a_window_counts_the_last_minute_and_says_when_there_is_room() -> None:
    window = Window()
    window.add(3, 100.5)
    window.add(2, 130.0)
    assert window.room(5, 130.0) == 0
    assert 30.0 <= window.wait_s(5, 130.0) <= 31.0
    assert window.room(5, 100.5 + WINDOW_S + 1) == 3
    assert window.room(5, 130.0 + WINDOW_S + 1) == 5
    assert window.wait_s(5, 191.0) == 0.0


def test_what_is_given_back_leaves_no_hole_when_its_second_is_forgotten() -> None:
    window = Window()
    window.add(5, 100.0)
    window.add(1, 101.0)
    window.give_back(3)
    assert window.total == 3
    for second in range(102, 170):
        assert 0 <= window.room(3, second) <= 3
    assert window.total == 0


@pytest.mark.parametrize("num_replicas", [1, 2, 5])
@pytest.mark.parametrize("limit", [1, 7, 600])
async def test_no_minute_has_more_requests_than_the_limit_on_any_number_of_replicas(
    num_replicas: int, limit: int
) -> None:
    clock, rng = Clock(), random.Random(limit * num_replicas)
    shares = clock.shares(num_replicas, requests_per_minute=limit)
    admitted: list[float] = []
    waits_s: list[float] = []
    for _ in range(130):
        for _ in range(rng.randrange(2 * limit // 10 + 2)):
            share = rng.choice(shares)
            try:
                await share.take()
            except RateLimitError as error:
                waits_s.append(error.retry_after_s)
                continue
            admitted.append(clock.now_s)
            if share.leave():
                await share.pay()
        clock.now_s += SETTLE_S
        for share in shares:
            await share.settle()
    in_minute = [bisect_left(admitted, start_s + WINDOW_S) - index for index, start_s in enumerate(admitted)]
    assert 0 < min(waits_s) <= max(waits_s) <= WINDOW_S + 1
    assert max(in_minute) <= limit
    assert max(in_minute) >= limit * 7 // 8  # and not far less either


@pytest.mark.parametrize("num_replicas", [1, 3])
async def test_a_limit_of_one_at_once_is_one_on_all_replicas_together(num_replicas: int) -> None:
    clock = Clock()
    shares = clock.shares(num_replicas, max_concurrent=1)
    first, last = shares[0], shares[-1]
    await first.take()
    with pytest.raises(RateLimitError, match="alice may have 1 requests at once"):
        await last.take()
    assert first.leave()
    await first.pay()
    await last.take()
    assert sum(share.num_running for share in shares) == 1


async def test_many_at_once_never_exceed_what_may_run() -> None:
    clock, running, most = Clock(), Counter[str](), 0
    shares = clock.shares(2, max_concurrent=40)
    rng = random.Random(5)

    async def request(share: Share) -> bool:
        nonlocal most
        try:
            await share.take()
        except RateLimitError:
            return False
        running["now"] += 1
        most = max(most, running["now"])
        for _ in range(rng.randrange(1, 6)):
            await asyncio.sleep(0)
        running["now"] -= 1
        if share.leave():
            await share.pay()
        return True

    done = await asyncio.gather(*(request(rng.choice(shares)) for _ in range(400)))
    assert most <= 40
    assert sum(done) > 100
    assert running["now"] == 0


async def test_a_replica_that_has_died_gives_its_places_back() -> None:
    clock = Clock()
    dead, alive = clock.shares(2, max_concurrent=2)
    await dead.take()
    await dead.take()
    with pytest.raises(RateLimitError):
        await alive.take()
    clock.now_s += 11
    await alive.take()


async def test_a_place_that_was_given_to_a_client_that_has_left_is_given_back() -> None:
    clock, ledger = Clock(), Ledger()

    async def draw(ask: Ask) -> Grant:
        grant = ledger.draw(ask, clock.now_s)
        await asyncio.sleep(0)
        return grant

    key = APIKey(name="alice", sha256="0" * 64, limits=KeyLimits(max_concurrent=1))
    one, other = (Share(key, draw, replica=name, num_replicas=2) for name in ("one", "other"))
    leaving = asyncio.create_task(one.take())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    with pytest.raises(RateLimitError):
        await other.take()
    assert not one.is_idle
    await one.settle()
    assert one.is_idle
    await other.take()


async def test_tokens_are_paid_when_they_are_used_and_owed_beyond_the_limit() -> None:
    clock = Clock()
    (share,) = clock.shares(1, tokens_per_minute=100)
    await share.take()
    share.use_tokens(150)  # an answer that has begun goes on
    assert share.leave()
    await share.pay()
    with pytest.raises(RateLimitError, match="alice may have 100 tokens per minute; try again in 6"):
        await share.take()
    clock.now_s += 10 * 60
    await share.take()  # what was used long ago is forgotten, though nothing was asked in between


async def test_tokens_that_one_replica_used_are_missing_at_another() -> None:
    clock = Clock()
    one, other = clock.shares(2, tokens_per_minute=1000)
    await one.take()
    one.use_tokens(1000)
    assert one.leave()
    await one.pay()
    with pytest.raises(RateLimitError):
        await other.take()


async def test_a_client_that_asks_on_and_on_is_refused_without_the_ledger() -> None:
    clock = Clock()
    one, _ = clock.shares(2, requests_per_minute=1)
    await one.take()
    refusals = await asyncio.gather(*(one.take() for _ in range(100)), return_exceptions=True)
    assert {type(error) for error in refusals} == {RateLimitError}
    assert clock.num_asked == 2
    clock.now_s += 2 * WINDOW_S
    await one.settle()
    await one.take()


async def test_a_replica_asks_the_ledger_far_less_often_than_it_is_asked() -> None:
    clock = Clock()
    shares = clock.shares(2, requests_per_minute=60_000, max_concurrent=1600)
    for number in range(2000):
        await shares[number % 2].take()
        if shares[number % 2].leave():
            await shares[number % 2].pay()
    assert clock.num_asked < 40
    for share in shares:
        await share.settle()
        assert share.is_idle
