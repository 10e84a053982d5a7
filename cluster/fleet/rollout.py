"""Replaces outdated workers a few at a time, without taking away what serves. Pure, as `tick`, which does all the rest.

A successor starts beside the worker that it replaces, which drains once the new one has settled. Where there is no
place for both, and there would be one for the successor alone, the old one goes first.
Invariant: of a pool's slots that had a ready worker, at most `budget` lack one by the rollout's doing, in a rollout to
another model none; when it is halted nothing more is begun.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.fleet.tick import (
    LIVE,
    Action,
    Drain,
    FleetLimits,
    Observed,
    Start,
    Stop,
    WorkerPhase,
    may_start,
    tick,
)
from workers.spec import SERVING_ROLES, Role

SETTLE_S = 1.5  # a successor is known to every ingress, which look twice a second, before the old one takes no more
ROOM_S = 5.0  # a successor that has waited for its place for so long has found none
MAX_FAILURES = 3  # starts of one successor before the rollout is halted
SHARE = 4  # one in so many of a pool's workers is replaced at once, at least one


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """
    Attributes:
        is_halted: What is new does not come up.
        holds_old: What is old serves another model: all of it stays until who asks for it has turned to the new one.
        ready_before: Slots of each role that had a ready worker when it began; of one that is absent, all.
    """

    is_halted: bool = False
    holds_old: bool = False
    ready_before: Mapping[Role, int] = field(default_factory=dict)


def budget(num_desired: int) -> int:
    """Of a pool's slots, those that are replaced at once."""
    return max(1, num_desired // SHARE)


def decide(
    desired: Mapping[Role, int], observed: Iterable[Observed], limits: FleetLimits, now_s: float, rollout: Rollout
) -> list[Action]:
    """What to do now, `tick`'s part included."""
    workers = list(observed)
    pools = slots_of(desired, workers)
    kept = _kept(pools, workers, now_s, rollout)
    actions = [action for action in tick(desired, workers, limits, now_s) if not (_ends(action) & kept)]
    for slots in pools.values():
        actions += _replacements(slots, limits, now_s, rollout)
    return actions


def failed(observed: Iterable[Observed]) -> Observed | None:
    """A worker for which a rollout has to be halted: it is as wanted, and does not come up."""
    for worker in observed:
        is_lost = worker.is_final or worker.num_failures >= MAX_FAILURES
        if worker.phase is WorkerPhase.FAILED and not worker.outdated and is_lost:
            return worker
    return None


def is_finished(desired: Mapping[Role, int], observed: Iterable[Observed], now_s: float) -> bool:
    """Nothing outdated is left, and all that is new is there, or waits for places that nobody has."""
    workers = [worker for worker in observed if worker.phase in LIVE]
    if any(worker.outdated for worker in workers):
        return False
    there = {(worker.role, worker.index) for worker in workers if _is_there(worker, now_s)}
    return all((role, index) in there for role, count in desired.items() for index in range(count))


def num_replaced(desired: Mapping[Role, int], observed: Iterable[Observed]) -> int:
    """Of the slots that are wanted, those with a ready worker that is as wanted, and no older one beside it."""
    slots = [slot for pool in slots_of(desired, observed).values() for slot in pool]
    return sum(slot.new is not None and slot.new.phase is WorkerPhase.READY and not slot.old for slot in slots)


def is_all_new(desired: Mapping[Role, int], observed: Iterable[Observed], now_s: float) -> bool:
    """Every slot that takes requests has a settled worker that is as wanted: one may turn to them."""
    pools = slots_of(desired, observed)
    return all(slot.has_settled(now_s) for role in SERVING_ROLES for slot in pools.get(role, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Its live workers, and the ended one of the side that is free."""

    old: tuple[Observed, ...]  # outdated, the longest in its phase first
    new: Observed | None
    surplus: Observed | None  # a second one that is as wanted
    ended: Observed | None
    role: Role
    index: int

    @classmethod
    def of(cls, mine: Sequence[Observed], role: Role, index: int) -> "Slot":
        live = sorted((one for one in mine if one.phase in LIVE), key=lambda one: one.entered_s)
        new = sorted((one for one in live if not one.outdated), key=lambda one: one.phase is not WorkerPhase.READY)
        return cls(
            old=tuple(worker for worker in live if worker.outdated),
            new=new[0] if new else None,
            surplus=new[1] if len(new) > 1 else None,
            ended=next((worker for worker in mine if worker.phase not in LIVE), None),
            role=role,
            index=index,
        )

    @property
    def is_pair(self) -> bool:
        return bool(self.old) and self.new is not None

    @property
    def is_ready(self) -> bool:
        return any(map(_is_ready, [*self.old, *([self.new] if self.new else [])]))

    def has_settled(self, now_s: float) -> bool:
        new = self.new
        return new is not None and new.phase is WorkerPhase.READY and now_s >= new.entered_s + SETTLE_S

    def start_beside(self, limits: FleetLimits, now_s: float) -> Start | None:
        """A successor on the free side; None: its last one failed a moment ago."""
        if self.ended is not None and not may_start(self.ended, limits, now_s):
            return None
        num_failures = self.ended.num_failures if self.ended is not None and not self.ended.outdated else 0
        return Start(self.role, self.index, num_failures, beside=not self.old[0].beside)


def slots_of(desired: Mapping[Role, int], observed: Iterable[Observed]) -> dict[Role, list[Slot]]:
    """Those that are wanted, by index."""
    mine: dict[tuple[Role, int], list[Observed]] = {}
    for worker in observed:
        mine.setdefault((worker.role, worker.index), []).append(worker)
    return {
        role: [Slot.of(mine.get((role, index), ()), role, index) for index in range(count)]
        for role, count in desired.items()
        if count
    }


def _replacements(slots: Sequence[Slot], limits: FleetLimits, now_s: float, rollout: Rollout) -> list[Action]:
    actions: list[Action] = []
    for slot in slots:
        actions += _left_over(slot, now_s, rollout)
    if rollout.is_halted:
        return actions
    return actions + _begun(slots, limits, now_s, rollout) + _displaced(slots, rollout)


def _left_over(slot: Slot, now_s: float, rollout: Rollout) -> list[Action]:
    """What is of no use any more: it never served, or its successor has settled."""
    over = [slot.surplus] if slot.surplus is not None else []
    over += [one for one in slot.old[1:] if slot.old[0].phase is WorkerPhase.READY]
    if not rollout.is_halted:
        over += [one for one in slot.old[:1] if one.phase in (WorkerPhase.WAITING, WorkerPhase.STARTING)]
    if slot.has_settled(now_s) and not rollout.holds_old:
        over += slot.old
    ends = (_end(one) for one in {one.worker_id: one for one in over}.values())
    return [end for end in ends if end is not None]


def _end(worker: Observed) -> Action | None:
    match worker.phase:
        case WorkerPhase.READY:
            return Drain(worker.worker_id)
        case WorkerPhase.WAITING | WorkerPhase.STARTING:
            return Stop(worker.worker_id)
        case _:
            return None


def _begun(slots: Sequence[Slot], limits: FleetLimits, now_s: float, rollout: Rollout) -> list[Action]:
    """Successors, beside workers that serve."""
    room = (len(slots) if rollout.holds_old else budget(len(slots))) - sum(slot.is_pair for slot in slots)
    lone = [slot for slot in slots if len(slot.old) == 1 and slot.new is None]
    serving = [slot for slot in lone if slot.old[0].phase is WorkerPhase.READY]
    starts = [start for slot in serving if (start := slot.start_beside(limits, now_s)) is not None]
    return list(starts[: max(room, 0)])


def _displaced(slots: Sequence[Slot], rollout: Rollout) -> list[Action]:
    """Workers that go before their successors are there, as far as the pool can do without."""
    if rollout.holds_old or not slots:
        return []
    num_ready = sum(slot.is_ready for slot in slots)
    before = min(len(slots), rollout.ready_before.get(slots[0].role, len(slots)))
    spare = max(num_ready - (before - budget(len(slots))), 0)
    waiting = [slot for slot in slots if slot.is_pair and slot.new is not None and slot.new.may_displace]
    ready = [one for slot in waiting for one in slot.old if one.phase is WorkerPhase.READY]
    return [Drain(one.worker_id) for one in ready[:spare]]


def _kept(
    pools: Mapping[Role, Sequence[Slot]], workers: Sequence[Observed], now_s: float, rollout: Rollout
) -> set[str]:
    """Ids of workers that are not wanted any more, and serve until what is wanted instead is there."""
    wanted = {role for role in SERVING_ROLES if role in pools}
    if not wanted:
        return set()
    if rollout.holds_old:
        return {worker.worker_id for worker in workers if worker.outdated}
    if all(slot.has_settled(now_s) or any(map(_is_ready, slot.old)) for role in wanted for slot in pools[role]):
        return set()
    gone = [worker for worker in workers if worker.role in SERVING_ROLES and worker.role not in wanted]
    kept = [worker.worker_id for worker in gone if worker.phase is WorkerPhase.READY]
    may_one_go = any(worker.may_displace for worker in workers) and not rollout.is_halted
    is_one_going = any(worker.phase is WorkerPhase.DRAINING for worker in gone)
    return set(kept[1:] if may_one_go and not is_one_going else kept)


def _is_ready(worker: Observed) -> bool:
    return worker.phase is WorkerPhase.READY


def _ends(action: Action) -> set[str]:
    return {action.worker_id} if isinstance(action, Drain) else set()


def _is_there(worker: Observed, now_s: float) -> bool:
    waits = worker.phase is WorkerPhase.WAITING and now_s > worker.entered_s + ROOM_S
    return worker.phase is WorkerPhase.READY or waits
