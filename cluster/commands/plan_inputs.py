"""What `baton plan` is asked, read and checked: costs, machines, requests, SLO."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baton.errors import ConfigError
from cluster.commands.synthetic_load import INPUT_LEN, OUTPUT_LEN, check_rate, synthetic_arrivals
from cluster.config import EngineConfig
from cluster.planner import workload
from cluster.planner.candidates import Options
from cluster.planner.placement import Costs, DraftShape, Site
from cluster.planner.sampled import SampledWorkload
from cluster.planner.slo import SLO
from cluster.planner.trial import Question
from cluster.simulator.contract import Arrival
from cluster.trace_file import read_trace

NUM_SYNTHETIC = 4000
DRAFTS = tuple(DraftShape(layer_parallel=degree, num_drafts=ahead) for degree in (1, 2, 4) for ahead in (2, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options as given; None where not."""

    model: str
    hardware: str | None = None
    profile: Path | None = None
    kv_memory: str = "1GiB"
    nodes: int = 1
    gpus_per_node: int | None = None
    price: float | None = None  # US$ per device and hour
    trace: Path | None = None
    limit: int | None = None
    clip: bool = False
    rate: float | None = None
    input_len: int | None = None
    output_len: int | None = None
    gap_cv: float | None = None
    slo_ttft_ms: float = 500.0
    slo_tpot_ms: float = 50.0
    attainment: float = 0.9
    allow_pp: bool = False
    runnable_only: bool = False
    draft: str | None = None
    draft_acceptance: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    question: Question
    options: Options
    about: str  # where costs and requests come from, in a sentence
    notes: list[str]
    device: str  # cuda | auto: for the plan's config
    transport: str  # kv.transport, likewise


def read_inputs(asked: Asked) -> Inputs:
    """
    Raises:
        ConfigError: Options that contradict each other, a file that is wrong, an unknown name.
    """
    from cluster.simulator.world import simulate

    _check(asked)
    slo = SLO(ttft_s=asked.slo_ttft_ms / 1e3, tpot_s=asked.slo_tpot_ms / 1e3, attainment=asked.attainment)
    costs, site, transport, source = _profiled(asked) if asked.profile is not None else _specified(asked)
    notes: list[str] = []
    arrivals, requests = _arrivals(asked, costs, notes)
    question = Question(
        costs=costs,
        site=site,
        workload=SampledWorkload(arrivals),
        slo=slo,
        rate=workload.mean_rate(arrivals),
        simulate=simulate,
        mean_prompt=float(np.mean([arrival.num_prompt_tokens for arrival in arrivals])),
        mean_output=float(np.mean([arrival.num_output_tokens for arrival in arrivals])),
        max_request_tokens=max(arrival.num_prompt_tokens + arrival.num_output_tokens for arrival in arrivals),
        seed=asked.seed,
    )
    return Inputs(
        question=question,
        options=Options(
            allow_pipeline=asked.allow_pp, runnable_only=asked.runnable_only, drafts=DRAFTS if asked.draft else ()
        ),
        about=f"{asked.model} on {source}; {requests}",
        notes=notes,
        device="auto" if asked.profile is not None else "cuda",
        transport=transport,
    )


def _check(asked: Asked) -> None:
    if (asked.profile is None) is (asked.hardware is None):
        given = "both were given" if asked.profile is not None else "neither was given"
        raise ConfigError(f"--hardware NAME or --profile FILE: {given}; give one of them")
    check_rate(asked.rate, asked.trace)
    if asked.trace is None:
        for flag, is_given in (("--limit", asked.limit is not None), ("--clip", asked.clip)):
            if is_given:
                raise ConfigError(f"{flag} is for a trace; give --trace too, or leave it out")
    else:
        for flag, value in (
            ("--input-len", asked.input_len),
            ("--output-len", asked.output_len),
            ("--gap-cv", asked.gap_cv),
        ):
            if value is not None:
                raise ConfigError(f"{flag} {value:g} is for synthetic requests, --trace has its own; leave one out")
    _check_draft(asked)


def _check_draft(asked: Asked) -> None:
    if (asked.draft is None) is not (asked.draft_acceptance is None):
        raise ConfigError("--draft MODEL and --draft-acceptance SHARE go together; give both or neither")
    if asked.draft_acceptance is not None and not 0 <= asked.draft_acceptance <= 1:
        raise ConfigError(f"--draft-acceptance {asked.draft_acceptance:g} must be a share in [0, 1], for example 0.7")
    if asked.draft is not None and asked.profile is not None:
        raise ConfigError(
            f"--draft {asked.draft}: profiles hold no layer-parallel drafts; give --hardware, or no draft"
        )
    if asked.draft is not None and asked.runnable_only:
        raise ConfigError(f"--draft {asked.draft}: this version starts no draft workers; leave out --runnable-only")


def _specified(asked: Asked) -> tuple[Costs, Site, str, str]:
    from cluster.model_file import read_model_spec
    from cluster.planner.devices import known_device
    from cluster.planner.spec_costs import SpecCosts

    assert asked.hardware is not None
    device = known_device(asked.hardware)
    costs = SpecCosts(
        model=read_model_spec(asked.model),
        device=device,
        draft_model=read_model_spec(asked.draft) if asked.draft else None,
        draft_acceptance=asked.draft_acceptance or 0.0,
    )
    per_node = asked.gpus_per_node or 8
    site = Site(
        num_nodes=asked.nodes,
        devices_per_node=per_node,
        node_bandwidth=per_node * device.network_bandwidth * device.efficiency.link,
        device_name=device.name,
        device_price_per_h=asked.price if asked.price is not None else device.price_per_h,
    )
    return costs, site, "auto", f"{device.name} by its data sheet"


def _profiled(asked: Asked) -> tuple[Costs, Site, str, str]:
    from cluster.config_load import loads
    from cluster.planner.fitted import Profile
    from cluster.planner.profile_costs import ProfileCosts

    path = asked.profile
    assert path is not None
    if asked.gpus_per_node is None:
        raise ConfigError("--gpus-per-node is needed with --profile: how many workers one machine holds, for example 2")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"--profile {path} cannot be read: {reason}; make one with `baton profile`") from error
    profile = Profile.from_text(text, f"--profile {path}")
    profile.check_model(asked.model)
    costs = ProfileCosts(profile=profile, kv_bytes=loads(f"engine: {{memory: {asked.kv_memory}}}").engine.memory_bytes)
    transport = costs.transport(within_node=asked.nodes == 1)
    site = Site(
        num_nodes=asked.nodes,
        devices_per_node=asked.gpus_per_node,
        node_bandwidth=profile.transfers[transport].bandwidth,
        device_name="worker",
        device_price_per_h=asked.price,
    )
    return costs, site, transport, f"{profile.machine}, as profiled in {path.name}"


def _arrivals(asked: Asked, costs: Costs, notes: list[str]) -> tuple[list[Arrival], str]:
    rng = np.random.default_rng(asked.seed)
    block_size = EngineConfig().block_size
    if asked.trace is not None:
        rows = read_trace(asked.trace, limit=asked.limit)
        arrivals = workload.from_trace(rows, block_size=block_size, rng=rng)
        arrivals = workload.rescale(arrivals, asked.rate or workload.mean_rate(arrivals))
        described = f"{len(arrivals)} requests of {asked.trace.name}"
    else:
        assert asked.rate is not None
        prompt, output = asked.input_len or INPUT_LEN, asked.output_len or OUTPUT_LEN
        arrivals = synthetic_arrivals(
            rate=asked.rate,
            num_requests=NUM_SYNTHETIC,
            input_len=prompt,
            output_len=output,
            gap_cv=asked.gap_cv,
            rng=rng,
        )
        arrivals = workload.rescale(arrivals, asked.rate)
        described = f"synthetic requests of {prompt} + {output} tokens on average"
    return _fitted(asked, arrivals, costs.max_model_len, notes), described


def _fitted(asked: Asked, arrivals: list[Arrival], limit: int, notes: list[str]) -> list[Arrival]:
    """Synthetic lengths are drawn, so they are cut in any case; a trace's only when told to."""
    fitted, num_cut = workload.clip(arrivals, limit, block_size=EngineConfig().block_size)
    if num_cut and asked.trace is not None and not asked.clip:
        raise ConfigError(
            f"--trace {asked.trace}: {num_cut} of {len(arrivals)} requests exceed {asked.model}'s context of {limit} "
            "tokens; give --clip to cut them, or a model with a longer context"
        )
    if num_cut:
        notes.append(f"{num_cut} of {len(fitted)} requests were cut to the context of {limit} tokens")
    return fitted
