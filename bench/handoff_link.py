"""KV links by themselves: bulk transfer against the raw link, and what pushing costs the thread that computes.

Two processes, each pinned to one core where there are two. The KV is that of a 12-layer Llama with 8 KV heads of 64
in bf16 (24 KiB per token). Raw: as many bytes in the same message sizes over the bare library; gloo's from one large
buffer into another, gRPC's thrown away on arrival, shared memory's copied whole.
Both sides of each ratio come from one run, interleaved; medians are printed, and all of it as JSON at the end.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grpc
import grpc.aio
import numpy as np
import torch

from baton.v1.kv_pb2 import Handshake
from baton.v1.kv_pb2_grpc import add_KVTransferServicer_to_server
from baton.v1.worker_pb2 import ChoiceStart, DecodeRoute, Submit
from workers.kv_transfer.grpc_link import make_inbox, make_outbox
from workers.kv_transfer.link import Acked, Ended, Inbox, Offered, Outbox, Ticketed, TransferKey
from workers.kv_transfer.torch_link import TorchIn, TorchOut
from workers.kv_transfer.transport import GrpcOut
from workers.model.kv_store import LayerShape, TorchKVStore
from workers.model.shared_memory import SharedMemory, attach
from workers.spec import KVSpec, Role, WorkerSpec

CORE = 1  # the peer's
STOP_TIMEOUT_S = 10.0
NUM_LAYERS, SHAPE = 12, LayerShape(num_kv_heads=8, head_dim=64)
BLOCK_SIZE = 16
RAW = "/bench.Raw/Stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    tokens: int
    runs: int
    chunk: int = 512  # tokens per prefill step
    prefill_s: float = 1.6  # what the imitated prefill takes by itself


def measure(transport: str, *, tokens: int, runs: int) -> dict[str, Any]:
    """Raw, bulk and layer-wise over one link, with a peer process of its own."""
    torch.set_num_threads(1)
    command = [sys.executable, "-m", "bench.handoff_link", transport, str(tokens)]
    peer = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert peer.stdout is not None
    assert peer.stdin is not None
    address = peer.stdout.readline().strip()
    try:
        return _compare(transport, address, Options(tokens=tokens, runs=runs))
    finally:
        peer.stdin.close()
        try:
            peer.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            peer.kill()
            peer.wait()


def _compare(transport: str, address: str, options: Options) -> dict[str, Any]:
    nbytes = options.tokens * NUM_LAYERS * SHAPE.token_nbytes(torch.bfloat16)
    kinds: dict[str, type[Raw]] = {"gloo": RawGloo, "grpc": RawGrpc, "shm": RawShm}
    raw = kinds[transport](address, nbytes)
    num_steps = -(-options.tokens // options.chunk) * NUM_LAYERS
    work = Work(options.prefill_s / num_steps)
    bulk, layered, idle = (
        Driver(transport, address, push, options, work, is_pushing=is_pushing)
        for push, is_pushing in (("bulk", True), ("layer", True), ("layer", False))
    )
    raw_s, bulk_s = _medians([(raw.send(nbytes), bulk.transfer()) for _ in range(options.runs + 1)][1:])
    num_prefills = max(3, options.runs // 3)
    runs = [(*layered.prefill(), *idle.prefill()) for _ in range(num_prefills + 1)][1:]
    with_s, ack_s, with_cpu_s, without_s, _, without_cpu_s = _medians(runs)
    result = {
        "transport": transport,
        "kv_mb": nbytes / 1e6,
        "raw_gb_per_s": nbytes / raw_s / 1e9,
        "bulk_gb_per_s": nbytes / bulk_s / 1e9,
        "bulk_over_raw": raw_s / bulk_s,
        "prefill_s": without_s,
        "prefill_with_push_over_without": with_s / without_s,
        "cpu_with_push_over_without": with_cpu_s / without_cpu_s,
        "ack_after_prefill_ms": ack_s * 1e3,
    }
    for driver in (bulk, layered, idle):
        driver.outbox.close()
    raw.close()
    return result


def _medians(runs: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(values) for values in zip(*runs, strict=True)]


def _spec(worker_id: str, role: Role, transport: str, push: str) -> WorkerSpec:
    return WorkerSpec(
        worker_id=worker_id,
        role=role,
        model="bench",
        served_name="bench",
        dtype="bfloat16",
        device="cpu",
        kv=KVSpec(transport=transport, push=push),
    )


def _make_store(num_tokens: int) -> TorchKVStore:
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    store = TorchKVStore(
        [SHAPE] * NUM_LAYERS,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    for layer in store.layers:
        layer.fill_(1)
    return store


def _blocks(num_tokens: int) -> list[int]:
    """Scattered, as in a worker that has run for a while."""
    generator = torch.Generator().manual_seed(0)
    order: list[int] = torch.randperm(-(-num_tokens // BLOCK_SIZE), generator=generator).tolist()
    return order


class Driver:
    """An engine's use of an outbox, with matrix products for a prefill."""

    def __init__(
        self, transport: str, address: str, push: str, options: Options, work: "Work", *, is_pushing: bool
    ) -> None:
        self._options = options
        self._name = f"{push}-{is_pushing}"
        self._store = _make_store(options.tokens)
        self._blocks = _blocks(options.tokens)
        self._changed = threading.Event()
        self._is_pushing = is_pushing
        self._work = work
        self._num_offers = 0
        self._route = DecodeRoute(worker_id="decode-0", incarnation="d", address=address)
        self.outbox: Outbox = make_outbox(
            runner_store=self._store,
            spec=_spec(self._name, Role.PREFILL, transport, push),
            incarnation="p",
            fingerprint="w",
            notify=self._changed.set,
        )

    def transfer(self) -> float:
        """Seconds from the end of a prompt whose ticket is there to its ack."""
        key = self._offer()
        for layer in range(NUM_LAYERS):
            self.outbox.computed(key, layer, self._options.tokens, self._blocks)
        time.sleep(0.05)
        began_s = time.perf_counter()
        self._finish(key)
        return time.perf_counter() - began_s

    def prefill(self) -> tuple[float, float, float]:
        """Seconds that the imitated prefill takes, from then to the ack, and of this process's CPU for both."""
        key = self._offer() if self._is_pushing else None
        chunk, tokens = self._options.chunk, self._options.tokens
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for end in range(chunk, tokens + chunk, chunk):
            for layer in range(NUM_LAYERS):
                self._work.run()
                if key is not None:
                    self.outbox.computed(key, layer, min(end, tokens), self._blocks)
        ended_s = time.perf_counter()
        if key is not None:
            self._finish(key)
        return ended_s - began_s, time.perf_counter() - ended_s, time.process_time() - cpu_s

    def _offer(self) -> TransferKey:
        self._num_offers += 1
        key = TransferKey(f"{self._name}-{self._num_offers}", 0, 0)
        submit = Submit(
            request_id=key.request_id,
            prompt_token_ids=range(self._options.tokens),
            choices=[ChoiceStart()],
            timeout_s=60,
        )
        self.outbox.offer(key, submit, "bench", self._route, self._options.tokens)
        self._wait(Ticketed)
        return key

    def _finish(self, key: TransferKey) -> None:
        self.outbox.complete(key, self._options.tokens, [(0, 1)])
        self._wait(Acked)

    def _wait(self, kind: type) -> None:
        while True:
            self._changed.wait(60)
            self._changed.clear()
            for event in self.outbox.poll():
                if isinstance(event, Ended):
                    raise SystemExit(f"the transfer ended: {event.error}")
                if isinstance(event, kind):
                    return


class Work:
    """As many matrix products as last about `seconds` of CPU."""

    def __init__(self, seconds: float) -> None:
        self._a, self._b = torch.randn(512, 1024), torch.randn(1024, 1024)
        self._out = torch.empty(512, 1024)
        self._count = 5
        for _ in range(2):
            began_s = time.thread_time()
            self.run()
            self._count = max(1, round(self._count * seconds / (time.thread_time() - began_s)))

    def run(self) -> None:
        for _ in range(self._count):
            torch.mm(self._a, self._b, out=self._out)


class Raw(Protocol):
    """A link's library without the link."""

    def __init__(self, address: str, nbytes: int) -> None: ...

    def send(self, nbytes: int) -> float:
        """Seconds until the peer has `nbytes`."""
        ...

    def close(self) -> None: ...


class RawShm:
    """A buffer as large as the KV, which the peer maps and copies whole into one of its own."""

    def __init__(self, address: str, nbytes: int) -> None:
        self._memory = SharedMemory(nbytes)
        self._memory.view[:] = bytes([1]) * nbytes
        self._channel = grpc.insecure_channel(address)
        self._call = self._channel.unary_unary(RAW.replace("Stream", "Shm"))

    def send(self, nbytes: int) -> float:
        began_s = time.perf_counter()
        self._call(f"{self._memory.handle}/{nbytes}".encode())
        return time.perf_counter() - began_s

    def close(self) -> None:
        self._channel.close()


class RawGloo:
    """A buffer as large as the KV, sent in messages over a bare process group."""

    def __init__(self, address: str, nbytes: int) -> None:
        self._sender = TorchOut("gloo", store=_make_store(1), host="127.0.0.1", timeout_s=10)
        self._messages = torch.ones(nbytes, dtype=torch.uint8).split(TorchOut.max_message_bytes)  # type: ignore[no-untyped-call]
        self._done = torch.zeros(1, dtype=torch.uint8)
        channel = grpc.insecure_channel(address)
        call = channel.unary_unary(RAW.replace("Stream", "Gloo"))
        hello = f"{self._sender.store_address} {self._sender.store_prefix}".encode()
        call(hello)
        self._channel = channel
        self._sender.connect()

    def close(self) -> None:
        """Tells the peer to end: no message follows."""
        self._sender._group.send([torch.tensor([0])], 1, 0).wait()
        self._sender.close()
        self._channel.close()

    def send(self, nbytes: int) -> float:
        group = self._sender._group
        began_s = time.perf_counter()
        group.send([torch.tensor([nbytes])], 1, 0).wait()
        for work in [group.send([message], 1, 0) for message in self._messages]:
            work.wait()
        group.recv([self._done], 1, 0).wait()
        return time.perf_counter() - began_s


class RawGrpc:
    """One buffer, sent again and again as the messages of a bare stream."""

    def __init__(self, address: str, nbytes: int) -> None:
        self._buffer = bytes(GrpcOut.max_message_bytes)
        self._channel = grpc.insecure_channel(address)
        self._call = self._channel.stream_unary(RAW)

    def close(self) -> None:
        self._channel.close()

    def send(self, nbytes: int) -> float:
        def messages() -> Iterator[bytes]:
            for _ in range(-(-nbytes // len(self._buffer))):
                yield self._buffer

        began_s = time.perf_counter()
        self._call(messages())
        return time.perf_counter() - began_s


async def _serve(transport: str, num_tokens: int) -> None:
    """Grants every offer; takes raw streams and throws them away."""
    os.sched_setaffinity(0, {CORE})
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    inbox, servicer = make_inbox(
        runner_store=_make_store(num_tokens),
        spec=_spec("decode-0", Role.DECODE, transport, "layer"),
        incarnation="d",
        fingerprint="w",
        notify=partial(_wake, loop, news),
    )
    server = grpc.aio.server()
    add_KVTransferServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((_raw_handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    granting = asyncio.create_task(_grant(inbox, news, _blocks(num_tokens)))
    await asyncio.to_thread(sys.stdin.read)  # until the other process closes it
    granting.cancel()
    await server.stop(0)
    inbox.close()


async def _grant(inbox: Inbox, news: asyncio.Event, blocks: list[int]) -> None:
    while True:
        await news.wait()
        news.clear()
        for event in inbox.poll():
            if isinstance(event, Offered):
                inbox.grant(event.key, blocks, 0)


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    loop.call_soon_threadsafe(news.set)


def _raw_handlers() -> Any:
    async def stream(messages: AsyncIterator[bytes], _: Any) -> bytes:
        async for _message in messages:
            pass
        return b""

    async def gloo(hello: bytes, _: Any) -> bytes:
        threading.Thread(target=_take_raw_gloo, args=(hello.decode(),), daemon=True).start()
        return b""

    mapped: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}  # (the sender's, our own)

    async def shm(hello: bytes, _: Any) -> bytes:
        if hello not in mapped:
            handle, _sep, nbytes = hello.decode().partition("/")
            source = np.frombuffer(attach(handle, int(nbytes)), dtype=np.uint8)
            mapped[hello] = source, np.ones_like(source)
        source, target = mapped[hello]
        np.copyto(target, source)
        return b""

    handlers = {
        "Shm": grpc.unary_unary_rpc_method_handler(shm),
        "Stream": grpc.stream_unary_rpc_method_handler(stream),
        "Gloo": grpc.unary_unary_rpc_method_handler(gloo),
    }
    return grpc.method_handlers_generic_handler("bench.Raw", handlers)


def _take_raw_gloo(hello: str) -> None:
    address, prefix = hello.split()
    handshake = Handshake(store_address=address, store_prefix=prefix)
    receiver = TorchIn("gloo", store=_make_store(1), host="127.0.0.1", timeout_s=600, handshake=handshake)
    receiver.connect()
    group = receiver._group
    nbytes, buffer = torch.zeros(1, dtype=torch.int64), torch.ones(0, dtype=torch.uint8)
    while True:
        group.recv([nbytes], 0, 0).wait()
        if not int(nbytes):
            return
        if buffer.numel() != int(nbytes):
            buffer = torch.ones(int(nbytes), dtype=torch.uint8)
        for work in [group.recv([message], 0, 0) for message in buffer.split(TorchOut.max_message_bytes)]:  # type: ignore[no-untyped-call]
            work.wait()
        group.send([torch.zeros(1, dtype=torch.uint8)], 0, 0).wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
