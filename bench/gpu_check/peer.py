"""The decode side of `handoff`, in its own process: python -m bench.gpu_check.peer TRANSPORT DEVICE NUM_TOKENS.

Prints its address, then for each transfer that arrived whether every byte is what it should be, how often so far there
was nothing to write between ranges, and the seconds of that.
"""

import asyncio
import sys

import grpc.aio
import torch

from baton.v1.kv_pb2_grpc import add_KVTransferServicer_to_server
from workers.kv_transfer.grpc_link import make_inbox
from workers.kv_transfer.inbox import ThreadedInbox
from workers.kv_transfer.link import Arrived, Lost, Offered
from workers.model.kv_store import LayerShape, TorchKVStore
from workers.spec import KVSpec, Role, WorkerSpec

SHAPE = LayerShape(num_kv_heads=8, head_dim=128)
BLOCK_SIZE = 16
NUM_LAYERS = {"cuda": 36, "cpu": 3}  # Qwen3-8B's, and a few


def make_spec(worker_id: str, role: Role, transport: str, device: str) -> WorkerSpec:
    return WorkerSpec(
        worker_id=worker_id,
        role=role,
        model="none",
        served_name="none",
        dtype="bfloat16",
        device=device,
        kv=KVSpec(transport=transport),
    )


def make_store(device: str, num_tokens: int) -> TorchKVStore:
    return TorchKVStore(
        [SHAPE] * NUM_LAYERS[device],
        num_blocks=-(-num_tokens // BLOCK_SIZE),
        block_size=BLOCK_SIZE,
        dtype=torch.bfloat16,
        device=torch.device(device),
    )


def blocks_of(num_tokens: int, seed: int) -> list[int]:
    """All blocks, shuffled."""
    order: list[int] = torch.randperm(
        -(-num_tokens // BLOCK_SIZE), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return order


def fill(store: TorchKVStore, blocks: list[int], num_tokens: int, seed: int) -> None:
    for layer in range(len(store.layers)):
        fill_layer(store, layer, blocks, num_tokens, seed)


def fill_layer(store: TorchKVStore, layer: int, blocks: list[int], num_tokens: int, seed: int) -> None:
    store.write(layer, blocks, 0, num_tokens, content(store, layer, num_tokens, seed))


def content(store: TorchKVStore, layer: int, num_tokens: int, seed: int) -> torch.Tensor:
    """Bytes that differ from layer to layer, transfer to transfer and token to token; the same on every machine."""
    count = num_tokens * store.payloads[layer].unit_nbytes
    numbers = torch.arange(count, device=store.device)
    return ((numbers * 1_103_515_245 + layer * 7919 + seed * 104_729) >> 7).to(torch.uint8)


def is_right(store: TorchKVStore, blocks: list[int], num_tokens: int, seed: int) -> bool:
    return all(
        torch.equal(torch.as_tensor(store.read(layer, blocks, 0, num_tokens)), content(store, layer, num_tokens, seed))
        for layer in range(len(store.layers))
    )


async def _answer(inbox: ThreadedInbox, news: asyncio.Event, store: TorchKVStore, num_tokens: int) -> None:
    """Grants every offer; transfer number i is named by it."""
    while True:
        await news.wait()
        news.clear()
        for event in inbox.poll():
            if isinstance(event, Offered):
                inbox.grant(event.key, blocks_of(num_tokens, int(event.key.request_id) + 50), 0)
            elif isinstance(event, Arrived):
                number = int(event.key.request_id)
                right = is_right(store, blocks_of(num_tokens, number + 50), num_tokens, number)
                gaps = [one.idle_s for by_transport in inbox.measures for one in by_transport.values()]
                idle = sum(one.count for one in gaps), sum(one.sum for one in gaps)
                print("right" if right else "wrong", *idle, flush=True)
            elif isinstance(event, Lost):
                print(f"lost: {event.error}", flush=True)


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    loop.call_soon_threadsafe(news.set)


async def serve(transport: str, device: str, num_tokens: int) -> None:
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    store = make_store(device, num_tokens)
    inbox, servicer = make_inbox(
        runner_store=store,
        spec=make_spec("decode-0", Role.DECODE, transport, device),
        incarnation="d",
        fingerprint="w",
        notify=lambda: _wake(loop, news),
    )
    server = grpc.aio.server()
    add_KVTransferServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    answering = asyncio.create_task(_answer(inbox, news, store, num_tokens))
    await asyncio.to_thread(sys.stdin.read)  # until the other process closes it
    answering.cancel()
    inbox.close()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
