"""Workers, requests and a controller as `/cluster` is told of them."""

from typing import Any

from baton.errors import UnavailableError
from baton.v1.worker_pb2 import ROLE_DECODE, ROLE_PREFILL, WorkerState
from cluster.contracts.events import Event, EventKind, EventLog
from cluster.contracts.finished import FinishedRequest
from cluster.contracts.slo import SLO
from cluster.ingress.cluster_api.fleet_news import FleetNews
from cluster.router.workers import WorkerEntry, WorkerView
from workers.spec import Role

GOOD = SLO(ttft_s=0.5, tpot_s=0.05)
_ROLES = {Role.PREFILL: ROLE_PREFILL, Role.DECODE: ROLE_DECODE}


def worker(worker_id: str, role: Role = Role.DECODE, incarnation: str = "a", **state: Any) -> WorkerView:
    entry = WorkerEntry(worker_id=worker_id, incarnation=incarnation, role=role, address="127.0.0.1:1")
    report = WorkerState(worker_id=worker_id, role=_ROLES[role], num_blocks=100, num_free_blocks=100, **state)
    return WorkerView(entry=entry, state=report, age_s=0.0, up=True)


def ended(ttft_s: float | None = 0.2, tpot_s: float | None = 0.02, status: str = "ok") -> FinishedRequest:
    return FinishedRequest(
        request_id="r",
        model="demo",
        route="chat",
        status=status,
        arrived_s=1.0,
        ended_s=2.0,
        num_choices=1,
        num_prompt_tokens=100,
        num_cached_tokens=40,
        num_output_tokens=10,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
    )


class FakeController:
    """Counts how often it is asked. `is_away`: it does not answer."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.num_asked = 0
        self.is_away = False

    def tell(self, subject: str, text: str, *, is_trouble: bool = False) -> Event:
        return self.log.tell(EventKind.WORKER, subject, text, 100.0, is_trouble=is_trouble)

    async def __call__(self, after: int) -> FleetNews:
        self.num_asked += 1
        if self.is_away:
            raise UnavailableError("controller baton does not answer")
        told = {"phase": "ready", "node_id": "n", "pid": 7, "cores": [0], "error": "", "ranks": []}
        return FleetNews(
            ready=True,
            num_ingress_replicas=1,
            pools=[{"role": "decode", "num_desired": 1, "num_ready": 1, "waits": ""}],
            workers={"decode-0": {"role": "decode", "incarnation": "a", "address": "", "num_failures": 0} | told},
            autopilot={"mode": "advise", "doing": "looking", "is_trusted": True},
            events=self.log.after(after),
        )
