"""Finds the layout that holds the SLO at a rate for the fewest devices.

DistServe's two algorithms (OSDI '24, section 4), and co-located workers beside them:

1. High node affinity: the goodput of one prefill and of one decode worker apart, each of the best shape; as many of
   each as the rate takes.
2. Low affinity, when the KV is too much for the links between nodes: prefill and decode workers side by side inside a
   node (with pipelines: the same stage of both on one node), simulated jointly; as many such units as the rate takes.

Which one is decided by the bandwidth that the first one's plan needs. Whatever comes out is simulated as a whole (see
`refine`). Candidates are simulated in the order of a bound on what they can do; those that the bound puts behind the
best one found are not simulated at all, and the others first at the one rate at which they would come near it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Protocol, TypeVar

from cluster.planner.search.candidates import Candidate, with_room
from cluster.planner.search.goodput import BOUND_SLACK, highest_rate
from cluster.planner.search.placement import Layout, PoolPlan, num_workers
from cluster.planner.search.trial import Question, run_decode, run_layout, run_prefill
from workers.spec import Role

FIRST_GUESS = {Role.PREFILL: 0.65, Role.DECODE: 0.9, Role.MIXED: 0.85}  # of the bound
WAVE = 2  # candidates simulated before the bounds are asked again
NEAR = 0.9  # of the best one's goodput per device: worth a place in the table
TOLERANCE = 0.08  # of the goodputs that order candidates

In = TypeVar("In")
Out = TypeVar("Out")


class Map(Protocol):
    """`map`, or that of a pool of processes."""

    def __call__(self, function: Callable[[In], Out], items: Iterable[In], /) -> Iterable[Out]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A candidate and what one worker of it serves, in requests/s."""

    candidate: Candidate
    goodput: float

    @property
    def goodput_per_device(self) -> float:
        return self.goodput / self.candidate.shape.num_devices


def num_devices(rate: float, goodput: float, per_worker: int) -> int:
    return num_workers(rate, goodput) * per_worker


def phase_attainment(question: Question) -> float:
    """What each phase must reach apart, so that both together reach the SLO's share if their misses are independent."""
    attainment = question.slo.attainment
    return attainment**0.5 if attainment < 1 else 1.0


def score(question: Question, trial: tuple[Candidate, float]) -> Scored:
    """Goodput of one worker: prefill against TTFT, decode against TPOT, mixed against both.

    Args:
        trial: The candidate, and a rate below which nobody asks for its goodput: 0 then.
    """
    candidate, floor = trial

    def attainment(rate: float) -> float:
        if candidate.role is Role.PREFILL:
            return run_prefill(question, candidate.shape, candidate.engine, rate).ttft_attainment
        if candidate.role is Role.DECODE:
            return run_decode(question, candidate.shape, candidate.engine, rate).tpot_attainment
        return run_layout(question, colocated(candidate, 1), rate).attainment

    target = question.slo.attainment if candidate.role is Role.MIXED else phase_attainment(question)
    guess = candidate.bound * FIRST_GUESS[candidate.role]
    found = _goodput(attainment, target, guess=guess, floor=floor, ceiling=candidate.bound)
    return Scored(candidate=candidate, goodput=found)


def _goodput(
    attainment: Callable[[float], float], target: float, *, guess: float, floor: float, ceiling: float
) -> float:
    if floor >= ceiling or (floor > 0 and attainment(floor) < target):
        return 0.0
    guess = max(guess, 1.2 * floor)
    return highest_rate(attainment, target=target, guess=guess, low=floor, ceiling=ceiling, tolerance=TOLERANCE)


def search_phase(question: Question, candidates: Sequence[Candidate], run: Map) -> list[Scored]:
    """The candidates that come near the best, those first that need the fewest devices at the rate.

    Stops when no bound of the others promises fewer devices, or as many at a higher goodput each.
    """

    def promise(candidate: Candidate) -> Need:
        return need(question, candidate.bound * BOUND_SLACK, candidate.shape.num_devices)

    waiting = sorted(candidates, key=promise)
    done: list[Scored] = []
    while waiting and not (done and promise(waiting[0]) >= _need(question, done[0])):
        wave, waiting = waiting[:WAVE], waiting[WAVE:]
        best = (done[0].goodput, done[0].candidate.shape.num_devices) if done else None
        trials = [(candidate, floor_of(question, candidate.shape.num_devices, best)) for candidate in wave]
        done += [scored for scored in run(partial(score, question), trials) if scored.goodput > 0]
        done.sort(key=partial(_need, question))
    return done


Need = tuple[float, float]  # devices at the rate, -goodput per device: less is better


def need(question: Question, goodput: float, per_worker: int) -> Need:
    return num_devices(question.rate, goodput, per_worker), -goodput / per_worker


def floor_of(question: Question, per_worker: int, best: tuple[float, int] | None) -> float:
    """The least goodput that makes a worker of `per_worker` devices worth more than one trial.

    Args:
        best: Goodput of the best worker so far, and its devices.
    """
    if best is None:
        return 0.0
    goodput, devices = best
    near = NEAR * goodput / devices * per_worker
    num_cheaper = (num_devices(question.rate, goodput, devices) - 1) // per_worker  # workers for fewer devices
    return min(near, question.rate / num_cheaper) if num_cheaper else near


def _need(question: Question, scored: Scored) -> Need:
    return need(question, scored.goodput, scored.candidate.shape.num_devices)


def colocated(candidate: Candidate, count: int) -> Layout:
    return Layout(pools=(PoolPlan(shape=candidate.shape, num_workers=count),), engine=candidate.engine)


def disaggregated(question: Question, prefill: Candidate, decode: Candidate, counts: tuple[int, int]) -> Layout | None:
    """Both pools under one engine config: prefill's budget, decode's sequences; None if they do not fit so."""
    budget = prefill.engine.max_batched_tokens
    num_sequences = min(decode.engine.max_sequences, budget // 2)
    degrees = [candidate.shape.parallelism for candidate in (prefill, decode)]
    engine, fits = with_room(question, degrees, replace(prefill.engine, max_sequences=num_sequences))
    if not all(fitted.fits for fitted in fits):
        return None
    pools = [
        PoolPlan(shape=replace(candidate.shape, fit=fitted), num_workers=count)
        for candidate, fitted, count in zip((prefill, decode), fits, counts, strict=True)
    ]
    return Layout(pools=tuple(pools), engine=engine)


def high_affinity(question: Question, prefills: Sequence[Scored], decodes: Sequence[Scored]) -> list[Layout]:
    """Algorithm 1: counts from the goodput of each phase; the layouts that need the fewest devices first."""
    layouts = []
    for prefill, decode in product(prefills, decodes):
        counts = tuple(num_workers(question.rate, scored.goodput) for scored in (prefill, decode))
        layout = disaggregated(question, prefill.candidate, decode.candidate, (counts[0], counts[1]))
        if layout is not None:
            waste = prefill.goodput_per_device**-1 + decode.goodput_per_device**-1
            layouts.append(((layout.num_devices, waste), layout))
    return [layout for _, layout in sorted(layouts, key=lambda pair: pair[0])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Prefill and decode workers inside one node (or one node per pipeline stage); `goodput` 0 until simulated."""

    layout: Layout
    goodput: float = 0.0

    @property
    def bound(self) -> float:
        return self.layout.bound

    def replicated(self, rate: float, goodput: float) -> Layout:
        return replace(self.layout, num_replicas=num_workers(rate, goodput))


def units(question: Question, prefills: Sequence[Candidate], decodes: Sequence[Candidate]) -> list[Unit]:
    """Every (prefill, decode) pair of one pipeline degree, in every number that a node holds."""
    made = []
    size = question.site.devices_per_node
    for first, second in product(prefills, decodes):
        stages = first.shape.parallelism.pipeline
        if stages != second.shape.parallelism.pipeline:
            continue
        first_size, second_size = first.shape.num_devices // stages, second.shape.num_devices // stages
        one = disaggregated(question, first, second, (1, 1))
        if one is None:
            continue
        for num_first in range(1, (size - second_size) // first_size + 1):
            for num_second in range(1, (size - num_first * first_size) // second_size + 1):
                counted = zip(one.pools, (num_first, num_second), strict=True)
                pools = tuple(replace(pool, num_workers=count) for pool, count in counted)
                made.append(Unit(layout=replace(one, pools=pools, within_node=True)))
    return made


def score_unit(question: Question, trial: tuple[Unit, float]) -> Unit:
    """As `score`."""
    unit, floor = trial

    def attainment(rate: float) -> float:
        return run_layout(question, unit.layout, rate).attainment

    guess = unit.bound * FIRST_GUESS[Role.PREFILL]
    found = _goodput(attainment, question.slo.attainment, guess=guess, floor=floor, ceiling=unit.bound)
    return replace(unit, goodput=found)


def low_affinity(
    question: Question, prefills: Sequence[Candidate], decodes: Sequence[Candidate], run: Map
) -> list[Layout]:
    """Algorithm 2: the joint goodput of units, replicated; those that need the fewest devices first."""

    def promise(unit: Unit) -> Need:
        return need(question, unit.bound * BOUND_SLACK, unit.layout.num_devices)

    def reached(unit: Unit) -> Need:
        return need(question, unit.goodput, unit.layout.num_devices)

    waiting = sorted(units(question, prefills, decodes), key=promise)
    done: list[Unit] = []
    while waiting and not (done and promise(waiting[0]) >= reached(done[0])):
        wave, waiting = waiting[:WAVE], waiting[WAVE:]
        best = (done[0].goodput, done[0].layout.num_devices) if done else None
        trials = [(unit, floor_of(question, unit.layout.num_devices, best)) for unit in wave]
        done += [unit for unit in run(partial(score_unit, question), trials) if unit.goodput > 0]
        done.sort(key=reached)
    return [unit.replicated(question.rate, unit.goodput) for unit in done]
