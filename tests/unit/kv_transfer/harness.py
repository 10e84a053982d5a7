"""A small store, and pairs of outbox and inbox over every transport, for the suites of KV links."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import torch

from baton.v1.kv_pb2_grpc import add_KVTransferServicer_to_server
from baton.v1.worker_pb2 import ChoiceStart, DecodeRoute, Submit
from tests.local_link import local_pair
from workers.kv_transfer.grpc_link import make_inbox, make_outbox
from workers.kv_transfer.link import Acked, Arrived, Ended, Inbox, Lost, Offered, Outbox, TransferKey
from workers.model.contract import PayloadSpec, Unit, Units
from workers.model.cpu import kv_copy
from workers.model.places import EVERY_BLOCK, PLAIN, HeadsOf, Place, Turn
from workers.model.shared_memory import SharedMemory
from workers.spec import KVSpec, Role, WorkerSpec

SECRET = "hush"
TRANSPORTS = ("inproc", "grpc", "gloo", "shm")
WAIT_S = 20.0


def tokens(layer: int, nbytes: int) -> PayloadSpec:
    return PayloadSpec(layer=layer, unit_nbytes=nbytes, layout=f"test/width={nbytes}")


def state(layer: int, nbytes: int) -> PayloadSpec:
    return PayloadSpec(layer=layer, unit=Unit.STATE, unit_nbytes=nbytes, layout=f"test/state={nbytes}")


# Layers of tokens and of states, of two payloads each; unequal sizes, so that a mistaken offset shows.
MIXED = (
    tokens(0, 24),
    tokens(0, 20),
    state(1, 100),
    state(1, 60),
    tokens(2, 40),
    tokens(2, 16),
    state(3, 7),
    state(3, 1),
)


@dataclass(frozen=True)
class Held:
    """Where one sequence lies in a store."""

    blocks: list[int]
    states: list[int]


class TorchStore:
    """Rows of bytes, one per token or state."""

    def __init__(self, *, num_blocks: int = 64, block_size: int = 4, payloads: Sequence[PayloadSpec] = MIXED) -> None:
        self.block_size = block_size
        self.payloads = tuple(payloads)
        self.num_blocks = self.num_states = num_blocks
        caches, nbytes = self.foreign_caches(None, num_blocks, num_blocks)
        self.memory = SharedMemory(nbytes)
        self.rows = [
            torch.frombuffer(self.memory.view, dtype=torch.uint8, count=cache.plane_nbytes, offset=cache.address).view(
                -1, spec.unit_nbytes
            )
            for cache, spec in zip(caches, self.payloads, strict=True)
        ]
        self.free_blocks = list(range(num_blocks))[::-1]
        self.free_states = list(range(num_blocks))
        self.write_delay_s = 0.0

    @property
    def head_counts(self) -> frozenset[int]:
        return frozenset({1})

    def part(self, heads: HeadsOf, turn: Turn = EVERY_BLOCK) -> "TorchStore":
        assert heads(1), "a store whose layers have no heads to divide"
        assert turn == EVERY_BLOCK, "of one rank that sends"
        return self

    def read(self, index: int, block_ids: Sequence[int], start: int, end: int, out: Any = None) -> Any:
        out = self.empty_payload(self.payloads[index].unit_nbytes * (end - start)) if out is None else out
        target = out if isinstance(out, torch.Tensor) else torch.frombuffer(out, dtype=torch.uint8)
        target.copy_(self.rows[index][self._slots(index, block_ids, start, end)].view(-1))
        return out

    def write(self, index: int, block_ids: Sequence[int], start: int, end: int, payload: Any) -> None:
        time.sleep(self.write_delay_s)
        if isinstance(payload, kv_copy.ForeignRange):
            rows = self.rows[index]
            own = kv_copy.Cache(rows.data_ptr(), 1, self.num_blocks, rows.numel() // self.num_blocks)
            kv_copy.copy_blocks(payload, own, self._block_units(index), block_ids, start, end)
            return
        if isinstance(payload, bytes):
            payload = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        self.rows[index][self._slots(index, block_ids, start, end)] = payload.view(end - start, -1)

    def read_all(self, units: Sequence[Units], outs: Sequence[Any]) -> None:
        for one, out in zip(units, outs, strict=True):
            self.read(one.index, one.block_ids, one.start, one.end, out)

    def write_all(self, units: Sequence[Units], payloads: Sequence[Any]) -> None:
        for one, payload in zip(units, payloads, strict=True):
            self.write(one.index, one.block_ids, one.start, one.end, payload)

    def empty_payload(self, nbytes: int) -> Any:
        return torch.empty(nbytes, dtype=torch.uint8)

    def foreign_caches(
        self, view: memoryview | None, num_blocks: int, num_states: int, place: Place = PLAIN
    ) -> tuple[list[kv_copy.Cache], int]:
        assert place == PLAIN, "a store whose layers have no heads to divide"
        address = np.frombuffer(view, dtype=np.uint8).ctypes.data if view is not None else 0
        block_nbytes = [spec.unit_nbytes * self._block_units(index) for index, spec in enumerate(self.payloads)]
        counts = [num_blocks if spec.unit is Unit.TOKEN else num_states for spec in self.payloads]
        return kv_copy.lay_out([(size, 1, count) for size, count in zip(block_nbytes, counts, strict=True)], address)

    def allocate(self, num_tokens: int) -> Held:
        blocks = [self.free_blocks.pop() for _ in range(-(-num_tokens // self.block_size))]
        return Held(blocks, [self.free_states.pop()])

    def free(self, held: Held) -> None:
        self.free_blocks += held.blocks
        self.free_states += held.states

    def of(self, held: Held, index: int, start: int, end: int) -> torch.Tensor:
        """A copy of units [start, end) of a sequence: [end - start, unit_nbytes]."""
        return self.rows[index][self._place(held, index, start, end)]

    def set(self, held: Held, index: int, start: int, rows: torch.Tensor) -> None:
        self.rows[index][self._place(held, index, start, start + len(rows))] = rows

    def _place(self, held: Held, index: int, start: int, end: int) -> torch.Tensor:
        ids = held.blocks if self.payloads[index].unit is Unit.TOKEN else held.states
        return self._slots(index, ids, start, end)

    def _slots(self, index: int, block_ids: Sequence[int], start: int, end: int) -> torch.Tensor:
        position, size = torch.arange(start, end), self._block_units(index)
        return torch.tensor(block_ids)[position // size] * size + position % size

    def _block_units(self, index: int) -> int:
        return self.block_size if self.payloads[index].unit is Unit.TOKEN else 1


class BytesStore(TorchStore):
    """Payloads are plain buffers, as the fake model's."""

    def read(self, index: int, block_ids: Sequence[int], start: int, end: int, out: Any = None) -> Any:
        assert isinstance(out, memoryview), "links read into a buffer of the store's kind"
        return super().read(index, block_ids, start, end, out)

    def write(self, index: int, block_ids: Sequence[int], start: int, end: int, payload: Any) -> None:
        assert isinstance(payload, bytes | memoryview)
        super().write(index, block_ids, start, end, bytes(payload))

    def empty_payload(self, nbytes: int) -> Any:
        return memoryview(bytearray(nbytes))


def content(store: TorchStore, key: TransferKey, num_tokens: int) -> list[torch.Tensor]:
    """What `key` hands over: [units, unit_nbytes] per payload."""
    generator = torch.Generator().manual_seed(hash(key) % (1 << 31))
    shapes = [(spec.num_units(num_tokens), spec.unit_nbytes) for spec in store.payloads]
    return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for shape in shapes]


def hand_in(outbox: Outbox, store: TorchStore, key: TransferKey, held: Held, num_tokens: int, of: int) -> None:
    """Computes [0, num_tokens) of `of` tokens, layer by layer. Until the last a state is another one's."""
    rows = content(store, key, of)
    for layer in sorted({spec.layer for spec in store.payloads}):
        for index, spec in enumerate(store.payloads):
            if spec.layer == layer:
                num_final = spec.num_final(num_tokens, of)
                store.set(held, index, 0, rows[index][:num_final] if num_final else ~rows[index][:1])
        outbox.computed(key, layer, num_tokens, held.blocks, held.states)


def spec_of(worker_id: str, role: Role, kv: KVSpec) -> WorkerSpec:
    return WorkerSpec(
        worker_id=worker_id,
        role=role,
        model="test",
        served_name="test",
        dtype="float32",
        device="cpu",
        kv=kv,
        secret=SECRET,
    )


class Server:
    """A grpc.aio server on a loop in its own thread, as a worker has one."""

    def __init__(self, servicer: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.secrets_seen: list[str] = []
        self.address = self._run(self._start(servicer))

    def stop(self) -> None:
        self._run(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, servicer: Any) -> str:
        self._server = grpc.aio.server(interceptors=[_SecretReader(self.secrets_seen)])
        add_KVTransferServicer_to_server(servicer, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)


class _SecretReader(grpc.aio.ServerInterceptor):
    def __init__(self, seen: list[str]) -> None:
        self._seen = seen

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._seen.extend(value for name, value in details.invocation_metadata if name == "baton-secret")
        return await continuation(details)


@dataclass
class Pair:
    outbox: Outbox
    inbox: Inbox
    sender: TorchStore
    receiver: TorchStore
    route: DecodeRoute
    server: Server | None = None
    events: list[Any] = field(default_factory=list)
    lengths: dict[TransferKey, int] = field(default_factory=dict)  # of what was offered, in tokens
    sent: dict[TransferKey, Held] = field(default_factory=dict)
    granted: dict[TransferKey, Held] = field(default_factory=dict)
    arrived: dict[TransferKey, list[torch.Tensor]] = field(default_factory=dict)

    def poll(self) -> None:
        """Takes in events and frees blocks as an engine does."""
        for event in self.outbox.poll():
            self.events.append(event)
            if isinstance(event, Acked | Ended):
                self.sender.free(self.sent.pop(event.key))
        for event in self.inbox.poll():
            self.events.append(event)
            if isinstance(event, Arrived):
                self.arrived[event.key] = [
                    self.receiver.of(self.granted[event.key], index, 0, spec.num_units(event.num_tokens))
                    for index, spec in enumerate(self.receiver.payloads)
                ]
            if isinstance(event, Arrived | Lost) and event.key in self.granted:
                self.receiver.free(self.granted.pop(event.key))

    def wait(self, kind: type, key: TransferKey) -> Any:
        return self.until(lambda: next((e for e in self.events if isinstance(e, kind) and e.key == key), None))

    def until(self, found: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + WAIT_S
        while not (result := found()):
            assert time.monotonic() < deadline_s, f"nothing within {WAIT_S} s; events: {self.events}"
            self.poll()
            time.sleep(0.002)
        return result

    def settle(self, seconds: float = 0.15) -> None:
        """Time for an event that must not come."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self.poll()
            time.sleep(0.005)

    def offer(self, key: TransferKey, num_tokens: int, *, timeout_s: float = 60) -> None:
        self.sent[key] = self.sender.allocate(num_tokens)
        self.lengths[key] = num_tokens
        submit = Submit(
            request_id=key.request_id,
            attempt=key.attempt,
            prompt_token_ids=range(num_tokens),
            choices=[ChoiceStart(choice=key.choice)],
            timeout_s=timeout_s,
        )
        self.outbox.offer(key, submit, "ingress-0", self.route, num_tokens)

    def compute(self, key: TransferKey, num_tokens: int) -> None:
        hand_in(self.outbox, self.sender, key, self.sent[key], num_tokens, self.lengths[key])

    def grant(self, key: TransferKey, num_tokens: int, num_cached: int = 0) -> None:
        """Blocks that hold the first `num_cached` tokens already, promised."""
        held = self.granted[key] = self.receiver.allocate(num_tokens)
        for index, rows in enumerate(content(self.receiver, key, num_tokens)):
            self.receiver.set(held, index, 0, rows[: self.receiver.payloads[index].num_cached(num_cached)])
        self.inbox.grant(key, held.blocks, num_cached, held.states)

    def check_arrived(self, key: TransferKey, num_tokens: int) -> Arrived:
        event: Arrived = self.wait(Arrived, key)
        assert event.num_tokens == num_tokens
        for got, wanted in zip(self.arrived[key], content(self.sender, key, num_tokens), strict=True):
            assert torch.equal(got, wanted)
        return event

    def check_integrity(self) -> None:
        """Nothing is held on either side, and every key ended once on each side that saw it."""
        books: Any = (self.outbox, self.inbox)  # an abort may be on its way to the other side
        self.until(lambda: not self.sent and not self.granted and not any(book.num_active for book in books))
        for store in (self.sender, self.receiver):
            assert sorted(store.free_blocks) == sorted(store.free_states) == list(range(store.num_blocks))
        for kinds in ((Acked, Ended), (Arrived, Lost)):
            keys = [event.key for event in self.events if isinstance(event, kinds)]
            assert len(keys) == len(set(keys))
        offered = {event.key for event in self.events if isinstance(event, Offered)}
        assert {event.key for event in self.events if isinstance(event, Arrived | Lost)} <= offered


@contextlib.contextmanager
def open_pair(
    transport: str,
    *,
    kv: KVSpec | None = None,
    sender: TorchStore | None = None,
    receiver: TorchStore | None = None,
    fingerprints: tuple[str, str] = ("w", "w"),
    receiver_kv: KVSpec | None = None,
    receiver_dtype: str = "float32",
) -> Iterator[Pair]:
    kv = kv or KVSpec()
    sender, receiver = sender or TorchStore(), receiver or TorchStore()
    if transport == "inproc":
        outbox, inbox = local_pair(sender, receiver, kv=kv)
        pair = Pair(outbox, inbox, sender, receiver, DecodeRoute(worker_id="decode-0"))
    else:
        kv = replace(kv, transport=transport)
        inbox, servicer = make_inbox(
            runner_store=receiver,
            spec=replace(spec_of("decode-0", Role.DECODE, receiver_kv or kv), dtype=receiver_dtype),
            incarnation="d",
            fingerprint=fingerprints[1],
            notify=lambda: None,
        )
        server = Server(servicer)
        outbox = make_outbox(
            runner_store=sender,
            spec=spec_of("prefill-0", Role.PREFILL, kv),
            incarnation="p",
            fingerprint=fingerprints[0],
            notify=lambda: None,
        )
        route = DecodeRoute(worker_id="decode-0", incarnation="d", address=server.address)
        pair = Pair(outbox, inbox, sender, receiver, route, server)
    try:
        yield pair
    finally:
        outbox.close()
        inbox.close()
        if pair.server is not None:
            pair.server.stop()
