"""KV from one process to another: every byte is looked at on the other side, and the rate is told.

One process is this one, the other `peer`. nccl needs a GPU for each; all others share the first one.
"""

import os
import subprocess
import sys
import threading
import time

import torch

from bench.gpu_check.check import Check, SkippedError, require

NUM_TOKENS = {"cuda": 2048, "cpu": 64}
NUM_TRANSFERS = 4  # the first pays for connections and handles; one more has its gaps measured
WAIT_S = 30.0
TRANSPORTS = {"cuda": ("cuda_ipc", "nccl", "grpc", "gloo"), "cpu": ("shm", "grpc", "gloo")}


def run(check: Check) -> None:
    require("grpc", "baton.v1.kv_pb2")
    for transport in TRANSPORTS[check.device]:
        with check.item(transport):
            if transport == "nccl" and torch.cuda.device_count() < 2:
                raise SkippedError("nccl refuses two ranks on one GPU, and there is one")
            transfer(check, transport)


def transfer(check: Check, transport: str) -> None:
    num_tokens = NUM_TOKENS[check.device]
    peer = Peer(transport, check.device, num_tokens)
    try:
        sender = Sender(transport, check.device, num_tokens, peer.line())
        try:
            seconds = [sender.send(number) for number in range(NUM_TRANSFERS)]
            before = sender.waits()
            sender.send(NUM_TRANSFERS, by_layer=True)
            num_waits, wait_s = (now - then for now, then in zip(sender.waits(), before, strict=True))
        finally:
            sender.close()
        told = [peer.line().split() for _ in range(NUM_TRANSFERS + 1)]
    finally:
        peer.close()
    answers = [line[0] if len(line) == 3 else " ".join(line) for line in told]
    rate = sender.nbytes / min(seconds[1:])
    check.judge(
        transport,
        answers == ["right"] * (NUM_TRANSFERS + 1),
        f"{NUM_TRANSFERS + 1} x {sender.nbytes / 1e6:.0f} MB {'right' if set(answers) == {'right'} else answers}, "
        f"{rate / 1e9:.2f} GB/s",
        bytes_per_s=rate,
        first_s=seconds[0],
    )
    if len(told[-2]) == len(told[-1]) == 3:
        num_idle, idle_s = (float(now) - float(then) for now, then in zip(told[-1][1:], told[-2][1:], strict=True))
        check.figure(
            f"{transport}, gaps",
            f"of {num_waits:.0f} layers written one by one each waits {1e6 * wait_s / max(num_waits, 1):.0f} us to be "
            f"pushed; the receiver has nothing to write for {1e6 * idle_s / max(num_idle, 1):.0f} us between ranges "
            f"({num_idle:.0f} times)",
            wait_s=wait_s,
            num_waits=num_waits,
            idle_s=idle_s,
            num_idle=num_idle,
        )


class Peer:
    """The other process."""

    def __init__(self, transport: str, device: str, num_tokens: int) -> None:
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": "1"} if transport == "nccl" else dict(os.environ)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu_check.peer", transport, device, str(num_tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def line(self) -> str:
        """The next one it prints; "" when it has ended."""
        assert self._process.stdout is not None
        timer = threading.Timer(WAIT_S, self._process.kill)
        timer.start()
        try:
            return self._process.stdout.readline().strip()
        finally:
            timer.cancel()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Sender:
    """The prefill side, without an engine."""

    def __init__(self, transport: str, device: str, num_tokens: int, address: str) -> None:
        from baton.v1.worker_pb2 import DecodeRoute
        from bench.gpu_check.peer import make_spec, make_store
        from workers.kv_transfer.grpc_link import make_outbox
        from workers.spec import Role

        if not address:
            raise RuntimeError("the other process ended while it started; see the log")
        self._num_tokens = num_tokens
        self._store = make_store(device, num_tokens)
        self._news = threading.Event()
        self._route = DecodeRoute(worker_id="decode-0", incarnation="d", address=address)
        self._outbox = make_outbox(
            runner_store=self._store,
            spec=make_spec("prefill-0", Role.PREFILL, transport, device),
            incarnation="p",
            fingerprint="w",
            notify=self._news.set,
        )
        self.nbytes = num_tokens * sum(payload.unit_nbytes for payload in self._store.payloads)

    def send(self, number: int, *, by_layer: bool = False) -> float:
        """Seconds from the first layer's word to the ack.

        Args:
            by_layer: Each layer is written when those before it are told of; else all are before the first.
        """
        from baton.v1.worker_pb2 import ChoiceStart, Submit
        from bench.gpu_check.peer import blocks_of, fill, fill_layer
        from workers.kv_transfer.link import Acked, Ticketed, TransferKey

        blocks = blocks_of(self._num_tokens, number)
        key = TransferKey(str(number), 0, 0)
        submit = Submit(
            request_id=key.request_id,
            prompt_token_ids=range(self._num_tokens),
            choices=[ChoiceStart()],
            timeout_s=WAIT_S,
        )
        self._outbox.offer(key, submit, "check", self._route, self._num_tokens)
        self._wait(Ticketed)
        if not by_layer:
            fill(
                self._store, blocks, self._num_tokens, number
            )  # still being written on a GPU when `computed` is called
        began_s = time.perf_counter()
        for layer in range(len(self._store.layers)):
            if by_layer:
                fill_layer(self._store, layer, blocks, self._num_tokens, number)
            self._outbox.computed(key, layer, self._num_tokens, blocks)
        self._outbox.complete(key, self._num_tokens, [(0, 1)])
        self._wait(Acked)
        return time.perf_counter() - began_s

    def waits(self) -> tuple[float, float]:
        """How many layers have been pushed, and the seconds that they had waited for it together."""
        waits = [one.wait_s for by_transport in self._outbox.measures for one in by_transport.values()]
        return sum(one.count for one in waits), sum(one.sum for one in waits)

    def close(self) -> None:
        self._outbox.close()

    def _wait(self, kind: type) -> None:
        from workers.kv_transfer.link import Ended

        ends_s = time.monotonic() + WAIT_S
        while time.monotonic() < ends_s:
            self._news.wait(0.2)
            self._news.clear()
            for event in self._outbox.poll():
                if isinstance(event, Ended):
                    raise RuntimeError(f"the transfer ended: {event.error}")
                if isinstance(event, kind):
                    return
        raise RuntimeError(f"no {kind.__name__} within {WAIT_S:g} s")
