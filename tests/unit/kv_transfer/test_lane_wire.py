"""What leader and followers tell each other survives the wire."""

import pytest

from baton.errors import OverloadedError
from baton.v1.kv_pb2 import FromLane
from baton.v1.worker_pb2 import Submit
from workers.kv_transfer.lane_wire import Event, own_event, own_lane, wire_event, wire_lane
from workers.kv_transfer.lanes import Lane
from workers.kv_transfer.link import Acked, Arrived, Ended, Lost, Offered, Ticketed, TransferKey
from workers.model.places import EVERY_BLOCK, Place, Turn

KEY = TransferKey("r", 3, 1)
LANE = Lane(Place(1, 2), Place(3, 4), Turn(2, 3))
EVENTS: list[Event] = [
    Ticketed(KEY, 0),
    Ticketed(KEY, 17),
    Acked(KEY),
    Ended(KEY, None),
    Offered(KEY, Submit(request_id="r"), "i"),
    Arrived(KEY, 9, ((0, 5), (2, 0))),
    Lost(KEY, None),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_the_same_on_the_other_side(event: Event) -> None:
    message = FromLane.FromString(wire_event(LANE, event).SerializeToString())
    assert own_lane(message.lane) == LANE
    assert own_lane(wire_lane(LANE._replace(turn=EVERY_BLOCK))).turn == EVERY_BLOCK
    assert own_event(message) == event


@pytest.mark.parametrize("kind", [Ended, Lost])
def test_an_error_keeps_its_class_and_words(kind: type[Ended] | type[Lost]) -> None:
    message = FromLane.FromString(wire_event(LANE, kind(KEY, OverloadedError("full"))).SerializeToString())
    told = own_event(message)
    assert isinstance(told, kind)
    assert isinstance(told.error, OverloadedError)
    assert told.error.message == "full"


def test_an_event_of_another_version_is_an_error() -> None:
    with pytest.raises(ValueError, match="None of a lane, which this version does not know"):
        own_event(FromLane())
