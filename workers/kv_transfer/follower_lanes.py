"""The lanes of another rank of the gang, as its leader sees them: every call becomes a message to that rank."""

import logging
from collections.abc import Callable, Sequence

from baton.errors import BatonError, UnavailableError
from baton.v1.kv_pb2 import CompleteLane, FromRank, GrantLane, OfferLane, ToLane, ToRank
from baton.v1.worker_pb2 import DecodeRoute, Submit
from workers.kv_transfer.lane_wire import Event, own_event, own_lane, wire_end, wire_first_tokens, wire_lane
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.measures import ByTransport
from workers.kv_transfer.wire import wire_error, wire_key

logger = logging.getLogger(__name__)


class FollowerLanes:
    """Implements `rank_lanes.LanesOfRank`. The caller holds a lock over it: messages keep the order of calls.

    Args:
        tell: Sends to the rank; does not block. Raises: UnavailableError: it is gone, and with it the gang.
    """

    def __init__(self, tell: Callable[[bytes], None]) -> None:
        self.bytes_sent = 0
        self.bytes_received = 0
        self.num_commands = 0
        self.address = ""  # host:port of its gRPC server; "" until it has told
        self.receiving_measures: list[ByTransport] = []  # it tells bytes alone
        self._tell = tell

    def take(self, payload: bytes) -> list[tuple[Lane, Event]]:
        """What the rank has told."""
        told = FromRank.FromString(payload)
        self.address = told.address or self.address
        self.bytes_sent = max(self.bytes_sent, told.bytes_sent)
        self.bytes_received = max(self.bytes_received, told.bytes_received)
        return [(own_lane(event.lane), own_event(event)) for event in told.events]

    def offer(
        self, lane: Lane, key: TransferKey, submit: Submit, ingress_id: str, route: DecodeRoute, num_tokens: int
    ) -> None:
        offer = OfferLane(ingress_id=ingress_id, submit=submit, route=route, num_tokens=num_tokens)
        self._send(ToLane(lane=wire_lane(lane), key=wire_key(key), offer=offer))

    def complete(
        self,
        lane: Lane,
        key: TransferKey,
        num_tokens: int,
        first_tokens: Sequence[tuple[int, int]],
        num_steps: int,
    ) -> None:
        complete = CompleteLane(
            num_tokens=num_tokens, first_tokens=wire_first_tokens(first_tokens), num_steps=num_steps
        )
        self._send(ToLane(lane=wire_lane(lane), key=wire_key(key), complete=complete))

    def withdraw(self, lane: Lane, key: TransferKey) -> None:
        self._send(ToLane(lane=wire_lane(lane), key=wire_key(key), withdraw={}))

    def grant(
        self,
        lane: Lane,
        key: TransferKey,
        block_ids: Sequence[int],
        num_cached_tokens: int,
        state_ids: Sequence[int],
        num_steps: int,
    ) -> None:
        grant = GrantLane(
            block_ids=block_ids, num_cached_tokens=num_cached_tokens, state_ids=state_ids, num_steps=num_steps
        )
        self._send(ToLane(lane=wire_lane(lane), key=wire_key(key), grant=grant))

    def refuse(self, lane: Lane, key: TransferKey, error: BatonError) -> None:
        self._send(ToLane(lane=wire_lane(lane), key=wire_key(key), refuse=wire_error(error)))

    def abort(self, lane: Lane, key: TransferKey, error: BatonError | None) -> None:
        self._send(ToLane(lane=wire_lane(lane), key=wire_key(key), abort=wire_end(error)))

    def _send(self, command: ToLane) -> None:
        self.num_commands += 1
        try:
            self._tell(ToRank(command=command).SerializeToString())
        except UnavailableError as error:
            logger.warning("a rank was not told what to hand over error=%s", error.message)
