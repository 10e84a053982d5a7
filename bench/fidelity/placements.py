"""DistServe's published placements beside what its own question gives on this project's simulator.

The question, one for all cases, as its released search asks it (github.com/LLMServe/DistServe, simdistserve/, 2024):

* Units: one prefill and one decode worker, cut alike into segments of whole pipeline stages; each segment lies in one
  node, so that KV never leaves it (the paper's algorithm 2; benchmarks/search_configs.py).
* Goodput: the phases meet nowhere but in the queue between them, which is endless, and KV moves in no time; P90 of TTFT
  and P90 of TPOT are tested each alone (benchmarks/search_binary.py). So a unit's goodput is that of its slower phase.
* Objective: goodput per GPU that the unit uses, among the TP degrees of the earliest fits that were published.

Beside it stand three questions that were not asked: the same of all degrees with fits (66B has one of TP 3, published
later); of all degrees per GPU of full nodes, where a unit of 7 leaves one of 8 idle; and ours, of the published unit
and the best as asked, both workers simulated together under both limits at once, KV held by prefill until decode has
room. Per GPU used is what that search divides by, so it decides; full nodes say what its testbed would have served.

The README's 1.56 is a step of a bisection of [0, 5] down to 0.16, so its search's goodput lies in [1.56, 1.72); of 300
requests from an empty system, whose lengths and gaps alone move it by 13 % (standard deviation over samples of the
measured lengths). Trials of 300 come to 1.9 to 2.0 here, as decode's KV has not filled up when they end; trials of
1,000, its default before, are what all cases get.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from rich.table import Table

from baton.errors import ConfigError
from bench.fidelity.distserve_systems import DISTSERVE_BATCHED_TOKENS, MAX_SEQUENCES
from bench.fidelity.published_cases import Case
from bench.fidelity.published_costs import PublishedCosts
from cluster.config.schema import EngineConfig
from cluster.contracts.latency import Parallelism
from cluster.planner.load.sampled import SampledWorkload
from cluster.planner.load.workload import synthetic
from cluster.planner.search.candidates import PREFILL_BUDGETS, Candidate, Options, find
from cluster.planner.search.goodput import BOUND_SLACK, highest_rate
from cluster.planner.search.layouts import FIRST_GUESS, disaggregated
from cluster.planner.search.placement import WorkerShape
from cluster.planner.search.trial import Effort, Question, run_decode, run_layout, run_prefill
from cluster.simulator.world import simulate
from workers.spec import Role

# As DistServe ran: prompts whole, as many in a step as fit.
ENGINE = EngineConfig(max_batched_tokens=DISTSERVE_BATCHED_TOKENS, max_sequences=MAX_SEQUENCES, chunked_prefill=False)
EFFORT = Effort(min_requests=1000, max_requests=1000)  # as in its search; the README's 300 end before KV fills up
NUM_SAMPLED = 2000
TOLERANCE = 0.03  # of a goodput


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One worker of each phase, cut into `num_segments` alike, each inside a node."""

    prefill: Candidate
    decode: Candidate
    num_segments: int

    @property
    def degrees(self) -> tuple[Parallelism, Parallelism]:
        return self.prefill.shape.parallelism, self.decode.shape.parallelism

    @property
    def num_devices(self) -> int:
        return self.prefill.shape.num_devices + self.decode.shape.num_devices

    @property
    def bound(self) -> float:
        """Requests/s, by closed forms."""
        return min(self.prefill.bound, self.decode.bound) * BOUND_SLACK

    def share_of_nodes(self, devices_per_node: int) -> float:
        """Of the devices of nodes full of such units, those that belong to one."""
        segment = self.num_devices // self.num_segments
        return devices_per_node // segment * segment / devices_per_node

    def __str__(self) -> str:
        return " / ".join(f"({degrees.tensor},{degrees.pipeline})" for degrees in self.degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementAnswer:
    """The best unit to one question, and how near the published one comes to it.

    Attributes:
        goodput, published: Requests/s per GPU, counted as the question does.
    """

    unit: Unit
    goodput: float
    published: float

    @property
    def share(self) -> float:
        return self.published / self.goodput


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    case: Case
    published: Unit
    answers: Mapping[str, PlacementAnswer]  # by question, the one that was asked first


class Phases:
    """Goodput of units whose workers are simulated apart: prefill against TTFT, decode against TPOT."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._reads = cache(self._reads_alone)
        self.goodput = cache(self._of)

    def _of(self, unit: Unit) -> float:
        """Requests/s of the slower phase; decode is asked for no more than prefill gives it."""
        most = self._reads(unit.prefill.shape)
        return self._highest(partial(self._in_tpot, unit.decode.shape), guess=most, ceiling=most) if most else 0.0

    def _reads_alone(self, shape: WorkerShape) -> float:
        guess = shape.bound * FIRST_GUESS[Role.PREFILL]
        return self._highest(partial(self._in_ttft, shape), guess=guess, ceiling=shape.bound * BOUND_SLACK)

    def _highest(self, attainment: Callable[[float], float], *, guess: float, ceiling: float) -> float:
        target = self._question.slo.attainment
        return highest_rate(attainment, target=target, guess=guess, ceiling=ceiling, tolerance=TOLERANCE)

    def _in_ttft(self, shape: WorkerShape, rate: float) -> float:
        return run_prefill(self._question, shape, ENGINE, rate).ttft_attainment

    def _in_tpot(self, shape: WorkerShape, rate: float) -> float:
        return run_decode(self._question, shape, ENGINE, rate).tpot_attainment


def judge(case: Case, costs: PublishedCosts) -> Verdict:
    question = _question(case, costs)
    units = [unit for unit in _units(question) if unit.bound > 0]
    published = next((unit for unit in units if unit.degrees == (case.prefill, case.decode)), None)
    if published is None:
        raise ConfigError(f"{case.name}: no goodput for the published placement")
    early = [unit for unit in units if all(degrees.tensor in case.model.early_tensor for degrees in unit.degrees)]
    goodput = Phases(question).goodput

    def per_used(unit: Unit) -> float:
        return 1 / unit.num_devices

    def per_full(unit: Unit) -> float:
        return unit.share_of_nodes(case.site.devices_per_node) / unit.num_devices

    asked = best(early, published, goodput, per_used)
    answers = {
        "as asked": asked,
        "all degrees": best(units, published, goodput, per_used),
        "full nodes": best(units, published, goodput, per_full),
        "jointly": best([asked.unit], published, cache(partial(_joint, question, guess=goodput)), per_used),
    }
    return Verdict(case=case, published=published, answers=answers)


def best(
    units: Iterable[Unit], published: Unit, goodput: Callable[[Unit], float], weight: Callable[[Unit], float]
) -> PlacementAnswer:
    """The unit of the highest `weight` x `goodput`; only those are asked for it whose bound promises more."""
    of_published = goodput(published) * weight(published)
    top = PlacementAnswer(unit=published, goodput=of_published, published=of_published)
    for unit in sorted(units, key=lambda unit: -unit.bound * weight(unit)):
        if unit.bound * weight(unit) <= top.goodput:
            break
        value = goodput(unit) * weight(unit)
        if value > top.goodput:
            top = replace(top, unit=unit, goodput=value)
    return top


def _question(case: Case, costs: PublishedCosts) -> Question:
    base = synthetic(case.lengths, rate=8.0, num_requests=NUM_SAMPLED, rng=np.random.default_rng(0))
    prompts = [arrival.num_prompt_tokens for arrival in base]
    outputs = [arrival.num_output_tokens for arrival in base]
    return Question(
        costs=costs,
        site=case.site,
        workload=SampledWorkload(base),
        slo=case.slo,
        rate=8.0,
        simulate=simulate,
        mean_prompt=float(np.mean(prompts)),
        mean_output=float(np.mean(outputs)),
        max_request_tokens=max(prompt + output for prompt, output in zip(prompts, outputs, strict=True)),
        effort=EFFORT,
    )


def _candidates(question: Question, role: Role) -> list[Candidate]:
    """One for each shape that fits; bounds are those of the largest budget, prefill's next to whole prompts."""
    budget = PREFILL_BUDGETS[-1] if role is Role.PREFILL else PREFILL_BUDGETS[0]
    found = find(question, Options(allow_pipeline=True, allow_sequence=False), role).candidates
    return [replace(each, engine=ENGINE) for each in found if each.engine.max_batched_tokens == budget]


def _units(question: Question) -> Iterator[Unit]:
    site, decodes = question.site, _candidates(question, Role.DECODE)
    for prefill in _candidates(question, Role.PREFILL):
        for decode in decodes:
            pipelines = prefill.shape.parallelism.pipeline, decode.shape.parallelism.pipeline
            cuts = [
                Unit(prefill=prefill, decode=decode, num_segments=count)
                for count in segment_counts(pipelines, site.num_nodes)
            ]
            fitting = [unit for unit in cuts if unit.share_of_nodes(site.devices_per_node) > 0]
            if fitting:
                yield max(fitting, key=lambda unit: unit.share_of_nodes(site.devices_per_node))


def segment_counts(pipelines: tuple[int, int], num_nodes: int) -> list[int]:
    """Into how many parts both pipelines can be cut alike, one node for each."""
    return [count for count in range(1, num_nodes + 1) if all(stages % count == 0 for stages in pipelines)]


def _joint(question: Question, unit: Unit, *, guess: Callable[[Unit], float]) -> float:
    """Goodput under both limits at once; 0 when the pair does not fit one engine config."""
    layout = disaggregated(question, unit.prefill, unit.decode, (1, 1))
    if layout is None:
        return 0.0
    whole = replace(layout, within_node=True)
    return highest_rate(
        lambda rate: run_layout(question, whole, rate).attainment,
        target=question.slo.attainment,
        guess=guess(unit),
        tolerance=TOLERANCE,
    )


def placement_table(verdicts: Sequence[Verdict]) -> Table:
    """A row for each case, a column for each question: the best unit, and the published one's share of its goodput."""
    table = Table(title="DistServe's published placements, (TP,PP) of prefill / decode; goodput in req/s per GPU")
    for column in ("case", "published", "goodput", *(verdicts[0].answers if verdicts else ())):
        table.add_column(column)
    for verdict in verdicts:
        answers = list(verdict.answers.values())
        goodput = f"{answers[0].published:.2f}"
        if verdict.case.goodput_per_gpu is not None:
            goodput += f" (published {verdict.case.goodput_per_gpu:.2f})"
        told = [f"{answer.share:.0%} of {answer.unit}: {answer.goodput:.2f}" for answer in answers]
        table.add_row(verdict.case.name, str(verdict.published), goodput, *told)
    return table
