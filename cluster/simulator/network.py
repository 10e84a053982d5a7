"""The paths between simulated workers: what moving KV over them takes, and who is still there.

A worker sends, and receives, one range after the other. Messages without payload take what `transfer_s(0)` says.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from cluster.config.schema import KVConfig
from cluster.contracts.latency import TransferModel
from cluster.router.workers import WorkerKey
from cluster.simulator.events import MESSAGE, EventQueue
from cluster.simulator.peers import Passage, PeerInbox, PeerOutbox
from workers.model.contract import PayloadSpec

MESSAGE_BYTES = 2 << 20  # that leave at once: `workers.kv_transfer.transport.GrpcOut`'s

# One layer stands for all: they are pushed, and arrive, together. What a token takes is the path's business.
PAYLOADS = (PayloadSpec(layer=0, unit_nbytes=1, layout="simulated"),)


class Network:
    """All paths, and which workers are there."""

    def __init__(self, *, queue: EventQueue, transfer: TransferModel | None, kv: KVConfig) -> None:
        self.queue = queue
        self.kv = kv
        self.bytes_sent = 0.0
        self.outboxes: dict[WorkerKey, PeerOutbox] = {}
        self.inboxes: dict[WorkerKey, PeerInbox] = {}
        self.slowdown: dict[str, float] = {}  # worker id -> factor on what it sends and receives
        self.acks_to_lose: Counter[str] = Counter()  # by id of the worker that waits for them
        self.known_dead: set[WorkerKey] = set()
        self._transfer = transfer
        self._latency_s = transfer.transfer_s(0) if transfer else 0.0
        self._out_free_s: dict[str, float] = {}
        self._in_free_s: dict[str, float] = {}

    def send(self, sender: WorkerKey, target: WorkerKey, handle: Callable[[Any], None], argument: Any) -> None:
        """A message without payload; what is sent to or by a worker that dies is lost."""
        latency_s = self._latency_s * self._factor(sender, target)
        if latency_s == 0.0:
            handle(argument)
        else:
            self.queue.push(self.queue.now_s + latency_s, MESSAGE, 0, handle, argument)

    def book(self, sender: WorkerKey, target: WorkerKey, num_bytes: float, from_s: float, tail: float) -> Passage:
        """Books a range on both workers' paths.

        Args:
            from_s: When its first layer was there; may be in the past.
            tail: Share of the range that could not leave before now.
        """
        now_s = self.queue.now_s
        if self._transfer is None:
            return Passage(now_s, now_s, 0.0, now_s)
        factor = self._factor(sender, target)
        work_s = (self._transfer.transfer_s(round(num_bytes)) - self._transfer.transfer_s(0)) * factor
        source, sink = sender.worker_id, target.worker_id
        free_s = max(self._out_free_s.get(source, 0.0), self._in_free_s.get(sink, 0.0), from_s) + work_s
        self._out_free_s[source] = self._in_free_s[sink] = free_s
        message_s = work_s * min(MESSAGE_BYTES / num_bytes, 1.0) if num_bytes else 0.0
        end_s = max(free_s, now_s + work_s * tail)
        return Passage(free_s - work_s, end_s - message_s, message_s, end_s + self._latency_s * factor)

    def forget(self, key: WorkerKey) -> None:
        """The worker is dead: nothing reaches it, or comes from it, any more. Its peers learn later."""
        self.outboxes.pop(key, None)
        self.inboxes.pop(key, None)
        for inbox in self.inboxes.values():
            inbox.peer_is_silent(key)

    def break_links(self, key: WorkerKey) -> None:
        """Its peers learn that the worker is dead."""
        self.known_dead.add(key)
        for outbox in list(self.outboxes.values()):
            outbox.peer_is_down(key)
        for inbox in list(self.inboxes.values()):
            inbox.peer_is_down(key)

    def _factor(self, sender: WorkerKey, target: WorkerKey) -> float:
        if not self.slowdown:
            return 1.0
        return max(self.slowdown.get(sender.worker_id, 1.0), self.slowdown.get(target.worker_id, 1.0))
