"""Costs of a model on the machine that `baton profile` measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config.schema import EngineConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import Parallelism
from cluster.contracts.overheads import Overheads
from cluster.planner.costs.draft import DraftShape, LayerParallelDraft
from cluster.planner.costs.fitted import FittedLatency, Profile
from cluster.planner.costs.memory import MAX_MEMORY_SHARE, Footprint
from cluster.planner.costs.transfer import Path
from workers.memory_shares import state_spacing

ACROSS_NODES = ("nccl", "gloo", "grpc")  # transports that reach another machine
PROBE_BYTES = 1 << 24  # transports are compared by what they take for so many


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCosts:
    """See `cluster.planner.search.placement.Costs`. Weights were in memory when it was measured: only KV and states are
    counted.

    `kv_bytes`: what each rank has for its blocks and slots. `draft_model`: one that was profiled; empty: none.
    """

    profile: Profile
    kv_bytes: int
    draft_model: str = ""
    draft_acceptance: DraftChances | None = None

    @property
    def device_bytes(self) -> int:
        return round(self.kv_bytes / MAX_MEMORY_SHARE)

    @property
    def num_layers(self) -> int:
        return self.profile.num_layers

    @property
    def num_kv_layers(self) -> int:
        return self.profile.num_layers

    @property
    def token_bytes(self) -> int:
        return self.profile.token_bytes

    @property
    def state_bytes(self) -> int:
        return self.profile.state_bytes

    @property
    def max_model_len(self) -> int:
        return self.profile.max_model_len

    @property
    def overheads(self) -> Overheads:
        return self.profile.overheads

    def allows(self, parallelism: Parallelism) -> bool:
        return str(parallelism) in self.profile.latencies

    def footprint(self, parallelism: Parallelism, engine: EngineConfig) -> Footprint:
        """Ranks that divide heads hold a share of KV and states; those that divide prompts hold all of it each."""
        spacing = state_spacing(engine, token_nbytes=self.token_bytes, state_nbytes=self.state_bytes)
        cached = self.state_bytes / spacing if spacing is not None else 0.0
        return Footprint(
            weight_bytes=0,
            activation_bytes=engine.max_sequences * self.state_bytes // parallelism.tensor,
            token_bytes=(self.token_bytes + cached) / parallelism.tensor,
        )

    def latency(self, parallelism: Parallelism) -> FittedLatency:
        return self.profile.latencies[str(parallelism)]

    def transport(self, *, within_node: bool) -> str | None:
        """The fastest that was measured, None without any."""
        paths: Mapping[str, Path] = self.profile.transfers
        usable = {name: path for name, path in paths.items() if within_node or name in ACROSS_NODES}
        return min(usable, key=lambda name: usable[name].transfer_s(PROBE_BYTES), default=None)

    def transfer(self, source: Parallelism, target: Parallelism, *, within_node: bool) -> Path:
        name = self.transport(within_node=within_node)
        assert name is not None, "nobody plans transfers where none was measured"
        return self.profile.transfers[name]

    def draft(self, target: Parallelism, shape: DraftShape) -> LayerParallelDraft:
        assert shape.layer_parallel == 1, "draft workers of several ranks were not profiled"
        assert self.draft_acceptance is not None, "drafts are asked for with what comes of them"
        return LayerParallelDraft(
            target=self.latency(target),
            draft=self.profile.drafts[self.draft_model],
            num_drafts=shape.num_drafts,
            acceptance=self.draft_acceptance,
            hop_s=self.profile.to_worker_s,  # a message to another process and its engine's turn, as measured
        )
