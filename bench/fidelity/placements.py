"""DistServe's published placements beside what this project's search thinks of them.

Its testbed had weak links between nodes, so a unit is one prefill and one decode worker whose KV stays inside nodes:
both in one node, or stage by stage (its Algorithm 2). Units are compared by goodput per GPU, counted in two ways: of
the GPUs that the unit uses, as its search does; and of the nodes that it is packed into, where a unit of 7 GPUs leaves
one of 8 idle. Goodputs of the phases apart come from `cluster.planner.search.score`; the best pairs and the published
one are then simulated jointly. Costs are the published fits alone, as in its simulator: no overheads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table

from baton.errors import ConfigError
from bench.fidelity.distserve_systems import DISTSERVE_BATCHED_TOKENS, MAX_SEQUENCES
from bench.fidelity.published_costs import OPT_13B, OPT_66B, OPT_175B, OptShape, PublishedCosts
from cluster.config import EngineConfig
from cluster.planner.candidates import Candidate, Options, find
from cluster.planner.goodput import highest_rate
from cluster.planner.latency import Parallelism
from cluster.planner.lengths import Empirical, Independent, Lognormal, Shape
from cluster.planner.placement import Site
from cluster.planner.sampled import SampledWorkload
from cluster.planner.search import disaggregated, score
from cluster.planner.slo import SLO
from cluster.planner.trial import Effort, Question, run_layout
from cluster.planner.workload import synthetic
from cluster.simulator.contract import Arrival
from cluster.simulator.world import simulate
from workers.spec import Role

PREFILL_BUDGET = 2048  # of the candidates that are looked at; shapes are what differs
# As DistServe ran: prompts whole, as many in a step as fit.
ENGINE = EngineConfig(max_batched_tokens=DISTSERVE_BATCHED_TOKENS, max_sequences=MAX_SEQUENCES, chunked_prefill=False)
EFFORT = Effort(min_requests=1200, max_requests=1500)  # fewer end before KV has filled up: 300 show 15 % more
NUM_SAMPLED = 2000
NUM_JOINT = 3  # pairs simulated jointly beside the published one
WORTH_A_LOOK = 0.7  # of the best found so far, per GPU: shapes below it are left out
JOINT_TOLERANCE = 0.02  # of a goodput
NODES = Site(num_nodes=1, devices_per_node=8, node_bandwidth=25e9 / 8, device_name="A100-80G")  # 25 Gbit/s, section 6.1
CHAT_OUTPUT = 200.3  # mean tokens of ShareGPT's outputs (figure 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    model: OptShape
    slo: SLO
    lengths: Shape
    prefill: Parallelism  # as published
    decode: Parallelism
    site: Site = NODES
    goodput_per_gpu: float | None = None  # as published; None: not


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    prefill: Candidate
    decode: Candidate
    goodput: float  # requests/s, simulated jointly; before that the smaller of the two phases'

    @property
    def degrees(self) -> tuple[Parallelism, Parallelism]:
        return self.prefill.shape.parallelism, self.decode.shape.parallelism

    @property
    def per_gpu(self) -> float:
        return self.goodput / (self.prefill.shape.num_devices + self.decode.shape.num_devices)

    def per_packed_gpu(self, site: Site) -> float:
        """Of nodes full of such units, idle GPUs included."""
        first, second = self.degrees
        size = first.num_devices + second.num_devices
        if size <= site.devices_per_node:
            return self.goodput * (site.devices_per_node // size) / site.devices_per_node
        side_by_side = site.devices_per_node // (first.tensor + second.tensor)
        return self.goodput * side_by_side / (first.pipeline * site.devices_per_node)

    def __str__(self) -> str:
        return f"prefill {_degrees(self.degrees[0])}, decode {_degrees(self.degrees[1])}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Goodputs simulated jointly; a published unit that serves nothing within the SLO has goodput 0."""

    case: Case
    published: Unit
    best: Unit  # by GPUs used
    best_packed: Unit

    @property
    def share(self) -> float:
        """Goodput per GPU of the published placement, over that of the best one found."""
        return self.published.per_gpu / self.best.per_gpu

    @property
    def packed_share(self) -> float:
        site = self.case.site
        return self.published.per_packed_gpu(site) / self.best_packed.per_packed_gpu(site)


def cases(sharegpt: Sequence[Arrival]) -> list[Case]:
    """On the nodes that each published placement takes.

    SLOs and placements: the paper's tables; the first case: simdistserve/README.md. Lengths of ShareGPT as in the
    measured runs, outputs stretched to the whole dataset's mean; mean lengths of HumanEval (171.3 and 98.2) and
    LongBench (1,738.3 and 90.7) from DistServe's figure 7, their spread assumed.
    """
    stretch = CHAT_OUTPUT * len(sharegpt) / sum(arrival.num_output_tokens for arrival in sharegpt)
    chat = Empirical(
        pairs=[(arrival.num_prompt_tokens, round(arrival.num_output_tokens * stretch)) for arrival in sharegpt]
    )
    code = Independent(
        prompt=Lognormal(mean=171.3, median=150, max_tokens=512), output=Lognormal(mean=98.2, median=80, max_tokens=512)
    )
    summaries = Independent(
        prompt=Lognormal(mean=1738.3, median=1715, max_tokens=1900),
        output=Lognormal(mean=90.7, median=75, max_tokens=140),
    )
    half, three = replace(NODES, devices_per_node=4), replace(NODES, num_nodes=3)
    one, two = Parallelism(), Parallelism(tensor=2)
    four, two_two = Parallelism(tensor=4), Parallelism(tensor=2, pipeline=2)
    return [
        Case(
            name="13B chat, README",
            model=OPT_13B,
            slo=SLO(ttft_s=0.2, tpot_s=0.1),
            lengths=chat,
            prefill=two,
            decode=one,
            site=half,
            goodput_per_gpu=1.56,
        ),
        Case(
            name="13B chat",
            model=OPT_13B,
            slo=SLO(ttft_s=0.25, tpot_s=0.1),
            lengths=chat,
            prefill=two,
            decode=one,
            site=half,
        ),
        Case(
            name="66B code",
            model=OPT_66B,
            slo=SLO(ttft_s=0.125, tpot_s=0.2),
            lengths=code,
            prefill=four,
            decode=two_two,
        ),
        Case(
            name="66B summarise",
            model=OPT_66B,
            slo=SLO(ttft_s=15, tpot_s=0.15),
            lengths=summaries,
            prefill=four,
            decode=two_two,
        ),
        Case(
            name="175B chat",
            model=OPT_175B,
            slo=SLO(ttft_s=4, tpot_s=0.2),
            lengths=chat,
            prefill=Parallelism(tensor=3, pipeline=3),
            decode=Parallelism(tensor=4, pipeline=3),
            site=three,
        ),
    ]


def judge(case: Case, costs: PublishedCosts) -> Verdict:
    question = _question(case, costs)
    phases = {
        role: _goodputs(question, role, published)
        for role, published in ((Role.PREFILL, case.prefill), (Role.DECODE, case.decode))
    }
    pairs = list(_units(phases, case.site))
    published = [unit for unit in pairs if unit.degrees == (case.prefill, case.decode)]
    if not published:
        raise ConfigError(f"{case.name}: no goodput for the published placement")
    orders: tuple[Callable[[Unit], float], ...] = (
        lambda unit: unit.per_gpu,
        lambda unit: unit.per_packed_gpu(case.site),
    )
    tops = [unit for order in orders for unit in sorted(pairs, key=order, reverse=True)[:NUM_JOINT]]
    joint = {unit.degrees: _simulated(question, unit) for unit in dict.fromkeys([*tops, *published])}
    return Verdict(
        case=case,
        published=joint[case.prefill, case.decode],
        best=max(joint.values(), key=orders[0]),
        best_packed=max(joint.values(), key=orders[1]),
    )


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


def _goodputs(question: Question, role: Role, published: Parallelism) -> list[tuple[Candidate, float]]:
    """Each shape's goodput; shapes whose bound is far behind the best are left out, the published one never."""
    options = Options(allow_pipeline=True, allow_sequence=False)
    candidates = [
        candidate
        for candidate in find(question, options, role).candidates
        if candidate.engine.max_batched_tokens == PREFILL_BUDGET
    ]
    candidates.sort(key=lambda candidate: -candidate.bound / candidate.shape.num_devices)
    best, found = 0.0, []
    for each in candidates:
        candidate = replace(each, engine=ENGINE)
        size = candidate.shape.num_devices
        is_published = candidate.shape.parallelism == published
        if candidate.bound > 0 and (is_published or candidate.bound / size > WORTH_A_LOOK * best):
            floor = 0.0 if is_published else WORTH_A_LOOK * best * size
            goodput = score(question, (candidate, floor)).goodput
            best = max(best, goodput / size)
            if goodput > 0:
                found.append((candidate, goodput))
    return found


def _units(phases: Mapping[Role, list[tuple[Candidate, float]]], site: Site) -> Iterator[Unit]:
    """Pairs whose KV stays inside nodes."""
    for prefill, prefill_goodput in phases[Role.PREFILL]:
        for decode, decode_goodput in phases[Role.DECODE]:
            first, second = prefill.shape.parallelism, decode.shape.parallelism
            in_one_node = first.num_devices + second.num_devices <= site.devices_per_node
            by_stage = first.pipeline == second.pipeline and first.pipeline <= site.num_nodes
            if in_one_node or (by_stage and first.tensor + second.tensor <= site.devices_per_node):
                yield Unit(prefill=prefill, decode=decode, goodput=min(prefill_goodput, decode_goodput))


def _simulated(question: Question, unit: Unit) -> Unit:
    layout = disaggregated(question, unit.prefill, unit.decode, (1, 1))
    if layout is None:
        return replace(unit, goodput=0.0)
    whole = replace(layout, within_node=True)
    goodput = highest_rate(
        lambda rate: run_layout(question, whole, rate).attainment,
        target=question.slo.attainment,
        guess=unit.goodput,
        tolerance=JOINT_TOLERANCE,
    )
    return replace(unit, goodput=goodput)


def _degrees(parallelism: Parallelism) -> str:
    return f"({parallelism.tensor},{parallelism.pipeline})"


def placement_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="DistServe's published placements, (TP, PP) of prefill and decode; goodput in req/s per GPU")
    for column in ("case", "published", "goodput", "best of ours", "goodput", "published / best"):
        table.add_column(column)
    table.add_column("best when packed into nodes")
    table.add_column("published / best")
    for verdict in verdicts:
        case, mine, best = verdict.case, verdict.published, verdict.best
        goodput = f"{mine.per_gpu:.2f}"
        if case.goodput_per_gpu is not None:
            goodput += f" (published {case.goodput_per_gpu:.2f})"
        table.add_row(
            *(case.name, str(mine), goodput, str(best), f"{best.per_gpu:.2f}", f"{verdict.share:.0%}"),
            *(str(verdict.best_packed), f"{verdict.packed_share:.0%}"),
        )
    return table
