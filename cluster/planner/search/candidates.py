"""The workers that a phase may be made of: those that fit memory and, alone and idle, meet the SLO.

Each comes with a bound on its goodput from closed forms (see `goodput`), so that the search simulates the promising
ones first and never those that cannot win.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from cluster.config.schema import EngineConfig
from cluster.contracts.latency import LatencyModel, Parallelism
from cluster.planner.costs.draft import DraftShape
from cluster.planner.costs.drafted import Drafted
from cluster.planner.costs.memory import MemoryFit, fit
from cluster.planner.search import goodput
from cluster.planner.search.placement import Costs, WorkerShape, parallelisms
from cluster.planner.search.trial import Question
from workers.spec import Role

PREFILL_BUDGETS = (2048, 8192, 16384)
MIXED_BUDGETS = (512, 1024, 2048, 4096, 8192)  # 512 and 2,048: Sarathi-Serve's strict and relaxed
WHOLE_PROMPT_BUDGET = 8192  # of the co-located alternative that does not chunk
MAX_SEQUENCES = 1024
NUM_SAMPLED = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`colocated_because`: why KV cannot move here, so that one pool is all there is; empty: it can."""

    allow_pipeline: bool = False
    allow_sequence: bool = True
    runnable_only: bool = False
    drafts: tuple[DraftShape, ...] = ()
    colocated_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One worker of a phase: MIXED is both. `shape.bound` is 0 when it misses the SLO idle.

    `engine` holds the budget and the number of sequences that it is to run with.
    """

    shape: WorkerShape
    engine: EngineConfig
    idle_ttft_s: float = 0.0  # of the share of prompts that must meet the SLO
    idle_tpot_s: float = 0.0

    @property
    def bound(self) -> float:
        return self.shape.bound

    @property
    def role(self) -> Role:
        return self.shape.role

    @property
    def is_runnable(self) -> bool:
        """Whether the runtime of this version can start such a worker."""
        return self.shape.parallelism.runs_as(self.role)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Lengths of the workload, and what follows from them. Cached prefixes are not read: at most so many."""

    prompts: Sequence[int]
    uncached: Sequence[int]
    outputs: Sequence[int]

    @classmethod
    def of(cls, question: Question) -> "Sample":
        arrivals = question.workload.arrivals(rate=question.rate, num_requests=NUM_SAMPLED, seed=question.seed)
        seen: set[int] = set()
        uncached = []
        for arrival in arrivals:
            hits = 0
            while hits < len(arrival.block_hashes) and arrival.block_hashes[hits] in seen:
                hits += 1
            seen.update(arrival.block_hashes)
            uncached.append(max(arrival.num_prompt_tokens - hits * EngineConfig().block_size, 1))
        return cls(
            prompts=[arrival.num_prompt_tokens for arrival in arrivals],
            uncached=uncached,
            outputs=[arrival.num_output_tokens for arrival in arrivals],
        )

    @cached_property
    def mean_context(self) -> float:
        """Of a sequence in a decode batch, over time: long answers are there for longer."""
        prompts, outputs = np.asarray(self.prompts, float), np.asarray(self.outputs, float)
        return float(np.sum(outputs * (prompts + outputs / 2)) / np.sum(outputs))

    @cached_property
    def mean_output(self) -> float:
        return float(np.mean(self.outputs))

    @cached_property
    def mean_uncached(self) -> float:
        return float(np.mean(self.uncached))

    @cached_property
    def longest_stay(self) -> float:
        """Blocks are held for prompt and, on average, half the answer."""
        return float(np.mean(self.prompts)) + self.mean_output / 2


@dataclass(slots=True, kw_only=True)
class FoundCandidates:
    """Attributes:
    too_large: Fits of the degrees that no device holds.
    """

    candidates: list[Candidate] = field(default_factory=list)
    too_large: list[tuple[Parallelism, MemoryFit]] = field(default_factory=list)

    @property
    def promising(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.bound > 0]


def find(question: Question, options: Options, role: Role) -> FoundCandidates:
    """Every candidate of a role; those that miss the SLO idle have bound 0."""
    found = FoundCandidates()
    if options.colocated_because and role is not Role.MIXED:
        return found
    sample = Sample.of(question)
    allow_sequence = options.allow_sequence and role is Role.PREFILL
    drafts = (None, *options.drafts) if role is not Role.PREFILL else (None,)
    for degrees in parallelisms(
        question.site,
        question.costs,
        allow_pipeline=options.allow_pipeline,
        allow_sequence=allow_sequence,
        runnable_as=role if options.runnable_only else None,
    ):
        for draft in drafts:
            latency = _latency(question.costs, degrees, draft)
            for wanted in _engines(question, role, latency, sample):
                engine, (fitted,) = with_room(question, (degrees,), wanted)
                if not fitted.fits:
                    found.too_large.append((degrees, fitted))
                    continue
                shape = WorkerShape(role=role, parallelism=degrees, fit=fitted, draft=draft)
                found.candidates.append(_bounded(question, shape, engine, latency, sample))
    return found


def with_room(
    question: Question, degrees: Sequence[Parallelism], engine: EngineConfig
) -> tuple[EngineConfig, list[MemoryFit]]:
    """Workers of these degrees under one engine's settings.

    With as many sequences as it has, or half, or a quarter, ... where states of so many are too much for a device.
    """
    while True:
        fits = [fit_worker(question, one, engine) for one in degrees]
        if all(one.fits for one in fits) or not question.costs.state_bytes or engine.max_sequences == 1:
            return engine, fits
        engine = replace(engine, max_sequences=engine.max_sequences // 2)


def fit_worker(question: Question, degrees: Parallelism, engine: EngineConfig) -> MemoryFit:
    return fit(
        question.costs.footprint(degrees, engine),
        device_bytes=question.costs.device_bytes,
        block_size=engine.block_size,
        max_request_tokens=question.max_request_tokens,
    )


def _latency(costs: Costs, degrees: Parallelism, draft: DraftShape | None) -> LatencyModel:
    latency = costs.latency(degrees)
    return latency if draft is None else Drafted(latency, costs.draft(degrees, draft))


def _engines(question: Question, role: Role, latency: LatencyModel, sample: Sample) -> Iterator[EngineConfig]:
    """Budgets to try, each with as many sequences as a step within TPOT advances, and a quarter more."""
    batch = goodput.saturated_decode_batch(
        latency,
        mean_context=sample.mean_context,
        tpot_s=question.slo.tpot_s,
        max_batch=max(MAX_SEQUENCES // latency.pipeline_stages, 1),
    )
    wanted = round(1.25 * batch * latency.pipeline_stages)
    num_sequences = min(max(1 << (wanted - 1).bit_length() if wanted else 0, 16), MAX_SEQUENCES)
    if role is Role.DECODE:
        yield EngineConfig(max_batched_tokens=PREFILL_BUDGETS[0], max_sequences=num_sequences)
        return
    for budget in PREFILL_BUDGETS if role is Role.PREFILL else MIXED_BUDGETS:
        yield EngineConfig(max_batched_tokens=budget, max_sequences=min(num_sequences, budget // 2))
    if role is Role.MIXED:
        yield EngineConfig(max_batched_tokens=WHOLE_PROMPT_BUDGET, max_sequences=num_sequences, chunked_prefill=False)


def _bounded(
    question: Question, shape: WorkerShape, engine: EngineConfig, latency: LatencyModel, sample: Sample
) -> Candidate:
    slo = question.slo
    candidate = Candidate(shape=shape, engine=engine)
    rates = []
    if shape.role is not Role.DECODE:
        budget = engine.max_batched_tokens if engine.chunked_prefill else max(sample.prompts)
        alone_s = [goodput.prompt_s(latency, length, budget) for length in sample.uncached]
        ttft_s = float(np.percentile(alone_s, 100 * slo.attainment, method="lower"))
        candidate = replace(candidate, idle_ttft_s=ttft_s)
        rates.append(goodput.saturated_prefill_rate(latency, sample.uncached, engine.max_batched_tokens))
        rates[-1] *= ttft_s <= slo.ttft_s
    if shape.role is not Role.PREFILL:
        tpot_s = latency.step_s((), 1, round(sample.mean_context))
        candidate = replace(candidate, idle_tpot_s=tpot_s)
        rates.append(_writing_rate(question, shape, engine, latency, sample))
        rates[-1] *= tpot_s <= slo.tpot_s
    return replace(candidate, shape=replace(shape, bound=min(rates)))


def _writing_rate(
    question: Question, shape: WorkerShape, engine: EngineConfig, latency: LatencyModel, sample: Sample
) -> float:
    """At the largest batch that step time, blocks and `max_sequences` allow."""
    in_blocks = int(shape.fit.num_blocks * engine.block_size / sample.longest_stay)
    max_batch = max(min(engine.max_sequences, in_blocks), 1)
    mean_context, mean_output, tpot_s = sample.mean_context, sample.mean_output, question.slo.tpot_s
    if shape.role is Role.DECODE:
        return goodput.saturated_decode_rate(
            latency, mean_context=mean_context, mean_output=mean_output, tpot_s=tpot_s, max_batch=max_batch
        )
    return goodput.saturated_mixed_rate(
        latency,
        mean_prompt=sample.mean_uncached,
        mean_context=mean_context,
        mean_output=mean_output,
        tpot_s=tpot_s,
        max_batch=max_batch,
        budget=engine.max_batched_tokens,
        is_chunked=engine.chunked_prefill,
    )
