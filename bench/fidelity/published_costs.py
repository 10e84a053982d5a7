"""Costs of OPT models on A100-80G as DistServe's released search has them: its fits, capacities and host time.

OPT-175B has no fits by degree: those of OPT-66B at the same TP are scaled by what both compute per token and device,
layers x hidden size squared, as their shapes are alike. (Its published per-stage times at TP3 PP3, scaled back, are
within 7 % for a prompt token.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from baton.errors import ConfigError
from bench.fidelity.distserve_systems import Published
from cluster.config.schema import EngineConfig
from cluster.contracts.latency import DraftModel, Parallelism, TransferModel
from cluster.contracts.overheads import Overheads
from cluster.planner.costs.coefficients import CoefficientLatency, DecodeFit, PrefillFit
from cluster.planner.costs.draft import DraftShape
from cluster.planner.costs.memory import MAX_MEMORY_SHARE, Footprint

DEVICE_BYTES = 80 << 30
HALF_BYTES = 2  # float16
MAX_POSITIONS = 2048
# Of each step, and of each token in it: the released simulator's overhead of Ray (simdistserve/base/worker.py). It lies
# on a pipeline's first stage; here on each, as the others wait for the slowest anyway.
HOST_STEP_S, HOST_TOKEN_S = 2e-3, 1e-7
NVLINK_BANDWIDTH = 300e9  # bytes/s from one A100 to its neighbours (NVIDIA's data sheet: 600 GB/s both ways)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptShape:
    name: str  # as in the published tables
    num_layers: int
    hidden: int
    fitted_as: str  # the model whose fits are scaled; its own name: none are
    early_tensor: frozenset[int]  # TP degrees in the earliest fits that were published, extra/worktime_v1.csv

    @property
    def work(self) -> int:
        return self.num_layers * self.hidden**2


# Zhang et al., OPT (2022), table 1.
OPT_13B = OptShape(
    name="facebook/opt-13b",
    num_layers=40,
    hidden=5120,
    fitted_as="facebook/opt-13b",
    early_tensor=frozenset({1, 2, 4}),
)
OPT_66B = OptShape(
    name="facebook/opt-66b", num_layers=64, hidden=9216, fitted_as="facebook/opt-66b", early_tensor=frozenset({2, 4})
)
OPT_175B = OptShape(
    name="facebook/opt-175b",
    num_layers=96,
    hidden=12288,
    fitted_as="facebook/opt-66b",
    early_tensor=frozenset({1, 2, 3, 4}),
)
_SHAPES = {shape.name: shape for shape in (OPT_13B, OPT_66B, OPT_175B)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """KV over NVLink, all ranks of the smaller side at once."""

    bandwidth: float

    def transfer_s(self, num_bytes: int) -> float:
        return num_bytes / self.bandwidth


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCosts:
    """See `cluster.planner.search.placement.Costs`; degrees without fits or capacity are not allowed."""

    shape: OptShape
    profile: Mapping[str, Any]
    capacity: Mapping[tuple[str, int, int], int]

    @classmethod
    def of(cls, shape: OptShape, published: Published) -> "PublishedCosts":
        return cls(shape=shape, profile=published.profiles["distserve"], capacity=published.capacity)

    @property
    def device_bytes(self) -> int:
        return DEVICE_BYTES

    @property
    def num_layers(self) -> int:
        return self.shape.num_layers

    @property
    def num_kv_layers(self) -> int:
        return self.shape.num_layers

    @property
    def token_bytes(self) -> int:
        return 2 * self.shape.num_layers * self.shape.hidden * HALF_BYTES

    @property
    def state_bytes(self) -> int:
        return 0

    @property
    def overheads(self) -> Overheads:
        return Overheads()

    @property
    def max_model_len(self) -> int:
        return MAX_POSITIONS

    def allows(self, parallelism: Parallelism) -> bool:
        has_fit = str(parallelism.tensor) in self.profile[self.shape.fitted_as]
        has_capacity = (self.shape.name, parallelism.tensor, parallelism.pipeline) in self.capacity
        return has_fit and has_capacity and parallelism.sequence == 1

    def footprint(self, parallelism: Parallelism, engine: EngineConfig) -> Footprint:
        """Such that what is left holds the published number of tokens; their runs measured it, activations included."""
        num_tokens = self.capacity[self.shape.name, parallelism.tensor, parallelism.pipeline]
        token_bytes = self.token_bytes / parallelism.num_devices
        used = DEVICE_BYTES * MAX_MEMORY_SHARE - (num_tokens + 1) * token_bytes
        return Footprint(weight_bytes=round(used), activation_bytes=0, token_bytes=token_bytes)

    def latency(self, parallelism: Parallelism) -> CoefficientLatency:
        fits = CoefficientLatency.from_profile(self.profile, self.shape.fitted_as, parallelism)
        return _hosted(_scaled(fits, self.shape.work / _SHAPES[self.shape.fitted_as].work))

    def transfer(self, source: Parallelism, target: Parallelism, *, within_node: bool) -> TransferModel:
        return Link(bandwidth=NVLINK_BANDWIDTH * min(source.num_devices, target.num_devices))

    def draft(self, target: Parallelism, shape: DraftShape) -> DraftModel:
        raise ConfigError(f"{shape}: the published tables know no draft models; ask for none")


def _scaled(fits: CoefficientLatency, factor: float) -> CoefficientLatency:
    if factor == 1:
        return fits
    prefill = fits.prefill
    return replace(
        fits,
        prefill=PrefillFit(
            base_s=prefill.base_s * factor,
            per_token_s=prefill.per_token_s * factor,
            per_square_s=prefill.per_square_s * factor,
        ),
        decode_small=_scaled_decode(fits.decode_small, factor),
        decode_large=_scaled_decode(fits.decode_large, factor),
    )


def _scaled_decode(fit: DecodeFit, factor: float) -> DecodeFit:
    return DecodeFit(
        base_s=fit.base_s * factor,
        per_context_s=fit.per_context_s * factor,
        per_sequence_s=fit.per_sequence_s * factor,
    )


def _hosted(fits: CoefficientLatency) -> CoefficientLatency:
    token_s = HOST_TOKEN_S * fits.pipeline_stages
    small, large = fits.decode_small, fits.decode_large
    return replace(
        fits,
        overhead_s=HOST_STEP_S,
        prefill=replace(fits.prefill, per_token_s=fits.prefill.per_token_s + token_s),
        decode_small=replace(small, per_context_s=small.per_context_s + token_s),
        decode_large=replace(large, per_context_s=large.per_context_s + token_s),
    )
