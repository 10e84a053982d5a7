"""All who look are shown the same, at one price; who does not keep up is dropped."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from baton.errors import UnavailableError
from cluster.contracts.events import EventLog
from cluster.ingress.cluster_api import view as view_module
from cluster.ingress.cluster_api.follower import FleetFollower
from cluster.ingress.cluster_api.picture import ReplicaShare
from cluster.ingress.cluster_api.request_window import RequestWindow
from cluster.ingress.cluster_api.view import ClusterView, Fleet
from cluster.ingress.cluster_api.viewers import MAX_FRAMES, TooManyViewersError, Viewer, Viewers
from cluster.router.handovers import Handed, Pair
from tests.unit.ingress.cluster_api.fleets import GOOD, FakeController, ended
from tests.unit.ingress.fakes import FakeDispatcher, demo_tokenizer


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
def fake() -> FakeDispatcher:
    return FakeDispatcher(demo_tokenizer())


@pytest.fixture
async def view(
    controller: FakeController, fake: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ClusterView]:
    monkeypatch.setattr(view_module, "INTERVAL_S", 0.05)
    fleets = [Fleet(model="demo", dispatcher=fake, ask=controller)]
    made = ClusterView(lambda: fleets, GOOD, max_viewers=3)
    yield made
    await made.close()


async def events(viewer: Viewer) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    async for frame in viewer.frames():
        if not frame.startswith(b":"):
            kind, data = frame.decode().removesuffix("\n\n").split("\n")
            yield kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_a_picture_has_the_controllers_word_and_the_workers_own(
    view: ClusterView, controller: FakeController
) -> None:
    controller.tell("decode-0", "is ready")
    view.window.tell(ended())
    found = await view.picture()
    (worker,) = found["workers"]
    assert (worker["key"], worker["phase"], worker["pid"], worker["num_running"]) == ("decode-0", "ready", 7, 3)
    assert found["fleets"][0]["controller"] == {"answers": True, "age_s": 0, "error": ""}
    assert found["fleets"][0]["autopilot"] == {"mode": "advise", "doing": "looking", "is_trusted": True}
    assert found["pools"] == [{"fleet": "demo", "role": "decode", "num_desired": 1, "num_ready": 1, "waits": ""}]
    assert [event["text"] for event in found["events"]] == ["is ready"]
    assert found["requests"]["lately"]["attainment"] == 1.0
    assert found["slo"]["ttft_ms"] == 500


async def test_a_viewer_gets_a_picture_and_then_changes_of_it(
    view: ClusterView, controller: FakeController, fake: FakeDispatcher
) -> None:
    stream = events(await view.join())
    kind, first = await anext(stream)
    assert (kind, len(first["workers"])) == ("picture", 1)
    controller.tell("decode-0", "is failed: it died", is_trouble=True)
    while True:
        kind, body = await anext(stream)
        assert kind == "change"
        if "events" in body:
            break
    assert body["events"][0]["is_trouble"] is True
    assert "workers" not in body


async def test_many_viewers_cost_one_question(view: ClusterView, controller: FakeController) -> None:
    viewers = [await view.join() for _ in range(3)]
    first = [await anext(viewer.frames()) for viewer in viewers]
    assert first[0] is first[1] is first[2]
    assert controller.num_asked == 1
    with pytest.raises(TooManyViewersError, match="3 viewers follow"):
        await view.join()


async def test_a_controller_that_is_away_is_said_to_be_and_all_else_goes_on(
    view: ClusterView, controller: FakeController
) -> None:
    controller.is_away = True
    found = await view.picture()
    assert found["fleets"][0]["controller"] == {
        "answers": False,
        "age_s": None,
        "error": "controller baton does not answer",
    }
    assert found["workers"][0]["phase"] == "ready"


async def test_what_other_replicas_saw_is_part_of_the_picture(fake: FakeDispatcher) -> None:
    window = RequestWindow(GOOD)
    window.tell(ended())

    async def gather() -> list[ReplicaShare]:
        pairs = {"demo": {Pair("prefill-0", "decode-0"): Handed(1, 64)}}
        counts = {"num_queued": 1, "num_running": 2, "num_shed": 3, "num_retries": 4}
        return [ReplicaShare(slices=window.slices(), handed=pairs, **counts)]

    fleets = [Fleet(model="demo", dispatcher=fake)]
    view = ClusterView(lambda: fleets, GOOD, gather=gather)
    view.window.tell(ended())
    found = await view.picture()
    assert (found["requests"]["num_replicas"], found["requests"]["num_running"]) == (2, 2)
    assert found["requests"]["lately"]["num_ended"] == 2
    assert found["streams"] == [
        {"fleet": "demo", "from": "prefill-0", "to": "decode-0", "num_requests": 1, "num_prompt_tokens": 64}
    ]
    await view.close()


async def test_a_viewer_that_does_not_read_is_dropped_and_keeps_nothing() -> None:
    viewers = Viewers(10)
    slow, quick = viewers.join(b"picture"), viewers.join(b"picture")
    read = []

    async def reading() -> None:
        async for frame in quick.frames():
            read.append(frame)

    task = asyncio.create_task(reading())
    for number in range(MAX_FRAMES + 2):
        await asyncio.sleep(0)
        await viewers.tell(b"%d" % number)
    assert (slow.is_over, quick.is_over, len(viewers), viewers.num_dropped) == (True, False, 1, 1)
    assert [frame async for frame in slow.frames()] == []
    viewers.dismiss(b"bye")
    await task
    assert (read[0], read[-1], len(read)) == (b"picture", b"bye", MAX_FRAMES + 4)


async def test_viewers_of_a_replica_that_is_to_go_are_sent_away(view: ClusterView) -> None:
    viewer = await view.join()
    view.leave()
    kinds = [kind async for kind, _ in events(viewer)]
    assert kinds == ["picture", "bye"]
    with pytest.raises(UnavailableError, match="about to be replaced"):
        await view.join()
    assert len(view.viewers) == 0


async def test_a_controller_that_was_started_again_counts_its_events_anew(controller: FakeController) -> None:
    follower = FleetFollower(controller)
    for number in range(3):
        controller.tell("decode-0", f"old {number}")
    await heard(follower)
    await heard(follower)
    assert [event.text for event in follower.events] == ["old 0", "old 1", "old 2"]
    controller.log = EventLog()
    controller.tell("decode-0", "new")
    await heard(follower)
    assert [event.text for event in follower.events] == ["new"]


async def heard(follower: FleetFollower) -> None:
    follower.refresh()
    assert follower._asking is not None
    await follower._asking
