"""Hand-overs between gangs of unlike degrees: which bytes arrive where, and how transfers end."""

import random
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

from baton.errors import CancelledError, OverloadedError, UnavailableError
from tests.unit.kv_transfer.gangs import BLOCK_SIZE, HEAD_DIM, NUM_LAYERS, Gangs, open_gangs
from workers.kv_transfer.handshake import Identity, propose
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.link import Acked, Arrived, Ended, Lost, Offered, Ticketed, TransferKey
from workers.model.cpu import kv_copy
from workers.model.places import Place, Turn, divides
from workers.spec import KVSpec

KEY = TransferKey("r", 0, 0)
TRANSPORTS = ("grpc", "gloo", "shm")
DEGREES = (1, 2, 3, 4)
PAIRS = [
    (senders, receivers, heads)
    for heads, senders, receivers in product((12, 2, 1), DEGREES, DEGREES)
    if divides(senders, heads) and divides(receivers, heads)
]
torch.set_num_threads(1)


def _cases() -> list[Any]:
    """Every pair over every transport; over one in turn where not slow."""
    return [
        pytest.param(*pair, transport, marks=() if index % 3 == turn else pytest.mark.slow)
        for index, pair in enumerate(PAIRS)
        for turn, transport in enumerate(TRANSPORTS)
    ]


@pytest.fixture(
    params=[(2, 1, 1), (1, 2, 1), (2, 4, 1), (3, 2, 1), (1, 2, 3)], ids=lambda case: "{}to{}x{}".format(*case)
)
def gangs(request: pytest.FixtureRequest) -> Iterator[Gangs]:
    senders, receivers, sequence = request.param
    with open_gangs(senders, receivers, 12, sequence=sequence, transport="grpc") as opened:
        yield opened
        opened.check_integrity()


def _sequence_cases() -> list[Any]:
    """Where the ranks of the prefill side read prompts together, or do both."""
    every = [
        (senders, sequence, receivers, heads)
        for sequence, (senders, receivers, heads) in product((2, 3), PAIRS)
        if senders * sequence <= 6
    ]
    usual = {
        (1, 2, 1, 2): "shm",
        (1, 3, 1, 1): "gloo",
        (1, 2, 2, 2): "grpc",
        (2, 2, 4, 2): "shm",
        (2, 3, 1, 12): "grpc",
    }
    return [
        pytest.param(*case, transport, marks=() if usual.get(case) == transport else pytest.mark.slow)
        for index, case in enumerate(every)
        for transport in sorted({TRANSPORTS[index % 3], usual.get(case, TRANSPORTS[index % 3])})
    ]


@pytest.mark.parametrize(("senders", "receivers", "heads", "transport"), _cases())
def test_every_head_arrives_whatever_the_degrees(senders: int, receivers: int, heads: int, transport: str) -> None:
    _check_every_case(senders, 1, receivers, heads, transport)


@pytest.mark.parametrize(("senders", "sequence", "receivers", "heads", "transport"), _sequence_cases())
def test_every_block_arrives_once_from_ranks_that_take_turns(
    senders: int, sequence: int, receivers: int, heads: int, transport: str
) -> None:
    _check_every_case(senders, sequence, receivers, heads, transport)


def _check_every_case(senders: int, sequence: int, receivers: int, heads: int, transport: str) -> None:
    if transport == "shm" and not kv_copy.available():
        pytest.skip("shm needs a C compiler")
    with open_gangs(senders, receivers, heads, sequence=sequence, transport=transport) as gangs:
        cached, later, both = (TransferKey(name, 0, 0) for name in ("cached", "later", "both"))
        _hand_over(gangs, KEY, [3, 4, 9, 17], num_cached=0)  # chunks that end inside a block
        _hand_over(gangs, cached, [11, 22], num_cached=6)  # a prefix hit on the decode side, inside a block
        _hand_over(gangs, both, [21], start=8, num_cached=13)  # and one on the prefill side
        gangs.offer(later, 9)
        gangs.compute(later, 0, 9, complete=[(0, 1)])  # a ticket after the prompt is computed
        gangs.wait(Offered, later)
        gangs.grant(later)
        gangs.check_arrived(later)
        gangs.wait(Acked, later)
        gangs.check_integrity()
        sent, received = gangs.prefill.leader.outbox.bytes_sent, gangs.decode.leader.inbox.bytes_received
        num_tokens = 17 + 16 + 8 + 9
        copies = receivers if heads < receivers else heads  # of a head, over all receiving ranks
        token_nbytes = sum(2 * (HEAD_DIM + layer) * 4 for layer in range(NUM_LAYERS))
        assert received == num_tokens * token_nbytes * copies
        assert sent == received


def _hand_over(gangs: Gangs, key: TransferKey, ends: list[int], *, num_cached: int, start: int = 0) -> None:
    """`start`: tokens that the prefill side has in its prefix cache."""
    gangs.offer(key, ends[-1])
    gangs.wait(Offered, key)
    gangs.grant(key, num_cached)
    assert gangs.wait(Ticketed, key).num_cached_tokens == num_cached
    for end in ends:
        gangs.compute(key, 0 if end == ends[0] else start, end, complete=[(0, 5), (2, 9)] if end == ends[-1] else ())
        start = end
    assert gangs.check_arrived(key).first_tokens == ((0, 5), (2, 9))
    gangs.wait(Acked, key)


def test_heads_are_split_and_joined_without_the_kernel_too() -> None:
    for senders, receivers in ((1, 2), (4, 2)):
        with open_gangs(senders, receivers, 4, transport="grpc", has_kernel=False) as gangs:
            _hand_over(gangs, KEY, [3, 9, 17], num_cached=2)
            gangs.check_integrity()


def test_bulk_sends_nothing_before_the_prompt_is_computed() -> None:
    with open_gangs(2, 1, 2, kv=KVSpec(push="bulk")) as gangs:
        gangs.offer(KEY, 20)
        gangs.wait(Offered, KEY)
        gangs.grant(KEY)
        gangs.wait(Ticketed, KEY)
        gangs.compute(KEY, 0, 19)
        gangs.settle()
        assert gangs.prefill.leader.outbox.bytes_sent == 0
        gangs.compute(KEY, 19, 20, complete=[(0, 1)])
        gangs.check_arrived(KEY)
        gangs.wait(Acked, KEY)
        gangs.check_integrity()


@pytest.mark.parametrize("step", ["offered", "granted", "computed", "completed"])
def test_the_sender_may_abort_at_every_step(gangs: Gangs, step: str) -> None:
    _advance(gangs, step)
    gangs.prefill.leader.outbox.abort(KEY)
    gangs.prefill.leader.outbox.abort(KEY)
    ended = gangs.until(lambda: next((e for e in gangs.events if isinstance(e, Acked | Ended)), None))
    assert isinstance(ended, Acked) or ended.error is None
    assert gangs.prefill.leader.outbox.num_failed == gangs.decode.leader.inbox.num_failed == 0


@pytest.mark.parametrize("step", ["offered", "granted", "computed", "completed"])
def test_the_receiver_may_abort_at_every_step(gangs: Gangs, step: str) -> None:
    _advance(gangs, step)
    gangs.wait(Offered, KEY)
    gangs.decode.leader.inbox.abort(KEY)
    gangs.decode.leader.inbox.abort(KEY)
    event = gangs.until(lambda: next((e for e in gangs.events if isinstance(e, Arrived | Lost)), None))
    assert isinstance(event, Arrived) or event.error is None
    end = gangs.until(lambda: next((e for e in gangs.events if isinstance(e, Acked | Ended)), None))
    assert isinstance(end, Acked) or isinstance(end.error, CancelledError)
    assert gangs.decode.leader.inbox.num_failed == 0


def _advance(gangs: Gangs, step: str) -> None:
    gangs.offer(KEY, 9)
    if step == "offered":
        return
    gangs.wait(Offered, KEY)
    gangs.grant(KEY)
    if step == "granted":
        return
    gangs.compute(KEY, 0, 9, complete=[(0, 1)] if step == "completed" else ())


def test_a_refusal_reaches_the_sender_with_its_code(gangs: Gangs) -> None:
    gangs.offer(KEY, 9)
    gangs.wait(Offered, KEY)
    gangs.decode.leader.inbox.refuse(KEY, OverloadedError("no blocks for so long a prompt"))
    error = gangs.wait(Ended, KEY).error
    assert isinstance(error, OverloadedError)
    assert error.message == "no blocks for so long a prompt"
    gangs.settle()
    assert not [event for event in gangs.events if isinstance(event, Lost)]


def test_an_abort_that_overtakes_its_offer_refuses_it(gangs: Gangs) -> None:
    gangs.decode.leader.inbox.abort(KEY)
    gangs.offer(KEY, 9)
    assert isinstance(gangs.wait(Ended, KEY).error, CancelledError)
    gangs.settle()
    assert not [event for event in gangs.events if isinstance(event, Offered)]


def test_commands_that_are_slow_to_reach_a_rank_hold_its_pushes_back_and_lose_nothing() -> None:
    with open_gangs(2, 2, 2) as gangs:
        for channel in (*gangs.prefill.downward, *gangs.decode.upward, *gangs.decode.downward):
            channel.delay_s = 0.03
        for index in range(3):
            _hand_over(gangs, TransferKey(f"r{index}", 0, 0), [3, 9], num_cached=index)
        gangs.check_integrity()


def test_a_rank_that_is_behind_with_its_steps_grants_no_block_that_they_may_read() -> None:
    with open_gangs(1, 2, 2) as gangs:
        gangs.decode.num_steps = 1  # told, and not done by the follower
        gangs.offer(KEY, 9)
        gangs.wait(Offered, KEY)
        gangs.grant(KEY)
        gangs.compute(KEY, 0, 9, complete=[(0, 1)])
        gangs.settle()
        assert not [event for event in gangs.events if isinstance(event, Ticketed | Arrived)]
        gangs.decode.followers[0].agent.step_done()
        gangs.check_arrived(KEY)
        gangs.wait(Acked, KEY)
        gangs.check_integrity()


@pytest.mark.parametrize("sequence", [1, 2])
@pytest.mark.parametrize("side", ["prefill", "decode"])
@pytest.mark.parametrize("step", ["offered", "granted", "computed"])
def test_one_lane_that_fails_ends_the_transfer_once_on_both_sides(side: str, step: str, sequence: int) -> None:
    with open_gangs(2 // sequence, 4 // sequence, 4, sequence=sequence) as gangs:
        _advance(gangs, step)
        gangs.wait(Offered, KEY)
        gang = getattr(gangs, side)
        gang.followers[-1].close()  # its links go, the rank stays
        error = gangs.wait(Ended, KEY).error
        assert isinstance(error, UnavailableError), error
        assert error.retryable
        gangs.until(lambda: gangs.decode.leader.inbox.num_active == 0)
        gangs.check_integrity()


def test_a_gang_of_another_degree_than_was_told_refuses_the_links() -> None:
    with open_gangs(2, 2, 4) as gangs:
        del gangs.decode.route.rank_addresses[:]
        gangs.offer(KEY, 5)
        error = gangs.wait(Ended, KEY).error
        assert "of 2 to rank 0 of 1 is meant, but this is rank 0 of 2" in error.message
        gangs.check_integrity()


def test_a_degree_that_cannot_share_the_heads_is_refused_before_anything_is_offered() -> None:
    with open_gangs(2, 1, 4) as gangs:
        gangs.decode.route.rank_addresses.extend(["127.0.0.1:1"] * 3)
        gangs.offer(KEY, 5)
        error = gangs.wait(Ended, KEY).error
        assert error.message == "decode-0: 3 ranks cannot share 4 heads"
        assert not error.retryable
        gangs.check_integrity()


@pytest.mark.parametrize(
    ("lane", "words"),
    [
        (None, "lane: none, but this is rank 1 of 2; name one"),
        (Lane(Place(0, 2), Place(0, 2)), "lane: rank 0 of 2 to rank 0 of 2 is meant, but this is rank 1 of 2"),
        (Lane(Place(0, 3), Place(1, 2)), "lane: 3 ranks cannot share 4 heads"),
        (Lane(Place(0, 0), Place(1, 2)), "lane: 0 ranks cannot share 4 heads"),
        (Lane(Place(0, 2), Place(1, 2)), "payloads: 2 on the sender, 0 on the receiver"),  # they share no head
        (Lane(Place(0, 1), Place(1, 2), Turn(2, 2)), "lane: rank 0 of 1 to rank 1 of 2, turn 2 of 2 is meant"),
    ],
)
def test_a_link_to_the_wrong_rank_is_refused_by_name(lane: Lane | None, words: str) -> None:
    with open_gangs(1, 2, 4) as gangs:
        prefill = gangs.prefill
        identity = Identity(
            worker_id="prefill-0",
            incarnation="p",
            fingerprint="w",
            dtype="float32",
            payloads=prefill.stores[0].payloads,
            block_size=BLOCK_SIZE,
            device="cpu",
            host="127.0.0.1",
            transport="grpc",
            lane=lane,
        )
        handshake = propose(identity, transport="grpc", store_address="", store_prefix="")
        told, link = gangs.decode.followers[0]._lanes.accept(handshake, lambda _: None)
        assert link is None
        assert words in told.refusal


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("senders", "receivers", "sequence"), [(2, 4, 1), (3, 1, 1), (1, 2, 3)])
def test_sixty_transfers_with_a_third_aborted_leave_nothing_behind(
    senders: int, receivers: int, sequence: int, seed: int
) -> None:
    rng = random.Random(seed)
    transport = "shm" if kv_copy.available() else "grpc"
    with open_gangs(senders, receivers, 12, sequence=sequence, transport=transport) as gangs:
        for channel in (*gangs.prefill.downward, *gangs.decode.upward):
            channel.delay_s = 0.0005
        todo = [TransferKey(f"r{i}", 0, rng.randrange(2)) for i in range(60)]
        doomed = {key: rng.randrange(1, 8) for key in rng.sample(todo, 20)}
        lengths = {key: rng.randrange(1, 30) for key in todo}
        computed: dict[TransferKey, int] = {}
        pending: list[TransferKey] = []
        seen = 0
        deadline_s = time.monotonic() + 60
        while todo or computed or pending or gangs.sent or gangs.granted:
            assert time.monotonic() < deadline_s, f"stuck with {todo}, {computed}, {pending}, {gangs.granted}"
            if todo and len(computed) < 3 and len(gangs.prefill.free_blocks) >= 8:
                computed[key := todo.pop()] = 0
                gangs.offer(key, lengths[key])
            for key in list(computed):
                doomed[key] = doomed.get(key, 1 << 30) - 1
                if doomed[key] == 0:
                    (gangs.decode.leader.inbox if rng.random() < 0.5 else gangs.prefill.leader.outbox).abort(key)
                start, computed[key] = computed[key], min(lengths[key], computed[key] + rng.randrange(1, 9))
                is_last = computed[key] == lengths[key]
                if key in gangs.sent:
                    gangs.compute(key, start, computed[key], complete=[(key.choice, 7)] if is_last else ())
                if is_last:
                    del computed[key]
            gangs.poll()
            for event in gangs.events[seen:]:
                if isinstance(event, Offered):
                    pending.append(event.key)
                elif isinstance(event, Lost) and event.key in pending:
                    pending.remove(event.key)
            seen = len(gangs.events)
            if pending and len(gangs.decode.free_blocks) >= 8:
                key = pending.pop(rng.randrange(len(pending)))
                gangs.grant(key, rng.randrange(0, lengths[key]))
            time.sleep(0.001)
        gangs.check_integrity()
        arrived = [event.key for event in gangs.events if isinstance(event, Arrived)]
        assert 40 <= len(arrived) < 60
        for key in arrived:
            gangs.check_arrived(key)
