"""Costs of a model on a kind of device, from their specs: memory here, times by the roofline."""

from dataclasses import dataclass

from cluster.config.schema import EngineConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import Parallelism
from cluster.contracts.overheads import Overheads
from cluster.planner.costs.devices import DeviceSpec
from cluster.planner.costs.draft import DraftShape, LayerParallelDraft
from cluster.planner.costs.memory import Footprint
from cluster.planner.costs.roofline import RooflineLatency
from cluster.planner.costs.transfer import Path, path_between
from cluster.planner.models.model_spec import ModelSpec
from workers.memory_shares import state_spacing

LOGIT_BYTES = 4  # float32, as the sampler takes them
INGRESS_S = 5e-4  # caller to worker and back, each way: what `baton profile` finds on a small CPU machine


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecCosts:
    """See `cluster.planner.search.placement.Costs`."""

    model: ModelSpec
    device: DeviceSpec
    draft_model: ModelSpec | None = None
    draft_acceptance: DraftChances | None = None

    @property
    def device_bytes(self) -> int:
        return self.device.memory_bytes

    @property
    def num_layers(self) -> int:
        return self.model.num_layers

    @property
    def num_kv_layers(self) -> int:
        return self.model.num_kv_layers

    @property
    def token_bytes(self) -> int:
        return self.model.kv_bytes_per_token

    @property
    def state_bytes(self) -> int:
        return self.model.state_bytes

    @property
    def max_model_len(self) -> int:
        return self.model.max_model_len

    @property
    def overheads(self) -> Overheads:
        return Overheads(ingress_s=INGRESS_S)

    def allows(self, parallelism: Parallelism) -> bool:
        return self.model.allows_tensor_parallel(parallelism.tensor)

    def footprint(self, parallelism: Parallelism, engine: EngineConfig) -> Footprint:
        """Of the fullest rank: the pipeline stage with most layers and an embedding, if there are stages."""
        model, tensor = self.model, parallelism.tensor
        layer_share = -(-model.num_layers // parallelism.pipeline) / model.num_layers
        num_embeddings = 1 if model.tied or parallelism.pipeline > 1 else 2
        outside = num_embeddings * model.head_parameters + model.extra_parameters
        weights = sum(model.layer_weight_bytes(layer) for layer in model.layers) * layer_share
        weights += outside * model.weights.outside
        kv_bytes = model.kv_bytes_per_token * model.num_kv_copies(tensor) * layer_share
        states = model.state_bytes * layer_share / tensor * engine.max_sequences
        spacing = state_spacing(engine, token_nbytes=model.kv_bytes_per_token, state_nbytes=model.state_bytes)
        if spacing is not None:  # states that the prefix cache keeps beside the blocks
            kv_bytes += model.state_bytes * layer_share / spacing
        return Footprint(
            weight_bytes=round(weights / tensor),
            activation_bytes=round(states + self._step_bytes(engine, tensor)),
            token_bytes=kv_bytes / tensor,  # ranks that divide prompts hold all of it each
        )

    def _step_bytes(self, engine: EngineConfig, tensor: int) -> float:
        """Residual, normalised input, attention's in- and output; a feed-forward layer's two inner vectors; logits."""
        model = self.model
        widest = max(layer.feed_forward.num_active for layer in model.layers)
        inner = widest / (3 * model.hidden_size)
        per_token = (4 * model.hidden_size + 2 * inner / tensor) * model.element_bytes
        logits = engine.max_sequences * model.vocab_size / tensor * LOGIT_BYTES
        return engine.max_batched_tokens * per_token + logits

    def latency(self, parallelism: Parallelism) -> RooflineLatency:
        return RooflineLatency.of(self.model, self.device, parallelism)

    def transfer(self, source: Parallelism, target: Parallelism, *, within_node: bool) -> Path:
        return path_between(self.device, source, target, within_node=within_node)

    def draft(self, target: Parallelism, shape: DraftShape) -> LayerParallelDraft:
        assert self.draft_model is not None, "drafts are asked for with a draft model alone"
        assert self.draft_acceptance is not None, "likewise"
        return LayerParallelDraft.from_specs(
            target=self.latency(target),
            model=self.draft_model,
            device=self.device,
            layer_parallel=shape.layer_parallel,
            num_drafts=shape.num_drafts,
            acceptance=self.draft_acceptance,
        )
