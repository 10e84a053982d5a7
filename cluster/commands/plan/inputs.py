"""What `baton plan` is asked, read and checked: costs, machines, requests, SLO."""

from dataclasses import dataclass

import numpy as np

from cluster.commands.cost_options import CostOptions
from cluster.commands.load.arrivals import read_requests
from cluster.commands.load.options import ArrivalOptions
from cluster.commands.plan.costs import read_costs
from cluster.commands.plan.options import MachineOptions, SearchOptions, SLOOptions
from cluster.config.schema import EngineConfig
from cluster.contracts.slo import SLO
from cluster.planner.costs.draft import DraftShape
from cluster.planner.load.sampled import SampledWorkload
from cluster.planner.search.candidates import Options
from cluster.planner.search.trial import Question

NUM_SYNTHETIC = 4000
DRAFTS = tuple(DraftShape(layer_parallel=degree, num_drafts=ahead) for degree in (1, 2, 4) for ahead in (2, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options as given."""

    model: str
    costs: CostOptions
    machines: MachineOptions
    load: ArrivalOptions
    slo: SLOOptions
    search: SearchOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    question: Question
    options: Options
    about: str  # where costs and requests come from, in a sentence
    notes: tuple[str, ...]
    device: str  # cuda | auto: for the plan's config
    transport: str  # kv.transport, likewise
    kv_dtype: str  # kv.dtype, likewise
    draft: str | None  # the model of draft workers


def read_inputs(asked: Asked) -> PlanInputs:
    """
    Raises:
        ConfigError: Options that contradict each other, a file that is wrong, an unknown name.
    """
    from cluster.simulator.world import simulate

    _check(asked)
    priced = read_costs(asked.model, asked.costs, asked.machines, asked.search)
    costs = priced.costs
    requests = read_requests(
        asked.load,
        num_synthetic=NUM_SYNTHETIC,
        seed=asked.search.seed,
        model=asked.model,
        max_model_len=costs.max_model_len,
        block_size=EngineConfig().block_size,
    )
    requests = requests.at_rate(asked.load.rate or requests.rate)
    arrivals = requests.arrivals
    question = Question(
        costs=costs,
        site=priced.site,
        workload=SampledWorkload(arrivals),
        slo=_slo(asked.slo),
        rate=requests.rate,
        simulate=simulate,
        mean_prompt=float(np.mean([arrival.num_prompt_tokens for arrival in arrivals])),
        mean_output=float(np.mean([arrival.num_output_tokens for arrival in arrivals])),
        max_request_tokens=max(arrival.num_prompt_tokens + arrival.num_output_tokens for arrival in arrivals),
        seed=asked.search.seed,
    )
    search = asked.search
    return PlanInputs(
        question=question,
        options=Options(
            allow_pipeline=search.allow_pp,
            runnable_only=not search.hypothetical,
            drafts=tuple(shape for shape in DRAFTS if shape.layer_parallel <= priced.max_layer_parallel),
            colocated_because=priced.colocated_because,
        ),
        about=f"{asked.model} on {priced.source}; {requests.described}",
        notes=requests.notes,
        device=priced.device,
        transport=priced.transport,
        kv_dtype=priced.kv_dtype,
        draft=search.draft,
    )


def _check(asked: Asked) -> None:
    asked.costs.check()
    asked.machines.check(asked.costs)
    asked.load.check()
    asked.slo.check()
    asked.search.check(asked.costs)


def _slo(options: SLOOptions) -> SLO:
    return SLO(ttft_s=options.slo_ttft / 1e3, tpot_s=options.slo_tpot / 1e3, attainment=options.attainment)
