"""Gangs in one process, for the suite of hand-overs between them: real stores, links, servers; messages by queues."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from baton.v1.worker_pb2 import ChoiceStart, DecodeRoute, Submit
from tests.unit.kv_transfer.harness import WAIT_S, Server, spec_of
from workers.kv_transfer.gang_links import FollowerLinks, LeaderLinks, Life
from workers.kv_transfer.link import Acked, Arrived, Ended, Going, Lost, Offered, Push, TransferKey
from workers.model.kv_store import LayerShape, TorchKVStore
from workers.model.places import Degrees, Place
from workers.spec import KVSpec, Role

BLOCK_SIZE = 4
NUM_BLOCKS = 32
NUM_LAYERS = 2
HEAD_DIM = 3


class Channel:
    """One direction between two ranks: calls `deliver` from a thread of its own, in order."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self._items: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._deliver = deliver
        self.delay_s = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def tell(self, payload: bytes) -> None:
        self._items.put(payload)

    def close(self) -> None:
        self._items.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (payload := self._items.get()) is not None:
            time.sleep(self.delay_s)
            self._deliver(payload)


def make_store(num_heads: int, place: Place, *, has_kernel: bool = True) -> TorchKVStore:
    held, whole = (
        [LayerShape(num_kv_heads=count, head_dim=HEAD_DIM + layer) for layer in range(NUM_LAYERS)]
        for count in (len(place.heads(num_heads)), num_heads)
    )
    store = TorchKVStore(
        held,
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
        dtype=torch.float32,
        device=torch.device("cpu"),
        place=place,
        whole=whole,
    )
    store._has_kernel = store._has_kernel and has_kernel
    return store


def content(key: TransferKey, num_tokens: int, num_heads: int) -> list[Tensor]:
    """What all ranks together hold of `key`: per layer [2, num_tokens, num_heads, dim]."""
    generator = torch.Generator().manual_seed(hash(key) % (1 << 31))
    return [
        torch.randn((2, num_tokens, num_heads, HEAD_DIM + layer), generator=generator) for layer in range(NUM_LAYERS)
    ]


class Gang:
    """One worker of so many ranks."""

    def __init__(
        self, worker_id: str, role: Role, *, degrees: Degrees, num_heads: int, kv: KVSpec, has_kernel: bool = True
    ) -> None:
        self.worker_id, self.degrees, self.num_heads = worker_id, degrees, num_heads
        ranks = range(degrees.size)
        self.places = [degrees.place_of(rank) for rank in ranks]
        self.stores = [make_store(num_heads, place, has_kernel=has_kernel) for place in self.places]
        self.free_blocks = list(range(NUM_BLOCKS))[::-1]
        self.bugs: list[BaseException] = []
        self.num_steps = 0
        life = Life(spec=spec_of(worker_id, role, kv), incarnation=f"{worker_id}/1", fingerprint="w")
        self.leader = LeaderLinks(
            life,
            self.stores[0],
            degrees=degrees,
            tell=self._tell,
            notify=lambda: None,
            fail=self.bugs.append,
            num_steps=lambda: self.num_steps,
        )
        self.followers = [
            FollowerLinks(life, self.stores[rank], rank, degrees, tell=self._teller(rank)) for rank in ranks[1:]
        ]
        self.downward = [Channel(self._to_follower(rank)) for rank in ranks[1:]]
        self.upward = [Channel(self._to_leader(rank)) for rank in ranks[1:]]
        self.servers = [Server(links.servicer) for links in (self.leader, *self.followers)]
        for follower, server in zip(self.followers, self.servers[1:], strict=True):
            follower.agent.introduce(server.address)
        self.route = DecodeRoute(
            worker_id=worker_id,
            incarnation=life.incarnation,
            address=self.servers[0].address,
            rank_addresses=self._addresses(),
        )

    def close(self) -> None:
        self.leader.close()
        for follower in self.followers:
            follower.close()
        for server in self.servers:
            server.stop()
        for channel in (*self.downward, *self.upward):
            channel.close()

    def allocate(self, num_tokens: int) -> list[int]:
        return [self.free_blocks.pop() for _ in range(-(-num_tokens // BLOCK_SIZE))]

    def rows(self, rank: int, layer: int, blocks: Sequence[int], start: int, end: int) -> tuple[Any, ...]:
        """An index of the rank's layer: [2, end - start, heads, dim] of tokens [start, end)."""
        positions = torch.arange(start, end)
        return slice(None), torch.tensor(blocks, dtype=torch.int64)[positions // BLOCK_SIZE], positions % BLOCK_SIZE

    def put(self, rank: int, layer: int, blocks: Sequence[int], whole: Tensor, start: int, end: int) -> None:
        """What the rank computes, or has in its prefix cache."""
        held = self.places[rank].heads(self.num_heads)
        index = self.rows(rank, layer, blocks, start, end)
        self.stores[rank].layers[layer][index] = whole[:, start:end, held.start : held.stop]

    def _addresses(self) -> list[str]:
        if self.degrees.size == 1:
            return []
        return [self.servers[0].address, *self.leader.wait_for_addresses(WAIT_S)]

    def _tell(self, rank: int, payload: bytes) -> None:
        self.downward[rank - 1].tell(payload)

    def _teller(self, rank: int) -> Callable[[bytes], None]:
        return lambda payload: self.upward[rank - 1].tell(payload)

    def _to_follower(self, rank: int) -> Callable[[bytes], None]:
        return lambda payload: self.followers[rank - 1].on_message(0, payload)

    def _to_leader(self, rank: int) -> Callable[[bytes], None]:
        return lambda payload: self.leader.on_message(rank, payload)


@dataclass
class Gangs:
    """A prefill gang and a decode gang, whose leaders' engines are played here."""

    prefill: Gang
    decode: Gang
    events: list[Any] = field(default_factory=list)
    lengths: dict[TransferKey, int] = field(default_factory=dict)
    sent: dict[TransferKey, list[int]] = field(default_factory=dict)
    granted: dict[TransferKey, list[int]] = field(default_factory=dict)
    arrived: dict[TransferKey, list[list[Tensor]]] = field(default_factory=dict)  # per rank and layer

    def poll(self) -> None:
        for event in self.prefill.leader.outbox.poll():
            self.events.append(event)
            if isinstance(event, Acked | Ended):
                self.prefill.free_blocks += self.sent.pop(event.key)
        for event in self.decode.leader.inbox.poll():
            self.events.append(event)
            if isinstance(event, Arrived):
                self.arrived[event.key] = self._snapshot(event.key, event.num_tokens)
            if isinstance(event, Arrived | Lost) and event.key in self.granted:
                self.decode.free_blocks += self.granted.pop(event.key)

    def wait(self, kind: type, key: TransferKey) -> Any:
        return self.until(lambda: next((e for e in self.events if isinstance(e, kind) and e.key == key), None))

    def until(self, found: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + WAIT_S
        while not (result := found()):
            assert time.monotonic() < deadline_s, f"nothing within {WAIT_S} s; events: {self.events}"
            self.poll()
            time.sleep(0.001)
        return result

    def settle(self, seconds: float = 0.15) -> None:
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.poll()
            time.sleep(0.005)

    def offer(self, key: TransferKey, num_tokens: int) -> None:
        self.sent[key] = self.prefill.allocate(num_tokens)
        self.lengths[key] = num_tokens
        submit = Submit(
            request_id=key.request_id,
            attempt=key.attempt,
            prompt_token_ids=range(num_tokens),
            choices=[ChoiceStart(choice=key.choice)],
            timeout_s=60,
        )
        self.prefill.leader.outbox.offer(key, submit, "ingress-0", self.decode.route, num_tokens)

    def compute(self, key: TransferKey, start: int, end: int, *, complete: Sequence[tuple[int, int]] = ()) -> None:
        """One step, layer by layer on each rank; the leader's `complete` may come before the others are done."""
        outbox, blocks = self.prefill.leader.outbox, self.sent[key]
        whole = content(key, self.lengths[key], self.prefill.num_heads)
        push = Push([Going(key, end, blocks)], outbox.computed)
        note = outbox.note(push)
        self.prefill.num_steps += 1
        for layer in range(NUM_LAYERS):
            self.prefill.put(0, layer, blocks, whole[layer], start, end)
            push(layer)
        if complete:
            outbox.complete(key, end, complete)
        for rank, follower in enumerate(self.prefill.followers, start=1):
            on_layer = follower.agent.on_layer(note)
            assert on_layer is not None
            for layer in range(NUM_LAYERS):
                self.prefill.put(rank, layer, blocks, whole[layer], start, end)
                on_layer(layer)
            follower.agent.step_done()

    def grant(self, key: TransferKey, num_cached: int = 0) -> None:
        """Blocks that hold the first `num_cached` tokens already, promised."""
        blocks = self.granted[key] = self.decode.allocate(self.lengths[key])
        for layer, whole in enumerate(content(key, self.lengths[key], self.decode.num_heads)):
            for rank in range(self.decode.degrees.size):
                self.decode.put(rank, layer, blocks, whole, 0, num_cached)
        self.decode.leader.inbox.grant(key, blocks, num_cached)

    def check_arrived(self, key: TransferKey) -> Arrived:
        """Every head of every token is where it belongs, on every rank."""
        event: Arrived = self.wait(Arrived, key)
        assert event.num_tokens == self.lengths[key]
        whole = content(key, self.lengths[key], self.decode.num_heads)
        for rank, layers in enumerate(self.arrived[key]):
            held = self.decode.places[rank].heads(self.decode.num_heads)
            for got, wanted in zip(layers, whole, strict=True):
                assert torch.equal(got, wanted[:, :, held.start : held.stop]), f"rank {rank}"
        return event

    def check_integrity(self) -> None:
        """Nothing is held on any rank, and every key ended once on each side that saw it."""
        self.until(lambda: not self.sent and not self.granted)
        for gang in (self.prefill, self.decode):
            assert not gang.bugs
            assert sorted(gang.free_blocks) == list(range(NUM_BLOCKS))
            lanes = [gang.leader._own, *(follower._lanes for follower in gang.followers)]
            self.until(lambda lanes=lanes: not any(one.num_active for one in lanes))  # type: ignore[misc]
        self.until(lambda: not self.prefill.leader.outbox.num_active and not self.decode.leader.inbox.num_active)
        for kinds in ((Acked, Ended), (Arrived, Lost)):
            keys = [event.key for event in self.events if isinstance(event, kinds)]
            assert len(keys) == len(set(keys)), self.events
        offered = {event.key for event in self.events if isinstance(event, Offered)}
        assert {event.key for event in self.events if isinstance(event, Arrived | Lost)} <= offered

    def _snapshot(self, key: TransferKey, num_tokens: int) -> list[list[Tensor]]:
        gang, blocks = self.decode, self.granted[key]
        return [
            [store.layers[layer][gang.rows(rank, layer, blocks, 0, num_tokens)].clone() for layer in range(NUM_LAYERS)]
            for rank, store in enumerate(gang.stores)
        ]


@contextlib.contextmanager
def open_gangs(
    senders: int,
    receivers: int,
    num_heads: int,
    *,
    sequence: int = 1,
    transport: str = "grpc",
    kv: KVSpec | None = None,
    has_kernel: bool = True,
) -> Iterator[Gangs]:
    """`sequence`: times `senders` ranks of the prefill gang read prompts together."""
    kv = replace(kv or KVSpec(), transport=transport)
    made: list[Gang] = []
    sides = (("prefill-0", Role.PREFILL, Degrees(senders, sequence)), ("decode-0", Role.DECODE, Degrees(receivers)))
    try:
        for worker_id, role, degrees in sides:
            made.append(Gang(worker_id, role, degrees=degrees, num_heads=num_heads, kv=kv, has_kernel=has_kernel))
        yield Gangs(*made)
    finally:
        for gang in made:
            gang.close()
