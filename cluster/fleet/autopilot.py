"""The autopilot's hands and eyes on the controller: gathers what was seen, has it judged, makes what was decided.

Invariant: nothing is changed by a controller that another one has followed (`lease`), and one thing at a time. What a
person changes stands: the autopilot begins anew from there. Its own changes are in the plan, as if one had made them.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from ray.exceptions import RayError

from baton.errors import BatonError, UnavailableError
from cluster.config.schema import PlannerConfig
from cluster.contracts.demand import DemandAnswer, DemandReport
from cluster.contracts.events import EventKind, TellEvent
from cluster.contracts.slo import slo_of
from cluster.contracts.tuning import UNTUNED, Tuning
from cluster.fleet.demand import Demand
from cluster.fleet.judge_process import JudgeError, JudgeProcess
from cluster.fleet.known_costs import base_cluster, known_costs, roles_change
from cluster.fleet.lease import Lease
from cluster.fleet.plan import FleetPlan, with_workers
from cluster.fleet.record import WorkerRecord
from cluster.fleet.tick import WorkerPhase, slot_of
from cluster.fleet.tuner import Tuner
from cluster.fleet.worker_call import Call
from cluster.planner.online.autopilot import Autopilot, Verdict
from cluster.planner.online.calibration import Calibration
from cluster.planner.online.candidates import Bounds
from cluster.planner.online.decision import AutopilotStatus, Decision, DecisionState
from cluster.planner.online.journal import Journal
from cluster.planner.online.judge import Answer, Question
from cluster.planner.online.moves import counts_after, setup_of, to_change
from cluster.planner.online.observation import Observation, SeenWorker, StepCounts
from cluster.planner.online.setup import Change, ChangeKind
from cluster.planner.online.twin import Twin
from workers.spec import SERVING_ROLES, Role

OFF, ACT = "off", "act"
TICK_S = 0.5  # between two glances at whether a look is due
JUDGE_TIMEOUT_S = 60.0

logger = logging.getLogger(__name__)


class Judge(Protocol):
    async def ask(self, question: Question) -> tuple[Answer, float]:
        """The answer, and the CPU seconds that it took. Raises: JudgeError."""
        ...

    async def close(self) -> None: ...


SetRole = Callable[[str, Role], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What it may do to the fleet; the controller's own.

    Attributes:
        plan: What is wanted; None: nothing yet.
        save: Something else is wanted from now on.
        roles: Of now, of all slots that take requests, by worker id.
        tell: An event.
    """

    plan: Callable[[], FleetPlan | None]
    save: Callable[[FleetPlan], None]
    workers: Callable[[], Iterable[WorkerRecord]]
    roles: Callable[[], Mapping[str, Role]]
    set_role: SetRole
    tell: TellEvent


class FleetAutopilot:
    """For one event loop. `run` is its life.

    Args:
        judge: None: a process of its own.
        call: Of a worker's method; None: over Ray.
    """

    def __init__(self, hands: Hands, lease: Lease, judge: Judge | None = None, call: Call | None = None) -> None:
        self._hands = hands
        self._lease = lease
        self._judge: Judge = judge or JudgeProcess(JUDGE_TIMEOUT_S)
        self._tuner = Tuner(call)
        self._demand = Demand(time.monotonic())
        self._journal = Journal()
        self._pilot: Autopilot | None = None
        self._made_for: object = None
        self._by_hand = 0
        self._next_s = 0.0
        self._began_s = time.monotonic()
        self._look_s = self._spent_s = 0.0
        self._waits = ""

    # What the controller passes on.

    def take(self, report: DemandReport) -> DemandAnswer:
        if self._mode != OFF:
            self._demand.take(report, time.monotonic())
        return DemandAnswer(wants=self._mode != OFF, tuning=self._tuning)

    def changed_by_hand(self) -> None:
        """A person applied a config or changed a role: that wins."""
        self._by_hand += 1

    @property
    def status(self) -> AutopilotStatus:
        if self._mode == OFF:
            return AutopilotStatus(decisions=tuple(self._journal.decisions))
        spent = self._spent_s / max(time.monotonic() - self._began_s, 1e-9)
        status = self._pilot.status if self._pilot is not None else AutopilotStatus(mode=self._mode)
        now_s = time.monotonic()
        ages = tuple(replace(one, at_s=time.time() - (now_s - one.at_s)) for one in self._journal.decisions)
        doing = self._waits or status.doing
        return replace(status, mode=self._mode, doing=doing, look_s=self._look_s, cpu_share=spent, decisions=ages)

    # Its life.

    async def run(self) -> None:
        """Until it is cancelled. No fault of its own ends more than one look."""
        try:
            while True:
                await asyncio.sleep(TICK_S)
                try:
                    await self._turn()
                except Exception:
                    logger.exception("the autopilot's look failed")
        finally:
            await self._judge.close()

    async def _turn(self) -> None:
        plan = self._hands.plan()
        if plan is None:
            return
        await self._tuner.tune(self._hands.workers(), self._tuning)
        if self._mode == OFF or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + plan.config.planner.interval_s
        await self._look(plan)

    async def _look(self, plan: FleetPlan) -> None:
        pilot = self._pilot_for(plan)
        if pilot is None:
            return
        pilot.set_ingresses(self._demand.num_replicas)
        asked = await asyncio.to_thread(pilot.look, self._observe(plan, pilot.config))
        if isinstance(asked, Verdict):
            await self._follow(asked, pilot)
            return
        try:
            answer, self._look_s = await self._judge.ask(asked)
        except JudgeError as error:
            self._waits = f"waiting for a simulation: {error}"
            logger.warning("no simulation error=%s", error)
            return
        self._waits = ""
        self._spent_s += self._look_s
        await self._follow(pilot.decide(answer), pilot)

    def _pilot_for(self, plan: FleetPlan) -> Autopilot | None:
        """Another one where the config says something else; the journal goes on."""
        config = replace(plan.config, pools=type(plan.config.pools)())
        if self._pilot is not None and self._made_for == config:
            return self._pilot
        costs = known_costs(plan.config)
        base = base_cluster(plan.config, costs, (one.state for one in self._hands.workers() if one.state is not None))
        if base is None:
            self._waits = "waiting for workers to report"
            return None
        planner = plan.config.planner
        setup = setup_of(self._hands.roles())
        self._pilot = Autopilot(
            planner,
            slo=slo_of(plan.config.slo),
            bounds=Bounds.of(
                planner, setup, plan.config.engine, plan.config.router, roles_change=roles_change(plan.config)
            ),
            twin=Twin(base=base),
            calibration=Calibration(latency=costs.latency),
            started_s=time.monotonic(),
            costs=costs.source,
            journal=self._journal,
            by_hand=self._by_hand,
        )
        self._demand.forget(time.monotonic())
        self._made_for, self._waits = config, ""
        return self._pilot

    def _observe(self, plan: FleetPlan, planner: PlannerConfig) -> Observation:
        now_s = time.monotonic()
        requests, since_s = self._demand.requests(now_s, planner.window_s)
        workers, roles = [*self._hands.workers()], self._hands.roles()
        serving = [one for one in workers if one.role in SERVING_ROLES]
        reported = [one for one in serving if one.phase is WorkerPhase.READY and one.state is not None]
        ready = {slot_of(one.worker_id): one for one in reported}
        return Observation(
            now_s=now_s,
            since_s=since_s,
            requests=requests,
            workers=[_seen(one, roles[slot]) for slot, one in ready.items() if slot in roles],
            setup=setup_of(roles, plan.tuning),
            is_settled=set(ready) == set(roles)
            and len(serving) == len(roles)
            and all(one.role_now is roles[slot] for slot, one in ready.items()),
            by_hand=self._by_hand,
        )

    # What was decided.

    async def _follow(self, verdict: Verdict, pilot: Autopilot) -> None:
        for decision in verdict.decisions:
            self._tell(decision)
        if verdict.act is None:
            return
        try:
            await self._make(verdict.act)
        except (BatonError, RayError) as error:
            why = error.message if isinstance(error, BatonError) else str(error)
            self._tell(pilot.failed(verdict.act, why, time.monotonic()))

    def _tell(self, decision: Decision) -> None:
        is_trouble = decision.state in (DecisionState.REFUSED, DecisionState.ROLLED_BACK)
        self._hands.tell(EventKind.PLAN, "autopilot", str(decision), is_trouble=is_trouble)
        logger.info(
            "decision state=%s kind=%s what=%s why=%s", decision.state, decision.kind, decision.what, decision.why
        )

    async def _make(self, change: Change) -> None:
        """Raises: BatonError, RayError: it could not be made."""
        plan = self._hands.plan()
        self._check(plan)
        assert plan is not None
        if change.kind is ChangeKind.LIMIT:
            setup = setup_of(self._hands.roles(), plan.tuning)
            self._hands.save(replace(plan, tuning=change.of(setup).tuning))
        elif change.kind is ChangeKind.ROLE and change.target is not None:
            for name in to_change(change, self._hands.roles()):
                self._check(self._hands.plan())
                await self._hands.set_role(name, change.target)
        else:
            counts = counts_after(change, self._hands.roles())
            if counts is None:
                raise UnavailableError(f"{change}: no pool has a last worker that does that")
            self._hands.save(with_workers(plan, counts))

    def _check(self, plan: FleetPlan | None) -> None:
        if plan is None or plan.config.planner.mode != ACT:
            raise UnavailableError("the autopilot was switched off meanwhile")
        if not self._lease.holds:
            raise UnavailableError("another controller has taken over: this one changes nothing any more")

    @property
    def _mode(self) -> str:
        plan = self._hands.plan()
        return plan.config.planner.mode if plan is not None else OFF

    @property
    def _tuning(self) -> Tuning:
        """The config's own where the autopilot is off, or only says what it would do."""
        plan = self._hands.plan()
        return plan.tuning if plan is not None and plan.config.planner.mode == ACT else UNTUNED


def _seen(worker: WorkerRecord, role: Role) -> SeenWorker:
    state = worker.state
    assert state is not None, "only workers that have reported are looked at"
    return SeenWorker(
        worker_id=worker.worker_id,
        role=role,
        counts=StepCounts(
            num_decode_steps=state.num_decode_steps,
            num_decode_step_sequences=state.num_decode_step_sequences,
            decode_steps_s=state.decode_steps_s,
            num_prompt_steps=state.num_steps - state.num_decode_steps,
            num_prompt_step_tokens=state.num_prompt_step_tokens,
            prompt_steps_s=state.prompt_steps_s,
            num_drafted=sum(state.drafted_by_place),
            num_accepted=sum(state.accepted_by_place),
        ),
    )
