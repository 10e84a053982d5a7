"""An autopilot at the controls of a simulated fleet: what it would have made of a day."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan

from cluster.contracts.simulation import RequestRecord, SteeredFleet
from cluster.planner.online.autopilot import Autopilot, Verdict
from cluster.planner.online.decision import Decision
from cluster.planner.online.judge import Question, judge
from cluster.planner.online.moves import counts_after, setup_of, to_change
from cluster.planner.online.observation import Observation, SeenRequest, SeenWorker, StepCounts
from cluster.planner.online.setup import Change, ChangeKind, Setup
from cluster.planner.search.trial import Simulate
from workers.engine.stats import EngineStats
from workers.spec import Role


@dataclass(slots=True, kw_only=True)
class Rehearsal:
    """Implements `SimPilot`.

    Attributes:
        setups: (seconds, the fleet from then on).
    """

    autopilot: Autopilot
    simulate: Simulate
    decisions: list[Decision] = field(default_factory=list)
    setups: list[tuple[float, Setup]] = field(default_factory=list)
    num_simulated: int = 0  # requests, in all looks
    _first: int = 0  # the first record that a look may still need

    @property
    def interval_s(self) -> float:
        return self.autopilot.config.interval_s

    def look(self, fleet: SteeredFleet) -> None:
        seen = self._observe(fleet)
        if not self.setups or self.setups[-1][1] != seen.setup:
            self.setups.append((fleet.now_s, seen.setup))
        asked = self.autopilot.look(seen)
        self._follow(asked if isinstance(asked, Verdict) else self._decide(asked), fleet)

    def _decide(self, question: Question) -> Verdict:
        answer = judge(question, self.simulate)
        self.num_simulated += answer.num_requests
        return self.autopilot.decide(answer)

    def _follow(self, verdict: Verdict, fleet: SteeredFleet) -> None:
        self.decisions += verdict.decisions
        if verdict.act is None:
            return
        why = _make(verdict.act, fleet)
        if why:
            self.decisions.append(self.autopilot.failed(verdict.act, why, fleet.now_s))
        self.setups.append((fleet.now_s, setup_of(fleet.roles, fleet.tuning)))

    def _observe(self, fleet: SteeredFleet) -> Observation:
        roles = fleet.roles
        return Observation(
            now_s=fleet.now_s,
            requests=self._requests(fleet),
            workers=[_worker(name, roles, stats) for name, stats in fleet.stats().items() if name in roles],
            setup=setup_of(roles, fleet.tuning),
            is_settled=fleet.is_settled,
        )

    def _requests(self, fleet: SteeredFleet) -> list[SeenRequest]:
        begin_s, records = fleet.now_s - self.autopilot.config.window_s, fleet.records
        while self._first < len(records) and _is_past(records[self._first], begin_s):
            self._first += 1
        recent = [records[number] for number in range(self._first, len(records))]
        return [_seen(record) for record in recent if not _is_past(record, begin_s)]


def _is_past(record: RequestRecord, begin_s: float) -> bool:
    has_ended = bool(record.error) or record.finished_s < begin_s
    return record.arrived_s < begin_s and has_ended


def _seen(record: RequestRecord) -> SeenRequest:
    is_open = not record.error and isnan(record.finished_s)
    return SeenRequest(
        arrived_s=record.arrived_s,
        num_prompt_tokens=record.num_prompt_tokens,
        num_cached_tokens=record.num_cached_tokens,
        num_output_tokens=0 if is_open else record.num_output_tokens,
        ended_s=None if is_open else record.arrived_s if isnan(record.finished_s) else record.finished_s,
        ttft_s=None if isnan(record.first_token_s) else record.ttft_s,
        tpot_s=None if isnan(record.finished_s) else record.tpot_s,
        status="open" if is_open else record.error or "ok",
    )


def _worker(name: str, roles: Mapping[str, Role], stats: EngineStats) -> SeenWorker:
    return SeenWorker(
        worker_id=name,
        role=roles[name],
        counts=StepCounts(
            num_decode_steps=stats.num_decode_steps,
            num_decode_step_sequences=stats.num_decode_step_sequences,
            decode_steps_s=stats.decode_steps_s,
            num_prompt_steps=stats.num_steps - stats.num_decode_steps,
            num_prompt_step_tokens=stats.num_prompt_step_tokens,
            prompt_steps_s=stats.prompt_steps_s,
            num_drafted=stats.num_draft_tokens,
            num_accepted=stats.num_accepted_tokens,
        ),
    )


def _make(change: Change, fleet: SteeredFleet) -> str:
    """Why it cannot be made; empty: it is made."""
    if change.kind is ChangeKind.LIMIT:
        fleet.tune(change.of(setup_of(fleet.roles, fleet.tuning)).tuning)
        return ""
    if change.kind is ChangeKind.ROLE and change.target is not None:
        done = [fleet.set_role(name, change.target) for name in to_change(change, fleet.roles)]
        return "" if done and all(done) else "the fleet refused"
    counts = counts_after(change, fleet.roles)
    if counts is None:
        return f"the last worker of no pool does {change.source} now"
    for role, count in counts.items():
        fleet.set_count(role, count)
    return ""
