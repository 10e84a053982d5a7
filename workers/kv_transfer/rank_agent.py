"""What a rank that is not the leader does about hand-overs: the leader's commands on its own lanes, and tells of them.

Invariant: commands are done in the order in which the leader gave them, and before the layers of a step that was sent
after them; but what depends on steps waits for them: to complete a transfer for that which computes its last tokens, to
grant blocks for all that may read what they held.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial

from baton.errors import UnavailableError
from baton.v1.kv_pb2 import FromRank, HandoverChunk, StepHandover, ToLane, ToRank
from workers.kv_transfer.lane_wire import own_end, own_first_tokens, own_lane, wire_event
from workers.kv_transfer.link import Going, Push
from workers.kv_transfer.rank_lanes import RankLanes
from workers.kv_transfer.wire import own_error, own_key

logger = logging.getLogger(__name__)


class RankAgent:
    """Call `on_layer` and `step_done` from the thread that computes; `on_message` and `wake` from any.

    Args:
        tell: Sends to the leader; does not block.
        timeout_s: How long commands that came before a step may be on their way.
    """

    def __init__(self, lanes: RankLanes, tell: Callable[[bytes], None], *, timeout_s: float) -> None:
        self._lanes = lanes
        self._tell = tell
        self._timeout_s = timeout_s
        self._telling = threading.Lock()
        self._changed = threading.Condition()  # over all below
        self._num_commands = 0
        self._num_steps = 0  # done
        self._waiting: list[tuple[int, Callable[[], None]]] = []  # for so many steps

    def introduce(self, address: str) -> None:
        """First of all: where this rank takes links."""
        self._tell(FromRank(address=address).SerializeToString())

    def wake(self) -> None:
        """A lane has news: the leader hears of them, unless it is gone, and with it the gang."""
        with self._telling:
            events = [wire_event(lane, event) for lane, event in self._lanes.poll()]
            if not events:
                return
            sent, received = self._lanes.bytes_sent, self._lanes.bytes_received
            told = FromRank(events=events, bytes_sent=sent, bytes_received=received)
            try:
                self._tell(told.SerializeToString())
            except UnavailableError as error:
                logger.warning("the leader was not told what was handed over error=%s", error.message)

    def on_message(self, payload: bytes) -> None:
        """One command of the leader's."""
        self._do(ToRank.FromString(payload).command)
        with self._changed:
            self._num_commands += 1
            self._changed.notify_all()

    def on_layer(self, note: bytes) -> Callable[[int], None] | None:
        """What to call after each layer of the step that came with `note`; None: nothing of it is handed over.

        Raises: UnavailableError: the leader's commands did not come.
        """
        if not note:
            return None
        step = StepHandover.FromString(note)
        awaited = step.num_commands[self._lanes.rank]
        with self._changed:
            if not self._changed.wait_for(lambda: self._num_commands >= awaited, self._timeout_s):
                text = f"{awaited - self._num_commands} commands of the leader's did not come within"
                raise UnavailableError(f"{text} {self._timeout_s:g} s")
        return Push([_going(chunk) for chunk in step.chunks], self._lanes.computed)

    def step_done(self) -> None:
        """Of the leader's steps one more, with or without a note."""
        with self._changed:
            self._num_steps += 1
            due = [act for num_steps, act in self._waiting if num_steps <= self._num_steps]
            self._waiting = [one for one in self._waiting if one[0] > self._num_steps]
        for act in due:
            act()

    def _do(self, command: ToLane) -> None:
        lane, key, lanes = own_lane(command.lane), own_key(command.key), self._lanes
        match command.WhichOneof("command"):
            case "offer":
                offer = command.offer
                lanes.offer(lane, key, offer.submit, offer.ingress_id, offer.route, offer.num_tokens)
            case "complete":
                complete, first_tokens = command.complete, own_first_tokens(command.complete.first_tokens)
                act = partial(lanes.complete, lane, key, complete.num_tokens, first_tokens)
                self._after(complete.num_steps, act)
            case "withdraw":
                lanes.withdraw(lane, key)
            case "grant":
                grant = command.grant
                held = tuple(grant.block_ids), grant.num_cached_tokens, tuple(grant.state_ids)
                self._after(grant.num_steps, partial(lanes.grant, lane, key, *held))
            case "refuse":
                lanes.refuse(lane, key, own_error(command.refuse))
            case "abort":
                lanes.abort(lane, key, own_end(command.abort))
            case other:
                raise ValueError(f"the leader wants {other!r} of a lane, which this version does not know")

    def _after(self, num_steps: int, act: Callable[[], None]) -> None:
        with self._changed:
            if num_steps > self._num_steps:
                self._waiting.append((num_steps, act))
                return
        act()


def _going(chunk: HandoverChunk) -> Going:
    return Going(own_key(chunk.key), chunk.num_tokens, tuple(chunk.block_ids), tuple(chunk.state_ids))
