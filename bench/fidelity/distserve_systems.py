"""The two measured systems as simulated clusters: the published fits, plus what those leave out.

What the systems did, beyond the fits (sources in DistServe's repository, github.com/LLMServe/DistServe, 2024):

* Their benchmark started vLLM with prompts whole and before decodes, 65,536 batched tokens, 1,024 sequences.
* DistServe's decode loop stands still while it pulls a request's KV, one request after another: `receive_token_s`.
* With decode stages, its engine looks for new requests when a batch comes back from the last stage, and adds them to
  the batch that goes next (single_stage_engine.py, decoding_stage_scheduler.py). While one batch holds all that run, it
  is always the next one: the others get work by a coincidence of events alone. In c21d12-600-6 that took 28 s, in
  c21d12-1000-10 it had not come when KV ran out after 49 s; until then both took the time of one batch through both
  stages (within 10 %), later that of two. Afterwards new requests fell to both alike. So `open_after_s`.
* A decode stage pulls KV between steps: those that fly come home first.
* Both do host work for each sequence of a decode step (detokenizing, messages to Ray workers): `sequence_s`. In vLLM's
  runs the first tokens of prompts read by one step are 0.36 ms apart, in every run.

The runs of vLLM are of two servers. The three that began within 13 minutes of each other batched 66 times more than one
prompt, and the padding to the longest never passed 256 tokens, as vLLM 0.2 and 0.3 have it; in the two that began over
an hour later 13 of 21 batches pass that, up to 1,405 tokens, so that was a vLLM which padded no more. Between prompts
that waited for each other lie 20.6 ms + 0.127 ms a token in the early ones and 23.8 + 0.140 in the late ones; a decode
step is 4 to 5 ms longer. So there are constants for each server (`vllm_server` tells which), and one set for all runs
of vLLM as if they were one, which is up to 7 points off; with the other server's constants a run is 4 to 16 off.

Each set of constants is fitted on its runs of FITTED_RUNS alone by `python -m bench.planner_fidelity --fit`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.fidelity.distserve_runs import DistserveRun, read_capacity, read_profile
from cluster.config.schema import EngineConfig, KVConfig, RouterConfig
from cluster.contracts.latency import Parallelism
from cluster.contracts.simulation import Pipelining, SimCluster, SimPool
from cluster.planner.costs.coefficients import CoefficientLatency, DecodeFit, PrefillFit
from workers.spec import Role

MODEL = "facebook/opt-13b"
BLOCK_SIZE = 16
MAX_SEQUENCES = 1024
VLLM_BATCHED_TOKENS = 65536  # --max-num-batched-tokens of their benchmark
DISTSERVE_BATCHED_TOKENS = 32768  # --context-max-tokens-per-batch of their benchmark
VLLM_BLOCKS = 3524  # most that its running requests ever held (vllm-400-4); its profiling run takes what is missing
NO_LIMIT = 1 << 20  # neither system refused or gave up a request

# The first, third, fifth, ... of a system's runs in order of rate, then of number of requests: so the lightest is one
# of them, which shows costs that no queue hides.
FITTED_RUNS = frozenset(
    {
        *("vllm-100-1", "vllm-200-2", "vllm-400-4"),
        *("distserve-c21d11-300-3", "distserve-c21d11-300-6", "distserve-c21d11-750-7.5"),
        *("distserve-c21d11-300-10.5", "distserve-c21d11-300-12"),
        "distserve-c21d12-600-6",  # for `open_after_s` alone
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What is added to a system's published fits; below 0 where its server was faster than the published one."""

    ingress_s: float  # client to engine, and again back
    prefill_scale: float = 1.0  # of the published prefill's slope
    prefill_step_s: float  # of each step with prompts
    decode_step_s: float  # of each step of decodes
    sequence_s: float  # of each sequence in a step of decodes
    receive_token_s: float = 0.0  # by one device; several take in their shares at once
    open_after_s: float = 0.0  # see `Pipelining`


CONSTANTS: Mapping[str, Constants] = {  # by system, and by server where it is `server` of a run
    "vllm": Constants(
        ingress_s=0.003875, prefill_scale=0.945, prefill_step_s=0.0002, decode_step_s=0.0005, sequence_s=0.00035
    ),
    "vllm-early": Constants(
        ingress_s=0.0015, prefill_scale=0.83, prefill_step_s=0.0015, decode_step_s=0.00002, sequence_s=0.00045
    ),
    "vllm-late": Constants(
        ingress_s=0.00475, prefill_scale=0.98, prefill_step_s=0.0013, decode_step_s=0.0038, sequence_s=0.00043
    ),
    "distserve": Constants(
        ingress_s=0.00225,
        prefill_scale=0.94,
        prefill_step_s=0.00425,
        decode_step_s=0.00085,
        sequence_s=0.00015,
        receive_token_s=10.45e-6,
        open_after_s=28.0,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the folder says of the hardware: fits by system, and KV capacity in tokens."""

    profiles: Mapping[str, Mapping[str, Any]]
    capacity: Mapping[tuple[str, int, int], int]

    @classmethod
    def read(cls, folder: Path) -> "Published":
        profiles = {system: read_profile(folder, system) for system in ("vllm", "distserve")}
        return cls(profiles=profiles, capacity=read_capacity(folder))


def sim_cluster(run: DistserveRun, published: Published, constants: Constants) -> SimCluster:
    """The placement that `run` was measured on."""
    if run.decode is None:
        pools = [_pool(Role.MIXED, run.system, run.prefill, published, constants)]
        num_tokens = VLLM_BATCHED_TOKENS
    else:
        pools = [
            _pool(Role.PREFILL, run.system, run.prefill, published, constants),
            _pool(Role.DECODE, run.system, run.decode, published, constants),
        ]
        num_tokens = DISTSERVE_BATCHED_TOKENS
    return SimCluster(
        pools=pools,
        engine=EngineConfig(
            block_size=BLOCK_SIZE,
            max_batched_tokens=num_tokens,
            max_sequences=MAX_SEQUENCES,
            prefix_cache=False,
            chunked_prefill=False,
        ),
        router=RouterConfig(
            max_queue=NO_LIMIT, max_running=NO_LIMIT, disaggregate_over_tokens=0, request_timeout_s=NO_LIMIT
        ),
        kv=KVConfig(lease_s=NO_LIMIT, max_pending=NO_LIMIT, push="bulk"),
        ingress_s=constants.ingress_s,
    )


def _pool(role: Role, system: str, degrees: Parallelism, published: Published, constants: Constants) -> SimPool:
    fits = CoefficientLatency.from_profile(published.profiles[system], MODEL, degrees)
    capacity = published.capacity[MODEL, degrees.tensor, degrees.pipeline] // BLOCK_SIZE
    is_prefill = role is Role.PREFILL
    return SimPool(
        role=role,
        num_workers=1,
        latency=calibrated(fits, constants),
        num_blocks=min(capacity, VLLM_BLOCKS) if system == "vllm" else capacity,
        receive_token_s=constants.receive_token_s / degrees.num_devices if role is Role.DECODE else 0.0,
        pipelining=Pipelining(
            host_step_s=constants.prefill_step_s if is_prefill else constants.decode_step_s,
            host_sequence_s=0.0 if is_prefill else constants.sequence_s,
            join="lot",
            open_after_s=constants.open_after_s,
            in_turns=True,
        ),
    )


def calibrated(fits: CoefficientLatency, constants: Constants) -> CoefficientLatency:
    """`fits` with the constants in them."""
    return replace(
        fits,
        prefill=PrefillFit(
            base_s=fits.prefill.base_s + constants.prefill_step_s,
            per_token_s=fits.prefill.per_token_s * constants.prefill_scale,
            per_square_s=fits.prefill.per_square_s * constants.prefill_scale,
        ),
        decode_small=_decode(fits.decode_small, constants),
        decode_large=_decode(fits.decode_large, constants),
    )


def _decode(fit: DecodeFit, constants: Constants) -> DecodeFit:
    return replace(
        fit,
        base_s=fit.base_s + constants.decode_step_s,
        per_sequence_s=fit.per_sequence_s + constants.sequence_s,
    )
