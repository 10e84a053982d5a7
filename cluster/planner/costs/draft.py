"""Draft rounds: a small model proposes tokens, the target verifies them all in one step.

The drafting is EasySpec's (layer-parallel): the ranks compute the attentions of neighbouring layers at once, the
feed-forward parts one after another on every rank. First and last layer run alone. Each round begins with one exact
pass of what was accepted, which gives the first draft too.
"""

from dataclasses import dataclass
from typing import Self

from baton.errors import ConfigError
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import LatencyModel, Parallelism, PromptChunk
from cluster.planner.costs.devices import DeviceSpec
from cluster.planner.costs.roofline import RooflineLatency
from cluster.planner.models.model_spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftShape:
    """A draft worker for each decode worker: `layer_parallel` devices, `num_drafts` tokens ahead."""

    layer_parallel: int
    num_drafts: int

    def __str__(self) -> str:
        return f"draft lp{self.layer_parallel} k{self.num_drafts}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParallelDraft:
    """See `cluster.contracts.latency.DraftModel`.

    `acceptance` is as measured with this `layer_parallel`: stale attention inputs cost some of it.
    """

    target: LatencyModel
    draft: LatencyModel  # of one rank that computes every layer
    num_drafts: int
    acceptance: DraftChances
    layer_parallel: int = 1
    parallel_share: float = 0.0  # of the draft's step: attention of the layers that are computed in groups
    num_groups: int = 0
    gather_s: float = 0.0  # after each group
    hop_s: float = 0.0  # between target and draft worker, one way

    def __post_init__(self) -> None:
        if self.num_drafts < 1:
            raise ConfigError(f"num_drafts {self.num_drafts} must be 1 or more")
        if self.layer_parallel < 1:
            raise ConfigError(f"layer_parallel {self.layer_parallel} must be 1 or more")

    @classmethod
    def from_specs(
        cls,
        *,
        target: LatencyModel,
        model: ModelSpec,
        device: DeviceSpec,
        layer_parallel: int,
        num_drafts: int,
        acceptance: DraftChances,
    ) -> Self:
        """The draft `model` on `layer_parallel` devices; attention's share of a step is that of its parameters."""
        grouped = model.layers[1:-1]
        attention = sum(layer.attention.num_parameters for layer in grouped)
        read = model.head_parameters + sum(layer.num_active for layer in model.layers)
        return cls(
            target=target,
            draft=RooflineLatency.of(model, device, Parallelism()),
            num_drafts=num_drafts,
            acceptance=acceptance,
            layer_parallel=layer_parallel,
            parallel_share=attention / read,
            num_groups=-(-len(grouped) // layer_parallel) if layer_parallel > 1 else 0,
            gather_s=device.efficiency.all_reduce_s,
            hop_s=device.link_latency_s,
        )

    def round_s(self, num_sequences: int, num_context: int) -> float:
        if not num_sequences:
            return 0.0
        chunk = PromptChunk(self.num_drafts + 1, num_context // num_sequences)
        chunks = (chunk,) * num_sequences
        plain_s = self.draft.step_s((), num_sequences, num_context)
        saved = self.parallel_share * (1 - 1 / self.layer_parallel)
        drafted_s = plain_s * (1 - saved) + self.num_groups * self.gather_s
        exact_s = self.draft.step_s(chunks, 0, 0)
        verify_s = self.target.step_s(chunks, 0, 0)
        return exact_s + (self.num_drafts - 1) * drafted_s + verify_s + 2 * self.hop_s

    def tokens_per_round(self) -> float:
        """With one chance a for all places 1 + a + ... + a^k: Leviathan et al., ICML 2023, equation 1."""
        return 1 + self.acceptance.expected(self.num_drafts)
