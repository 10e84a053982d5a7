"""What is new in a picture since the one before: little, where little happens. The page's `picture.js` puts it in."""

from collections.abc import Mapping
from typing import Any

Picture = dict[str, Any]
BY_NAME = ("model", "slo", "controller", "requests", "fleets", "pools", "streams")


def change(before: Picture, now: Picture) -> Picture:
    """Of a picture of `cluster_api.picture`: of workers the fields that differ, of lists what is new."""
    old, new = _by_key(before), _by_key(now)
    workers = {key: _differing(old.get(key, {}), row) for key, row in new.items()}
    seen = {_identity(event) for event in before["events"]}
    points = {point["at_s"]: point for point in before["trend"]}
    found: Picture = {
        "workers": {key: row for key, row in workers.items() if row},
        "gone": [key for key in old if key not in new],
        "events": [event for event in now["events"] if _identity(event) not in seen],
        "trend": [point for point in now["trend"] if points.get(point["at_s"]) != point],
        **{name: now[name] for name in BY_NAME if now.get(name) != before.get(name)},
    }
    found = {name: value for name, value in found.items() if value or name in BY_NAME}
    return {"number": now["number"], "at_s": now["at_s"], **found} if found else {}


def _by_key(picture: Picture) -> Mapping[str, Mapping[str, Any]]:
    return {row["key"]: row for row in picture["workers"]}


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in new.items() if name not in old or old[name] != value}


def _identity(event: Mapping[str, Any]) -> tuple[str, int]:
    return event["fleet"], event["number"]
