"""The stream from a worker that decodes to one that drafts, on a thread of its own, opened again whenever it is lost.

A life is one stream that was agreed to; what was posted to one that is over is dropped, since the next begins with
nothing. Nothing here ever blocks whoever posts.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from baton.v1.draft_pb2 import DraftHello, DraftHelloReply, FromDrafter, Guess, ToDrafter

logger = logging.getLogger(__name__)
_METHOD = "/baton.v1.Drafting/Draft"
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
HEARTBEAT_S = 1.0
SILENCE_S = 4.0
MAX_QUEUED = 4096  # messages that the peer has not taken: then it hangs
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0
REFUSED_RETRY_S = 30.0
DOWN = 0  # no life


class DraftLink:
    """
    Args:
        name: Of the draft worker, for logs.
        hello: The first message of each stream.
        on_up: From the link's thread: a life has begun.
        on_guesses: From the link's thread: guesses of the life of now.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        hello: DraftHello,
        secret: str,
        on_up: Callable[["DraftLink"], None],
        on_guesses: Callable[[list[Guess]], None],
    ) -> None:
        self.name = name
        self.life = DOWN  # of the stream that is up; read by any thread
        self.refusal = ""  # why the peer is not asked again soon; empty: it may be
        self._address = address
        self._hello = hello
        self._secret = secret
        self._on_up, self._on_guesses = on_up, on_guesses
        self._num_lives = 0
        self._messages: queue.SimpleQueue[ToDrafter | None] = queue.SimpleQueue()
        self._call: grpc.Call | None = None
        self._heard_s = 0.0
        self._is_closed = False
        self._reason = ""  # why the last stream ended
        self._hurry = threading.Event()  # ends a pause between two tries
        self._thread = threading.Thread(target=self._run, name=f"draft-{name}", daemon=True)
        self._thread.start()

    def post(self, life: int, message: ToDrafter) -> None:
        """From any thread. Dropped where that life is over."""
        if life == self.life and life != DOWN:
            self._messages.put(message)
            if self._messages.qsize() > MAX_QUEUED:
                self._hang_up()

    def check(self) -> None:
        """Hangs up on a peer that is silent. Called now and then."""
        if self._call is not None and time.monotonic() - self._heard_s > SILENCE_S:
            self._hang_up()

    def move(self, address: str) -> None:
        """The worker may have come back elsewhere. Passed over while the stream is up: who says so may be behind."""
        if address != self._address and self.life == DOWN:
            self._address = address
            self._hang_up()
            self._hurry.set()

    def close(self) -> None:
        self._is_closed = True
        self._hurry.set()
        self._hang_up()

    def _hang_up(self) -> None:
        self.life = DOWN
        call = self._call
        if call is not None:
            call.cancel()

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._is_closed:
            lives = self._num_lives
            reason = self._talk()
            if self._num_lives > lives:
                retry_s = FIRST_RETRY_S
            if reason != self._reason and not self._is_closed:
                self._reason = reason
                logger.warning("no drafts from worker_id=%s reason=%s", self.name, reason)
            self._hurry.wait(REFUSED_RETRY_S if self.refusal else retry_s)
            self._hurry.clear()  # here, where whoever sets it next has the loop's condition or the address read anew
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _talk(self) -> str:
        """One stream, to its end. Why it ended."""
        messages: queue.SimpleQueue[ToDrafter | None] = queue.SimpleQueue()
        self._messages, self.refusal = messages, ""
        messages.put(ToDrafter(hello=self._hello))
        channel = grpc.insecure_channel(self._address, options=_OPTIONS)
        try:
            open_stream = channel.stream_stream(
                _METHOD, request_serializer=ToDrafter.SerializeToString, response_deserializer=FromDrafter.FromString
            )
            self._heard_s = time.monotonic()
            self._call = replies = open_stream(_until_none(messages), metadata=(("baton-secret", self._secret),))
            if self._is_closed:  # by whom there was no call to cancel yet
                replies.cancel()
            for reply in replies:
                self._take(reply)
        except grpc.RpcError as fault:
            if fault.code() is grpc.StatusCode.UNAUTHENTICATED:
                self.refusal = fault.details() or "unauthenticated"
            return f"{fault.code().name}: {fault.details()}"
        except ValueError as nonsense:
            self.refusal = str(nonsense)  # what it says next is hardly better
        finally:
            self.life, self._call = DOWN, None
            messages.put(None)
            channel.close()
        return self.refusal or "the peer closed the stream"

    def _take(self, reply: FromDrafter) -> None:
        self._heard_s = time.monotonic()
        if reply.HasField("hello"):
            self._greet(reply.hello)
        elif reply.guesses and self.life != DOWN:
            self._on_guesses(list(reply.guesses))

    def _greet(self, hello: DraftHelloReply) -> None:
        self.refusal = hello.refusal
        if not hello.refusal and not self._is_closed:
            self._num_lives += 1
            self.life, self._reason = self._num_lives, ""
            logger.info("drafts from worker_id=%s incarnation=%s", self.name, hello.incarnation)
            self._on_up(self)


def _until_none(messages: "queue.SimpleQueue[ToDrafter | None]") -> Iterator[ToDrafter]:
    """As they are posted; an empty one where there are none for a while: a sign of life."""
    while True:
        message: ToDrafter | None = ToDrafter()
        with contextlib.suppress(queue.Empty):
            message = messages.get(timeout=HEARTBEAT_S)
        if message is None:
            return
        yield message
