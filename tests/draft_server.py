"""A draft worker in this process, on a thread's event loop, and a drafter that waits for it."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from collections.abc import Sequence as List
from typing import Any, TypeVar

from baton.v1.worker_pb2 import DraftRoute, WorkerState
from tests.unit.engine.driver import make_spec
from workers.draft_actor import DraftActor
from workers.engine.draft import Draft
from workers.engine.sequence import Sequence
from workers.spec import Role, WorkerSpec
from workers.speculative.goodput import Goodput
from workers.speculative.ngram import NgramDrafter
from workers.speculative.patience import Patience
from workers.speculative.remote import RemoteDrafter

T = TypeVar("T")
PATIENCE_S = 10.0
OPENED: list[RemoteDrafter] = []  # whose links a server's end ends


class DraftServer:
    def __init__(self, spec: WorkerSpec | None = None) -> None:
        self.spec = spec or make_spec(Role.DRAFT, memory_bytes=1 << 17)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._actor = self._run(_make(self.spec))
        self.route = DraftRoute(worker_id=self.spec.worker_id, address=self._run(self._actor.start()))

    def state(self) -> WorkerState:
        return WorkerState.FromString(self._run(self._actor.state()))

    def until(self, holds: Callable[[WorkerState], bool]) -> WorkerState:
        """The first state for which `holds` is true."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds(state := self.state()):
            assert time.monotonic() < deadline_s, f"not in time: {state}"
            time.sleep(0.01)
        return state

    def close(self) -> None:
        while OPENED:
            OPENED.pop().close()
        self._run(self._actor.stop())
        self._run(_settled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)


async def _settled() -> None:
    """What gRPC still has to do on this loop is done."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1.0)


async def _make(spec: WorkerSpec) -> DraftActor:
    return DraftActor(spec, "i1")


class Waiting(Patience):
    """Waits for each guess, as if steps took long."""

    def wait_s(self, num_missing: int, num_decodes: int) -> float:
        return 0.1 if num_missing else 0.0


def waiting_drafter(spec: WorkerSpec, vocab_size: int, *, kind: int = 64) -> RemoteDrafter:
    drafter = RemoteDrafter(
        spec,
        vocab_size=vocab_size,
        width=spec.speculation.tree_width or 1,
        fallback=NgramDrafter(),
        goodput=Goodput(spec.speculation.max_tokens),
        kind=kind,
    )
    drafter.patience = Waiting()
    OPENED.append(drafter)
    return drafter


class Following:
    """A `RemoteDrafter` that learns of sequences as they come to be drafted for, and waits until they are read."""

    def __init__(self, drafter: RemoteDrafter, route: DraftRoute) -> None:
        self.drafter = drafter
        self._route = route
        self._seqs: dict[tuple[str, int, int], Sequence] = {}  # by key and attempt

    def __len__(self) -> int:
        return len(self._seqs)

    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        now = {(*seq.key, seq.attempt): seq for seq in seqs}
        for key in [key for key in self._seqs if key not in now]:
            del self._seqs[key]
            self.drafter.ends(key[:2])
        for key, seq in now.items():
            if key not in self._seqs:
                self._seqs[key] = seq
                self.drafter.begins(seq, self._route)
                self._until_read(seq)
        return self.drafter.propose(seqs, depth)

    def _until_read(self, seq: Sequence) -> None:
        deadline_s = time.monotonic() + 1.0
        while time.monotonic() < deadline_s and self.drafter._drafted[seq.key].futures is None:
            time.sleep(0.001)
