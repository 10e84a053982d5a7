"""One suite for every KV link: what arrives, and how transfers end."""

import operator
import random
import time
from collections.abc import Iterator

import pytest
import torch

from baton.errors import CancelledError, OverloadedError, UnavailableError
from tests.unit.kv_transfer.harness import TRANSPORTS, BytesStore, Pair, TorchStore, open_pair, state, tokens
from workers.kv_transfer.link import Acked, Arrived, Ended, Lost, Offered, Ticketed, TransferKey
from workers.spec import KVSpec

KEY = TransferKey("r", 0, 0)
torch.set_num_threads(1)


@pytest.fixture(params=[*TRANSPORTS, "nccl", "cuda_ipc"])
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name in ("nccl", "cuda_ipc"):
        pytest.skip(f"{name} needs CUDA and two processes: tests/gpu")
    return name


@pytest.fixture
def pair(transport: str) -> Iterator[Pair]:
    with open_pair(transport) as opened:
        yield opened
        opened.check_integrity()


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 5, 37])
@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_kv_arrives_bit_for_bit_whatever_the_chunk(pair: Pair, num_tokens: int, chunk: int) -> None:
    pair.offer(KEY, num_tokens)
    pair.wait(Offered, KEY)
    pair.grant(KEY, num_tokens)
    for end in range(chunk, num_tokens + chunk, chunk):
        pair.compute(KEY, min(end, num_tokens))
    pair.outbox.complete(KEY, num_tokens, [(0, 11)])
    assert pair.check_arrived(KEY, num_tokens).first_tokens == ((0, 11),)
    pair.wait(Acked, KEY)


@pytest.mark.parametrize("num_cached", [1, 4, 6, 8, 21, 22])
def test_a_prefix_that_the_receiver_has_is_not_sent(pair: Pair, num_cached: int) -> None:
    pair.offer(KEY, 22)
    pair.wait(Offered, KEY)
    pair.grant(KEY, 22, num_cached)
    assert pair.wait(Ticketed, KEY).num_cached_tokens == num_cached
    pair.compute(KEY, 5)
    pair.compute(KEY, 22)
    pair.outbox.complete(KEY, 22, [(0, 1)])
    pair.check_arrived(KEY, 22)
    pair.wait(Acked, KEY)
    num_units = [spec.num_units(22) - spec.num_cached(num_cached) for spec in pair.sender.payloads]
    sizes = [spec.unit_nbytes for spec in pair.sender.payloads]
    assert pair.outbox.bytes_sent == sum(map(operator.mul, num_units, sizes))
    assert pair.inbox.bytes_received == pair.outbox.bytes_sent


def test_a_ticket_after_the_prompt_is_computed_is_in_time(pair: Pair) -> None:
    pair.offer(KEY, 9)
    pair.compute(KEY, 9)
    pair.outbox.complete(KEY, 9, [(0, 1)])
    pair.wait(Offered, KEY)
    pair.settle()
    pair.grant(KEY, 9)
    pair.check_arrived(KEY, 9)
    pair.wait(Acked, KEY)


def test_one_transfer_carries_the_first_tokens_of_every_choice(pair: Pair) -> None:
    pair.offer(KEY, 6)
    offered = pair.wait(Offered, KEY)
    assert (offered.submit.request_id, offered.ingress_id) == ("r", "ingress-0")
    pair.grant(KEY, 6)
    pair.compute(KEY, 6)
    pair.outbox.complete(KEY, 6, [(0, 5), (2, 9), (3, 5)])
    assert pair.check_arrived(KEY, 6).first_tokens == ((0, 5), (2, 9), (3, 5))
    pair.wait(Acked, KEY)


def test_a_transfer_larger_than_a_message_arrives_whole(transport: str) -> None:
    payloads = (tokens(0, 1 << 10), state(1, 3 << 20), tokens(2, 3 << 10))  # a state, too, larger than gRPC's
    stores = [TorchStore(num_blocks=8, block_size=512, payloads=payloads) for _ in range(2)]
    with open_pair(transport, sender=stores[0], receiver=stores[1]) as pair:
        pair.offer(KEY, 4000)  # 19 MB
        pair.wait(Offered, KEY)
        pair.grant(KEY, 4000, 3)
        pair.compute(KEY, 1999)
        pair.compute(KEY, 4000)
        pair.outbox.complete(KEY, 4000, [(0, 1)])
        pair.check_arrived(KEY, 4000)
        pair.wait(Acked, KEY)
        pair.check_integrity()


def test_bulk_sends_nothing_before_the_prompt_is_computed(transport: str) -> None:
    with open_pair(transport, kv=KVSpec(push="bulk")) as pair:
        pair.offer(KEY, 20)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 20)
        pair.wait(Ticketed, KEY)
        pair.compute(KEY, 20)
        pair.settle()
        assert pair.outbox.bytes_sent == 0
        pair.outbox.complete(KEY, 20, [(0, 1)])
        pair.check_arrived(KEY, 20)
        pair.wait(Acked, KEY)
        pair.check_integrity()


@pytest.mark.parametrize("step", ["offered", "granted", "computed", "completed"])
def test_the_sender_may_abort_at_every_step(pair: Pair, step: str) -> None:
    _advance(pair, step)
    pair.outbox.abort(KEY)
    pair.outbox.abort(KEY)
    ended = pair.until(lambda: next((e for e in pair.events if isinstance(e, Acked | Ended)), None))
    assert isinstance(ended, Acked) or ended.error is None
    pair.until(lambda: pair.inbox.num_active == 0)
    pair.poll()
    lost = [e for e in pair.events if isinstance(e, Lost)]
    assert isinstance(ended, Acked) or not lost or isinstance(lost[0].error, CancelledError | None)
    assert pair.outbox.num_failed == pair.inbox.num_failed == 0


@pytest.mark.parametrize("step", ["offered", "granted", "computed", "completed"])
def test_the_receiver_may_abort_at_every_step(pair: Pair, step: str) -> None:
    _advance(pair, step)
    pair.wait(Offered, KEY)
    pair.inbox.abort(KEY)
    pair.inbox.abort(KEY)
    event = pair.until(lambda: next((e for e in pair.events if isinstance(e, Arrived | Lost)), None))
    assert isinstance(event, Arrived) or event.error is None
    end = pair.until(lambda: next((e for e in pair.events if isinstance(e, Acked | Ended)), None))
    assert isinstance(end, Acked) or isinstance(end.error, CancelledError)
    assert pair.outbox.num_failed == pair.inbox.num_failed == 0


def _advance(pair: Pair, step: str) -> None:
    pair.offer(KEY, 9)
    if step == "offered":
        return
    pair.wait(Offered, KEY)
    pair.grant(KEY, 9)
    if step == "granted":
        return
    pair.compute(KEY, 9)
    if step == "computed":
        return
    pair.outbox.complete(KEY, 9, [(0, 1)])


def test_an_abort_that_overtakes_its_offer_refuses_it(pair: Pair) -> None:
    pair.inbox.abort(KEY)
    pair.offer(KEY, 9)
    assert isinstance(pair.wait(Ended, KEY).error, CancelledError)
    pair.settle()
    assert not [event for event in pair.events if isinstance(event, Offered)]


def test_an_attempt_older_than_one_seen_is_refused(pair: Pair) -> None:
    newer = TransferKey("r", 2, 0)
    pair.offer(newer, 3)
    pair.wait(Offered, newer)
    pair.offer(KEY, 3)
    assert "attempt 0 is older than attempt 2" in str(pair.wait(Ended, KEY).error)
    pair.outbox.abort(newer)
    pair.wait(Ended, newer)


def test_a_refusal_reaches_the_sender_with_its_code(pair: Pair) -> None:
    pair.offer(KEY, 9)
    pair.wait(Offered, KEY)
    pair.inbox.refuse(KEY, OverloadedError("no blocks for so long a prompt"))
    error = pair.wait(Ended, KEY).error
    assert isinstance(error, OverloadedError)
    assert error.message == "no blocks for so long a prompt"
    assert pair.outbox.num_failed == 1
    pair.settle()
    assert not [event for event in pair.events if isinstance(event, Lost)]


def test_offers_over_the_bound_are_refused_retryably(transport: str) -> None:
    with open_pair(transport, kv=KVSpec(max_pending=2)) as pair:
        keys = [TransferKey(f"r{i}", 0, 0) for i in range(3)]
        for key in keys:
            pair.offer(key, 3)
        error = pair.wait(Ended, keys[2]).error
        assert isinstance(error, OverloadedError)
        assert "kv.max_pending is 2" in error.message
        for key in keys[:2]:
            pair.wait(Offered, key)
            pair.outbox.abort(key)
        for key in keys[:2]:
            pair.wait(Lost, key)
        pair.check_integrity()


def test_a_store_of_bytes_is_carried_by_grpc_and_in_process() -> None:
    for transport in ("inproc", "grpc"):
        with open_pair(transport, sender=BytesStore(), receiver=BytesStore()) as pair:
            pair.offer(KEY, 13)
            pair.wait(Offered, KEY)
            pair.grant(KEY, 13, 2)
            pair.compute(KEY, 13)
            pair.outbox.complete(KEY, 13, [(0, 1)])
            pair.check_arrived(KEY, 13)
            pair.wait(Acked, KEY)
            pair.check_integrity()


def test_closing_the_receiver_ends_what_the_sender_has_open(transport: str) -> None:
    with open_pair(transport) as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.wait(Ticketed, KEY)
        pair.inbox.close()
        assert isinstance(pair.wait(Ended, KEY).error, UnavailableError)
        pair.wait(Lost, KEY)
        late = TransferKey("late", 0, 0)
        pair.offer(late, 3)
        error = pair.wait(Ended, late).error
        assert isinstance(error, UnavailableError)
        assert error.retryable
        pair.check_integrity()


def test_closing_the_sender_ends_what_the_receiver_has_open(transport: str) -> None:
    with open_pair(transport) as pair:
        pair.offer(KEY, 9)
        pair.wait(Offered, KEY)
        pair.grant(KEY, 9)
        pair.wait(Ticketed, KEY)
        pair.outbox.close()
        assert isinstance(pair.wait(Lost, KEY).error, UnavailableError)
        pair.wait(Ended, KEY)
        pair.check_integrity()


def test_every_call_carries_the_secret() -> None:
    with open_pair("grpc") as pair:
        pair.offer(KEY, 1)
        pair.wait(Offered, KEY)
        assert pair.server is not None
        assert pair.server.secrets_seen == ["hush"]
        pair.outbox.abort(KEY)
        pair.wait(Lost, KEY)


@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_transfers_with_a_third_aborted_leave_nothing_behind(pair: Pair, seed: int) -> None:
    rng = random.Random(seed)
    todo = [TransferKey(f"r{i}", 0, rng.randrange(2)) for i in range(100)]
    doomed = {key: rng.randrange(1, 12) for key in rng.sample(todo, 34)}
    lengths = {key: rng.randrange(1, 40) for key in todo}
    computed: dict[TransferKey, int] = {}
    pending: list[TransferKey] = []
    seen = 0
    num_rounds = 0
    while todo or computed or pending or pair.outbox.num_active or pair.inbox.num_active:
        num_rounds += 1
        assert num_rounds < 20_000, f"stuck with {todo}, {computed}, {pending}, {pair.granted}"
        time.sleep(0.001)
        if todo and len(computed) < 4 and len(pair.sender.free_blocks) >= 10:
            computed[key := todo.pop()] = 0
            pair.offer(key, lengths[key])
        for key in list(computed):
            doomed[key] = doomed.get(key, 1 << 30) - 1
            if doomed[key] == 0:
                (pair.inbox if rng.random() < 0.5 else pair.outbox).abort(key)
            computed[key] = min(lengths[key], computed[key] + rng.randrange(1, 9))
            if key in pair.sent:
                pair.compute(key, computed[key])
            if computed[key] == lengths[key]:
                pair.outbox.complete(key, lengths[key], [(key.choice, 7)])
                del computed[key]
        pair.poll()
        for event in pair.events[seen:]:
            if isinstance(event, Offered):
                pending.append(event.key)
            elif isinstance(event, Lost) and event.key in pending:
                pending.remove(event.key)
        seen = len(pair.events)
        if pending and len(pair.receiver.free_blocks) >= 10:
            key = pending.pop(rng.randrange(len(pending)))
            pair.grant(key, lengths[key], rng.randrange(0, lengths[key]))
    pair.poll()
    ends = [event for event in pair.events if isinstance(event, Acked | Ended)]
    assert len(ends) == 100
    for event in pair.events:
        if isinstance(event, Arrived):
            pair.check_arrived(event.key, lengths[event.key])
    num_arrived = sum(isinstance(event, Arrived) for event in pair.events)
    assert 66 <= num_arrived < 100
