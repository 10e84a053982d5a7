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
from workers.kv_transfer.grpc_link import make_inbox, make_outbox
from workers.kv_transfer.link import Acked, Arrived, Ended, Inbox, Lost, Offered, Outbox, TransferKey
from workers.kv_transfer.local_link import local_pair
from workers.model import kv_copy
from workers.model.shared_memory import SharedMemory
from workers.spec import KVSpec, Role, WorkerSpec

SECRET = "hush"
TRANSPORTS = ("inproc", "grpc", "gloo", "shm")
WAIT_S = 20.0


class TorchStore:
    """Rows of bytes per token, with layers of unequal width, so that a mistaken offset shows."""

    def __init__(self, *, num_blocks: int = 64, block_size: int = 4, widths: Sequence[int] = (24, 40, 16)) -> None:
        self.block_size = block_size
        self.widths = tuple(widths)
        self.layouts = tuple(f"test/width={width}" for width in widths)
        caches, nbytes = self.foreign_caches(None, num_blocks)
        self.memory = SharedMemory(nbytes)
        self.rows = [
            torch.frombuffer(self.memory.view, dtype=torch.uint8, count=cache.plane_nbytes, offset=cache.address).view(
                -1, width
            )
            for cache, width in zip(caches, widths, strict=True)
        ]
        self.free_blocks = list(range(num_blocks))[::-1]
        self.num_blocks = num_blocks
        self.write_delay_s = 0.0

    def payload_nbytes(self, layer: int, num_tokens: int) -> int:
        return self.widths[layer] * num_tokens

    def read(self, layer: int, block_ids: Sequence[int], start: int, end: int, out: Any = None) -> Any:
        out = self.empty_payload(self.payload_nbytes(layer, end - start)) if out is None else out
        target = out if isinstance(out, torch.Tensor) else torch.frombuffer(out, dtype=torch.uint8)
        target.copy_(self.rows[layer][self._slots(block_ids, start, end)].view(-1))
        return out

    def write(self, layer: int, block_ids: Sequence[int], start: int, end: int, payload: Any) -> None:
        time.sleep(self.write_delay_s)
        if isinstance(payload, kv_copy.ForeignRange):
            rows = self.rows[layer]
            own = kv_copy.Cache(rows.data_ptr(), 1, self.num_blocks, rows.numel() // self.num_blocks)
            kv_copy.copy_blocks(payload, own, self.block_size, block_ids, start, end)
            return
        if isinstance(payload, bytes):
            payload = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        self.rows[layer][self._slots(block_ids, start, end)] = payload.view(end - start, -1)

    def empty_payload(self, nbytes: int) -> Any:
        return torch.empty(nbytes, dtype=torch.uint8)

    def foreign_caches(self, view: memoryview | None, num_blocks: int) -> tuple[list[kv_copy.Cache], int]:
        address = np.frombuffer(view, dtype=np.uint8).ctypes.data if view is not None else 0
        return kv_copy.lay_out([width * self.block_size for width in self.widths], 1, num_blocks, address)

    def allocate(self, num_tokens: int) -> list[int]:
        return [self.free_blocks.pop() for _ in range(-(-num_tokens // self.block_size))]

    def _slots(self, block_ids: Sequence[int], start: int, end: int) -> torch.Tensor:
        position = torch.arange(start, end)
        return torch.tensor(block_ids)[position // self.block_size] * self.block_size + position % self.block_size


class BytesStore(TorchStore):
    """Payloads are plain buffers, as the fake model's."""

    def read(self, layer: int, block_ids: Sequence[int], start: int, end: int, out: Any = None) -> Any:
        assert isinstance(out, memoryview), "links read into a buffer of the store's kind"
        return super().read(layer, block_ids, start, end, out)

    def write(self, layer: int, block_ids: Sequence[int], start: int, end: int, payload: Any) -> None:
        assert isinstance(payload, bytes | memoryview)
        super().write(layer, block_ids, start, end, bytes(payload))

    def empty_payload(self, nbytes: int) -> Any:
        return memoryview(bytearray(nbytes))


def content(store: TorchStore, key: TransferKey, num_tokens: int) -> list[torch.Tensor]:
    """What the KV of `key` is: [num_tokens, width] per layer."""
    generator = torch.Generator().manual_seed(hash(key) % (1 << 31))
    return [
        torch.randint(0, 256, (num_tokens, width), dtype=torch.uint8, generator=generator) for width in store.widths
    ]


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
    sent_blocks: dict[TransferKey, list[int]] = field(default_factory=dict)
    granted_blocks: dict[TransferKey, list[int]] = field(default_factory=dict)
    arrived: dict[TransferKey, list[torch.Tensor]] = field(default_factory=dict)

    def poll(self) -> None:
        """Takes in events and frees blocks as an engine does."""
        for event in self.outbox.poll():
            self.events.append(event)
            if isinstance(event, Acked | Ended):
                self.sender.free_blocks.extend(self.sent_blocks.pop(event.key))
        for event in self.inbox.poll():
            self.events.append(event)
            if isinstance(event, Arrived):
                blocks = self.granted_blocks[event.key]
                self.arrived[event.key] = [
                    self.receiver.rows[layer][self.receiver._slots(blocks, 0, event.num_tokens)]
                    for layer in range(len(self.receiver.widths))
                ]
            if isinstance(event, Arrived | Lost):
                self.receiver.free_blocks.extend(self.granted_blocks.pop(event.key, []))

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

    def offer(self, key: TransferKey, num_tokens: int) -> list[int]:
        """Blocks filled with the key's content, offered."""
        blocks = self.sender.allocate(num_tokens)
        self.sent_blocks[key] = blocks
        for layer, rows in enumerate(content(self.sender, key, num_tokens)):
            self.sender.rows[layer][self.sender._slots(blocks, 0, num_tokens)] = rows
        submit = Submit(
            request_id=key.request_id,
            attempt=key.attempt,
            prompt_token_ids=range(num_tokens),
            choices=[ChoiceStart(choice=key.choice)],
            timeout_s=60,
        )
        self.outbox.offer(key, submit, "ingress-0", self.route)
        return blocks

    def compute(self, key: TransferKey, num_tokens: int) -> None:
        for layer in range(len(self.sender.widths)):
            self.outbox.computed(key, layer, num_tokens, self.sent_blocks[key])

    def grant(self, key: TransferKey, num_tokens: int, num_cached: int = 0) -> None:
        """Blocks that hold the first `num_cached` tokens already, promised."""
        blocks = self.granted_blocks[key] = self.receiver.allocate(num_tokens)
        for layer, rows in enumerate(content(self.receiver, key, num_tokens)):
            self.receiver.rows[layer][self.receiver._slots(blocks, 0, num_cached)] = rows[:num_cached]
        self.inbox.grant(key, blocks, num_cached)

    def check_arrived(self, key: TransferKey, num_tokens: int) -> Arrived:
        event: Arrived = self.wait(Arrived, key)
        assert event.num_tokens == num_tokens
        for got, wanted in zip(self.arrived[key], content(self.sender, key, num_tokens), strict=True):
            assert torch.equal(got, wanted)
        return event

    def check_integrity(self) -> None:
        """Nothing is held on either side, and every key ended once on each side that saw it."""
        self.until(lambda: not self.sent_blocks and not self.granted_blocks)
        assert sorted(self.sender.free_blocks) == list(range(self.sender.num_blocks))
        assert sorted(self.receiver.free_blocks) == list(range(self.receiver.num_blocks))
        assert self.outbox.num_active == 0  # type: ignore[attr-defined]
        assert self.inbox.num_active == 0  # type: ignore[attr-defined]
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
