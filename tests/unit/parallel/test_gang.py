"""A gang's ranks as threads of this process: steps, messages, and who learns what when one is lost."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from baton.errors import BatonError, ConfigError, UnavailableError
from workers.parallel import gang
from workers.parallel.gang import Gang
from workers.parallel.lobby import Lobby, join

SECRET = "s3cret"


class Ranks:
    """All ranks of one gang; `failures` by rank."""

    def __init__(self, size: int, *, has_loaded: bool = True) -> None:
        self.failures: dict[int, BatonError] = {}
        self.failed = threading.Event()
        with Lobby(host="127.0.0.1", size=size, secret=SECRET) as lobby, ThreadPoolExecutor(size) as pool:
            leading = pool.submit(lobby.gather, timeout_s=10, fail=self._fail(0))
            joining = [
                pool.submit(
                    join,
                    lobby.address,
                    rank=rank,
                    size=size,
                    secret=SECRET,
                    host="127.0.0.1",
                    timeout_s=10,
                    fail=self._fail(rank),
                )
                for rank in range(1, size)
            ]
            self.gangs: list[Gang] = [leading.result(), *(one.result() for one in joining)]
        for one in self.gangs if has_loaded else ():
            one.load_ends()

    def _fail(self, rank: int):  # type: ignore[no-untyped-def]
        def fail(error: BatonError) -> None:
            self.failures[rank] = error
            self.failed.set()

        return fail


@pytest.fixture
def threads() -> Iterator[Ranks]:
    made = Ranks(3)
    yield made
    for one in made.gangs:
        one.drop()


def test_steps_reach_every_follower_in_order_and_end_with_the_leader(threads: Ranks) -> None:
    leader, *followers = threads.gangs
    for step in (b"one", b"", b"x" * 300_000):
        leader.send_step(step)
        assert [bytes(one.wait_step() or b"") for one in followers] == [step] * 2
    leader.close()
    assert [one.wait_step() for one in followers] == [None, None]
    assert threads.failures == {}


def test_messages_arrive_in_order_whether_they_came_before_the_handler_or_after(threads: Ranks) -> None:
    leader, first, second = threads.gangs
    seen: list[tuple[int, bytes]] = []
    done = threading.Event()
    for number in range(100):
        first.tell(0, b"%d" % number)
        if number == 50:
            leader.on_message(
                lambda rank, message: (seen.append((rank, message)), done.set() if message == b"99" else 0)
            )
    assert done.wait(5)
    assert seen == [(1, b"%d" % number) for number in range(100)]
    heard = threading.Event()
    second.on_message(lambda rank, message: heard.set() if (rank, message) == (0, b"to two") else None)
    leader.tell(2, b"to two")
    assert heard.wait(5)
    with pytest.raises(ValueError, match="no connection to rank 2"):
        first.tell(2, b"")


def test_collectives_join_all_ranks(threads: Ranks) -> None:
    tensors = [torch.full((3,), float(one.rank + 1)) for one in threads.gangs]
    works = [one.group.allreduce([tensor]) for one, tensor in zip(threads.gangs, tensors, strict=True)]
    for work in works:
        work.wait()
    assert [tensor.tolist() for tensor in tensors] == [[6.0] * 3] * 3


@pytest.mark.parametrize("lost", [0, 2])
def test_a_rank_whose_connections_close_fails_the_gang_at_once(threads: Ranks, lost: int) -> None:
    begin = time.monotonic()
    threads.gangs[lost].drop()
    assert threads.failed.wait(2)
    assert time.monotonic() - begin < 1
    rank, error = next(iter(threads.failures.items()))
    assert rank != lost
    assert f"rank {lost} of the gang is gone" in error.message
    assert isinstance(error, UnavailableError)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gang.SILENCE_S + gang.BEAT_S < 5, "what a user is promised"
    monkeypatch.setattr(gang, "SILENCE_S", 1.5)


@pytest.mark.usefixtures("impatient")
def test_a_silent_rank_fails_the_gang(threads: Ranks) -> None:
    time.sleep(3 * gang.BEAT_S)  # all have heard that it has loaded
    begin = time.monotonic()
    with threads.gangs[1]._locks[0]:  # no sign of life leaves while another thread seems to send
        assert threads.failed.wait(8)
    assert 0.5 < time.monotonic() - begin < 4
    assert "rank 1 of the gang gave no sign of life" in threads.failures[0].message


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_rank_that_loads_may_be_silent_for_longer() -> None:
    loading = Ranks(3, has_loaded=False)
    with loading.gangs[1]._locks[0]:
        assert not loading.failed.wait(2 * gang.SILENCE_S)
    for one in loading.gangs:
        one.load_ends()
    with loading.gangs[1]._locks[0]:  # the others were told at once, not with its next beat
        assert loading.failed.wait(8)
    for one in loading.gangs:
        one.drop()


def test_a_fault_that_a_rank_tells_is_the_gangs(threads: Ranks) -> None:
    threads.gangs[2].fault(ConfigError("model: is nowhere; give another"))
    assert threads.failed.wait(2)
    assert isinstance(threads.failures[0], ConfigError)
    assert threads.failures[0].message == "model: is nowhere; give another (rank 2 of the gang)"


def test_what_a_message_handler_raises_fails_the_gang(threads: Ranks) -> None:
    threads.gangs[1].on_message(lambda rank, message: 1 / 0)  # type: ignore[arg-type, return-value]
    threads.gangs[0].tell(1, b"bad")
    assert threads.failed.wait(2)
    assert "division by zero" in threads.failures[1].message


def test_a_lobby_lets_only_ranks_with_the_secret_in_and_says_who_is_missing() -> None:
    lobby = Lobby(host="127.0.0.1", size=2, secret=SECRET)
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(lobby.gather, timeout_s=1.0, fail=print)
        with pytest.raises(UnavailableError, match="did not get into the gang"):
            join(lobby.address, rank=1, size=2, secret="wrong", host="127.0.0.1", timeout_s=2.0, fail=print)
        with pytest.raises(UnavailableError, match=r"of a gang of 2, ranks \[0\] came in time"):
            leading.result()


@pytest.mark.usefixtures("impatient")
def test_a_rank_that_lives_and_keeps_the_others_waiting_fails_the_gang(threads: Ranks) -> None:
    counts = [5, 5, 5]
    for one in threads.gangs:
        one.watch_progress(lambda rank=one.rank: counts[rank])  # type: ignore[misc]
    time.sleep(0.6)
    begin = time.monotonic()
    counts[0] = counts[2] = 6  # both are in a collective that rank 1 has not come to
    assert threads.failed.wait(8)
    assert 0.5 < time.monotonic() - begin < 4
    assert "rank 1 of the gang kept the others waiting" in threads.failures[0].message


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_rank_may_take_as_long_for_a_layer_as_one_that_is_ahead_took(threads: Ranks) -> None:
    counts = [5, 5, 5]
    for one in threads.gangs:
        one.watch_progress(lambda rank=one.rank: counts[rank], lambda: 3.0)  # type: ignore[misc]
    time.sleep(0.6)
    counts[0] = 9  # layers ahead of the others
    assert not threads.failed.wait(2.5)
    assert threads.failed.wait(8)


def test_a_turn_that_came_a_little_late_does_not_prolong_the_wait_for_a_hung_rank() -> None:
    alone = Gang(rank=0, size=1, controls={}, steps={}, group=None, subgroup=lambda *_: None, fail=print)
    alone.drop()  # nobody else judges what is set here
    ahead_s = 1e9
    alone._heard_s = {1: ahead_s}
    alone._forgive(0.9)
    assert alone._heard_s == {1: ahead_s}
    alone._forgive(3.0)  # a machine that was paused
    assert alone._heard_s == {1: ahead_s + 3.0}
