"""What controller and Ray know, once a second, and what they are asked to do, as lines of JSON.

Import it in a process that is connected: it imports Ray, which reads its environment then.
"""

import dataclasses
import json
import os
import sys
import threading
import time
from collections import Counter
from typing import Any

import ray
from ray._private import state as ray_state

from baton.errors import BatonError, UnavailableError
from cluster.fleet.client import CONTROLLER_NAME, ControllerClient
from workers.spec import Role

EVERY_S = 1.0
STATUS_TIMEOUT_S = 3.0


class Feed:
    def __init__(self) -> None:
        self._saying = threading.Lock()
        self._controller_pid = 0
        self._last_event = 0  # of that controller

    def run(self) -> None:
        threading.Thread(target=self._obey, daemon=True).start()
        while True:
            self._say(self._seen())
            time.sleep(EVERY_S)

    def _seen(self) -> dict[str, Any]:
        seen = {"at_s": time.time()} | of_ray()
        pid = seen["actors"].get(CONTROLLER_NAME, 0)
        if pid != self._controller_pid:
            self._controller_pid, self._last_event = pid, 0  # the next one counts anew
        try:
            seen |= self._of_controller()
        except UnavailableError as error:
            seen["away"] = error.message
        return seen

    def _of_controller(self) -> dict[str, Any]:
        controller = found_controller()
        status = dataclasses.asdict(controller.status(timeout_s=STATUS_TIMEOUT_S))
        events = controller.events(self._last_event, timeout_s=STATUS_TIMEOUT_S)
        self._last_event = events[-1].number if events else self._last_event
        wanted = {name: status[name] for name in ("workers", "pools", "ready", "num_ingress_replicas")}
        return wanted | {"events": [dataclasses.asdict(event) for event in events]}

    def _obey(self) -> None:
        for line in sys.stdin:
            asked = json.loads(line)
            reply: dict[str, Any] = {"reply": asked["number"]}
            try:
                reply["value"] = getattr(self, f"do_{asked['do']}")(*asked["arguments"])
            except (BatonError, AttributeError, TypeError) as error:
                reply["error"] = f"{type(error).__name__}: {error}"
            self._say(reply)
        os._exit(0)

    def do_set_role(self, worker_id: str, role: str) -> None:
        found_controller().set_role(worker_id, Role(role))

    def do_knows(self, method: str) -> bool:
        """Whether the controller's client can do that."""
        return hasattr(ControllerClient, method)

    def _say(self, what: dict[str, Any]) -> None:
        with self._saying:
            print(json.dumps(what, default=str), flush=True)


def found_controller() -> ControllerClient:
    controller = ControllerClient.find()
    if controller is None:
        raise UnavailableError("there is no controller now")
    return controller


def of_ray() -> dict[str, Any]:
    actors = ray_state.actors().values()
    groups = ray.util.placement_group_table().values()
    return {
        "actors": {actor["Name"]: actor["Pid"] for actor in actors if actor["State"] == "ALIVE" and actor["Name"]},
        "actor_states": dict(Counter(actor["State"] for actor in actors)),
        "group_states": dict(Counter(group["state"] for group in groups)),
    }
