"""The other worker of a pair, in its own process, to be killed:  python -m tests.unit.kv_transfer.peer ROLE ..."""

import subprocess
import sys
import time

import torch

from baton.v1.worker_pb2 import ChoiceStart, DecodeRoute, Submit
from tests.unit.kv_transfer.harness import Server, TorchStore, hand_in, spec_of
from workers.kv_transfer.grpc_link import make_inbox, make_outbox
from workers.kv_transfer.link import Offered, TransferKey
from workers.spec import KVSpec, Role

KEY = TransferKey("r", 0, 0)
NUM_TOKENS = 30


def start(*args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.unit.kv_transfer.peer", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def line_of(peer: "subprocess.Popen[str]") -> str:
    assert peer.stdout is not None
    return peer.stdout.readline().strip()


def receive(transport: str, incarnation: str, grants: str) -> None:
    """Prints its address, and each event's name; grants every offer if `grants` is "yes"."""
    store = TorchStore()
    inbox, servicer = make_inbox(
        runner_store=store,
        spec=spec_of("decode-0", Role.DECODE, KVSpec(transport=transport)),
        incarnation=incarnation,
        fingerprint="w",
        notify=lambda: None,
    )
    server = Server(servicer)  # held: gRPC stops one that is let go
    print(server.address, flush=True)
    while True:
        for event in inbox.poll():
            print(type(event).__name__, flush=True)
            if isinstance(event, Offered) and grants == "yes":
                held = store.allocate(len(event.submit.prompt_token_ids))
                inbox.grant(event.key, held.blocks, 0, held.states)
        time.sleep(0.002)


def send(transport: str, address: str, step: str) -> None:
    """Goes up to `step`, prints it, and waits to be killed."""
    store = TorchStore()
    outbox = make_outbox(
        runner_store=store,
        spec=spec_of("prefill-0", Role.PREFILL, KVSpec(transport=transport)),
        incarnation="p",
        fingerprint="w",
        notify=lambda: None,
    )
    held = store.allocate(NUM_TOKENS)
    submit = Submit(request_id="r", prompt_token_ids=range(NUM_TOKENS), choices=[ChoiceStart()], timeout_s=60)
    route = DecodeRoute(worker_id="decode-0", incarnation="d", address=address)
    outbox.offer(KEY, submit, "i", route, NUM_TOKENS)
    while step != "offered" and not outbox.poll():
        time.sleep(0.002)
    if step == "streaming":
        hand_in(outbox, store, KEY, held, NUM_TOKENS // 2, NUM_TOKENS)
    print(step, flush=True)
    time.sleep(60)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"receive": receive, "send": send}[sys.argv[1]](*sys.argv[2:])
