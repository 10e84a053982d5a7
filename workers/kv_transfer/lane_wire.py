"""What a gang's leader and its ranks tell each other of their lanes, as `kv.proto` writes it."""

from collections.abc import Iterable

from baton.errors import BatonError
from baton.v1 import kv_pb2
from baton.v1.worker_pb2 import WorkerError
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.link import Acked, Arrived, Ended, InboxEvent, Lost, Offered, OutboxEvent, Ticketed
from workers.kv_transfer.wire import own_error, own_key, wire_error, wire_key
from workers.model.places import Place, Turn

Event = OutboxEvent | InboxEvent


def wire_lane(lane: Lane) -> kv_pb2.Lane:
    sender, receiver = _wire_place(lane.sender), _wire_place(lane.receiver)
    return kv_pb2.Lane(sender=sender, receiver=receiver, turn=lane.turn.number, num_turns=lane.turn.num_turns)


def own_lane(lane: kv_pb2.Lane) -> Lane:
    return Lane(_own_place(lane.sender), _own_place(lane.receiver), Turn(lane.turn, max(1, lane.num_turns)))


def wire_event(lane: Lane, event: Event) -> kv_pb2.FromLane:
    message = kv_pb2.FromLane(lane=wire_lane(lane), key=wire_key(event.key))
    match event:
        case Ticketed():
            message.ticketed = event.num_cached_tokens
        case Acked():
            message.acked.SetInParent()
        case Ended():
            message.ended.CopyFrom(wire_end(event.error))
        case Offered():
            message.offered.ingress_id = event.ingress_id
            message.offered.submit.CopyFrom(event.submit)
        case Arrived():
            message.arrived.num_tokens = event.num_tokens
            message.arrived.first_tokens.extend(wire_first_tokens(event.first_tokens))
        case Lost():
            message.lost.CopyFrom(wire_end(event.error))
    return message


def own_event(message: kv_pb2.FromLane) -> Event:
    key = own_key(message.key)
    match message.WhichOneof("event"):
        case "ticketed":
            return Ticketed(key, message.ticketed)
        case "acked":
            return Acked(key)
        case "ended":
            return Ended(key, own_end(message.ended))
        case "offered":
            return Offered(key, message.offered.submit, message.offered.ingress_id)
        case "arrived":
            return Arrived(key, message.arrived.num_tokens, own_first_tokens(message.arrived.first_tokens))
        case "lost":
            return Lost(key, own_end(message.lost))
        case other:
            raise ValueError(f"a rank told {other!r} of a lane, which this version does not know")


def wire_first_tokens(first_tokens: Iterable[tuple[int, int]]) -> list[kv_pb2.FirstToken]:
    return [kv_pb2.FirstToken(choice=choice, token_id=token_id) for choice, token_id in first_tokens]


def own_first_tokens(first_tokens: Iterable[kv_pb2.FirstToken]) -> tuple[tuple[int, int], ...]:
    return tuple((first.choice, first.token_id) for first in first_tokens)


def _wire_place(place: Place) -> kv_pb2.Place:
    return kv_pb2.Place(rank=place.rank, degree=place.degree)


def _own_place(place: kv_pb2.Place) -> Place:
    return Place(place.rank, place.degree)


def wire_end(error: BatonError | None) -> kv_pb2.EndedLane:
    return kv_pb2.EndedLane(error=wire_error(error) if error is not None else None)


def own_end(ended: kv_pb2.EndedLane) -> BatonError | None:
    error: WorkerError = ended.error
    return own_error(error) if ended.HasField("error") else None
