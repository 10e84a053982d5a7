"""One rank's view of its gang: who else there is, the steps that the leader tells, and messages at any time.

Rank 0 leads. Three ways join the ranks, each with its own connections:

* steps: the leader calls `send_step` once per step, each follower gets it from `wait_step`; ordered, one thread each
* messages: `tell` and `on_message`, ordered per pair of ranks, from any thread, whether a step runs or not; the leader
  reaches every rank, a follower the leader alone
* collectives: the process group `group`, from the thread that runs the model

A gang fails as one. Whatever a rank learns first (a connection that closes, a rank that is silent for `SILENCE_S` or
keeps this one waiting in a collective for so long, a fault that a rank tells), it calls `fail` once, which in a worker
ends the process; with it its connections close, so that the others learn of it within milliseconds.
"""

import contextlib
import logging
import queue
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from baton.errors import BatonError, UnavailableError
from workers.parallel import frames
from workers.parallel.faults import decode_fault, encode_fault
from workers.parallel.frames import ConnectionLost, Kind

logger = logging.getLogger(__name__)
LEADER = 0
BEAT_S = 0.5
SILENCE_S = 4.0
LOADING_SILENCE_S = 60.0  # imports and kernels keep a rank's threads from their turns, on few cores for long
NO_COUNT, LOADING = -1, -2  # said instead of a count
COUNT = struct.Struct("=q")

OnMessage = Callable[[int, bytes], None]
Subgroup = Callable[[str, int, int], Any]  # (name, rank in it, its size): a torch process group of those that give it
Fail = Callable[[BatonError], None]


class Gang:
    """Made by `workers.parallel.lobby`.

    Args:
        controls: By rank: connections of messages and signs of life.
        steps: By rank: connections of steps.
        group: A torch process group of all ranks.
        subgroup: Makes one of some of them; blocks until they have called it.
        fail: Called once, from a thread of the gang's own, when it is of no use any more.
    """

    def __init__(
        self,
        *,
        rank: int,
        size: int,
        controls: Mapping[int, socket.socket],
        steps: Mapping[int, socket.socket],
        group: Any,
        subgroup: Subgroup,
        fail: Fail,
    ) -> None:
        self.rank = rank
        self.size = size
        self.group = group
        self.subgroup = subgroup
        self._controls = dict(controls)
        self._steps = dict(steps)
        self._locks = {other: threading.Lock() for other in controls}
        self._heard_s = dict.fromkeys(controls, time.monotonic())
        self._counts = dict.fromkeys(controls, (LOADING, time.monotonic()))  # of collectives, and since when it is so
        self._count: Callable[[], int] = lambda: LOADING
        self._patience_s: Callable[[], float] = lambda: 0.0
        self._fail = fail
        self._failing = threading.Lock()
        self._ended = False  # as wanted, or failed: what happens to connections now is no news
        self._messages: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._deliverer: threading.Thread | None = None
        self._at_end: list[Callable[[], None]] = []
        self._readies = threading.Semaphore(0)
        self._selector = selectors.DefaultSelector()
        for other, connection in self._controls.items():
            self._selector.register(connection, selectors.EVENT_READ, other)
        self._watcher = threading.Thread(target=self._watch, name="gang-watch", daemon=True)
        self._watcher.start()

    @property
    def is_leader(self) -> bool:
        return self.rank == LEADER

    # The start.

    def say_ready(self) -> None:
        """A follower's, once it has loaded. Raises: UnavailableError: the leader is gone."""
        self._send(LEADER, Kind.READY)

    def wait_ready(self, timeout_s: float) -> None:
        """The leader's: until all others have said so. Raises: UnavailableError: they did not in time."""
        for _ in self._controls:
            if not self._readies.acquire(timeout=timeout_s) or self._ended:
                raise UnavailableError(f"not all ranks of the gang have loaded within {timeout_s:g} s")

    # Steps.

    def send_step(self, message: bytes | bytearray) -> None:
        """To every follower. Raises: UnavailableError: one of them is gone."""
        for other, connection in self._steps.items():
            try:
                frames.send(connection, Kind.MESSAGE, message)
            except ConnectionLost as error:
                raise self._lost(other, error) from error

    def has_step(self) -> bool:
        """Whether `wait_step` would return, or raise, at once."""
        return frames.is_readable(self._steps[LEADER])

    def wait_step(self) -> bytearray | None:
        """The leader's next step, however long it takes; None: it has ended as wanted.

        Raises: UnavailableError: the leader is gone.
        """
        try:
            kind, message = frames.receive(self._steps[LEADER])
        except ConnectionLost as error:
            raise self._lost(LEADER, error) from error
        return message if kind is Kind.MESSAGE else None

    def answer_step(self, message: bytes) -> None:
        """A follower's, to a step that asks for it. Raises: UnavailableError: the leader is gone."""
        try:
            frames.send(self._steps[LEADER], Kind.MESSAGE, message)
        except ConnectionLost as error:
            raise self._lost(LEADER, error) from error

    def step_answers(self) -> list[bytes]:
        """The leader's: what every follower answers to the last step, however long it takes.

        Raises: UnavailableError: one of them is gone.
        """
        answers = []
        for other, connection in self._steps.items():
            try:
                _, message = frames.receive(connection)
            except ConnectionLost as error:
                raise self._lost(other, error) from error
            answers.append(bytes(message))
        return answers

    # Messages.

    def tell(self, rank: int, message: bytes) -> None:
        """Puts `message` on its way; it may block while `rank` reads slowly.

        Raises: UnavailableError: that rank is gone, and the gang with it.
        """
        self._send(rank, Kind.MESSAGE, message)

    def on_message(self, handler: OnMessage) -> None:
        """`handler(rank, message)` is called for all messages, those that came before too, on a thread of its own.

        Call it once. What `handler` raises is a bug, and fails the gang.
        """
        assert self._deliverer is None, "on_message was called before"
        self._deliverer = threading.Thread(target=self._deliver, args=(handler,), name="gang-messages", daemon=True)
        self._deliverer.start()

    # The end.

    def load_ends(self) -> None:
        """Until now, or until `watch_progress`, the others let this rank be silent for `LOADING_SILENCE_S`.

        They are told at once: one that hung before its next beat would have that long.
        """
        self._count = lambda: NO_COUNT
        self._say_alive()

    def watch_progress(self, count: Callable[[], int], patience_s: Callable[[], float] = lambda: 0.0) -> None:
        """From now on a rank that others wait for in a collective fails the gang after `SILENCE_S`.

        Args:
            count: Of the collectives that this rank has begun; asked from any thread, as the other is.
            patience_s: How much longer than that others may take from one collective to the next.
        """
        self._count, self._patience_s = count, patience_s
        self._say_alive()

    def on_end(self, free: Callable[[], None]) -> None:
        """`free` is called, from any thread, when the gang fails: for what else waits for the other ranks."""
        self._at_end.append(free)

    def fault(self, error: BatonError) -> None:
        """This rank cannot go on: tells the others why, whose `fail` is called with it."""
        self._ended = True
        self._tell_all(Kind.FAULT, encode_fault(error, self.rank))

    def close(self) -> None:
        """Ends this rank's part as wanted; the leader's ends everybody's. Idempotent."""
        if not self._ended:
            self._ended = True
            self._tell_all(Kind.BYE)
            for connection in self._steps.values() if self.is_leader else ():
                try:
                    frames.send(connection, Kind.BYE)
                except ConnectionLost:
                    logger.info("a rank was gone before it was told to end")
        self.drop()

    def drop(self) -> None:
        """Closes the connections at once, as the process's end does: the others take this rank for lost."""
        self._ended = True
        self._messages.put(None)
        connections = (*self._steps.values(), *self._controls.values())
        for connection in connections:
            with contextlib.suppress(OSError):  # the other side did it
                connection.shutdown(socket.SHUT_RDWR)
        if self._watcher is not threading.current_thread():
            self._watcher.join(2 * BEAT_S)
        for connection in connections:
            connection.close()

    # Inside.

    def _send(self, rank: int, kind: Kind, payload: bytes = b"") -> None:
        if rank not in self._controls:
            raise ValueError(f"rank {self.rank} has no connection to rank {rank} in a gang of {self.size}")
        try:
            with self._locks[rank]:
                frames.send(self._controls[rank], kind, payload)
        except ConnectionLost as error:
            raise self._lost(rank, error) from error

    def _tell_all(self, kind: Kind, payload: bytes = b"") -> None:
        for other in self._controls:
            try:
                self._send(other, kind, payload)
            except UnavailableError:
                logger.info("rank %d was gone already", other)

    def _watch(self) -> None:
        """Sends and hears signs of life, and takes what comes, until the end."""
        beating = threading.Thread(target=self._beat, name="gang-beat", daemon=True)
        beating.start()
        with self._selector as selector:
            while not self._ended:
                begun_s = time.monotonic()
                found = selector.select(BEAT_S)
                self._forgive(time.monotonic() - begun_s - BEAT_S)
                for key, _ in found:
                    if not self._hear(key.data, self._controls[key.data]):
                        selector.unregister(key.fileobj)
                self._judge_silence()

    def _forgive(self, late_s: float) -> None:
        """Time for which this rank itself had no turn (a paused machine) is no silence of the others.

        Less than two beats is not forgiven: on a machine that is merely full it adds up, and a hung rank would live on.
        """
        if late_s > 2 * BEAT_S:
            logger.info("this rank had no turn for %.1f s rank=%d", late_s, self.rank)
            self._heard_s = {other: heard_s + late_s for other, heard_s in self._heard_s.items()}
            self._counts = {other: (count, since_s + late_s) for other, (count, since_s) in self._counts.items()}

    def _hear(self, other: int, connection: socket.socket) -> bool:
        """Takes one frame; whether more may come."""
        try:
            kind, payload = frames.receive(connection)
            self._heard_s[other] = time.monotonic()
            return self._understand(other, kind, payload)
        except (ConnectionLost, struct.error, ValueError, KeyError, TypeError) as error:  # gone, or it talks nonsense
            self._lost(other, error)
            return False

    def _understand(self, other: int, kind: Kind, payload: bytearray) -> bool:
        if kind is Kind.BEAT:
            self._note_progress(other, payload)
        elif kind is Kind.MESSAGE:
            self._messages.put((other, bytes(payload)))
        elif kind is Kind.READY:
            self._readies.release()
        elif kind is Kind.FAULT:
            self._end(decode_fault(bytes(payload)))
        elif kind is Kind.BYE:
            self._heard_s[other] = float("inf")
            self._ended |= other == LEADER
        return kind is not Kind.BYE

    def _note_progress(self, other: int, payload: bytearray) -> None:
        (count,) = COUNT.unpack(payload)
        before, since_s = self._counts[other]
        mine, now_s = self._count(), time.monotonic()
        if count != before or count < 0 or mine <= count:
            self._counts[other] = (count, now_s)
        elif now_s - since_s > SILENCE_S - BEAT_S + self._patience_s():
            self._end(UnavailableError(f"rank {other} of the gang kept the others waiting for {now_s - since_s:.1f} s"))

    def _judge_silence(self) -> None:
        """What came while this thread had no turn is heard first: `_watch` calls this when nothing is left to read."""
        now_s = time.monotonic()
        for other, heard_s in self._heard_s.items():
            limit_s = LOADING_SILENCE_S if self._counts[other][0] == LOADING else SILENCE_S
            if now_s - heard_s > limit_s and not frames.is_readable(self._controls[other]):
                self._end(
                    UnavailableError(f"rank {other} of the gang gave no sign of life for {now_s - heard_s:.1f} s")
                )

    def _beat(self) -> None:
        while not self._ended:
            self._say_alive(wait=False)  # where something is being sent, that is as good
            time.sleep(BEAT_S)

    def _say_alive(self, *, wait: bool = True) -> None:
        for other in self._controls:
            if self._locks[other].acquire(blocking=wait):
                try:
                    frames.send(self._controls[other], Kind.BEAT, COUNT.pack(self._count()))
                except ConnectionLost as error:
                    self._lost(other, error)
                finally:
                    self._locks[other].release()

    def _deliver(self, handler: OnMessage) -> None:
        while (message := self._messages.get()) is not None:
            try:
                handler(*message)
            except Exception as error:
                logger.exception("a message was not taken rank=%d", message[0])
                self._end(UnavailableError(f"rank {self.rank} of the gang failed: {error}"))
                return

    def _lost(self, other: int, error: Exception) -> UnavailableError:
        fault = UnavailableError(f"rank {other} of the gang is gone ({error})")
        self._end(fault)
        return fault

    def _end(self, error: BatonError) -> None:
        with self._failing:
            if self._ended:
                return
            self._ended = True
        logger.error("the gang fails rank=%d error=%s", self.rank, error.message)
        self._readies.release(len(self._controls))
        for free in self._at_end:
            free()
        self._fail(error)
