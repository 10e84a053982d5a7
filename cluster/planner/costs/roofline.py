"""Latencies from specs alone, for hardware one has not got: each part takes its operations or its bytes, whichever
is longer, or both where a device does not do them at once.

A layer is matrix products over weights, attention, and two all-reduces where it is tensor-parallel; beside them come
launches per layer and a constant per step. Pipeline stages hold ceil(layers / stages) layers. Sequence parallelism
divides the prompts' tokens over copies of such ranks, and passes the keys around between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from baton.errors import ConfigError
from cluster.contracts.latency import Parallelism, PromptChunk
from cluster.planner.costs.devices import DeviceSpec
from cluster.planner.models.layer_spec import LayerSpec, num_pairs
from cluster.planner.models.model_spec import STATE_BYTES, ModelSpec

FP8_BELOW = 1.1  # bytes an element, scales included


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Seconds that one group of equal layers takes per unit of work, on one rank."""

    spec: LayerSpec
    count: int
    dense_read_s: float  # parameters that every token meets
    expert_read_s: float  # one parameter of a routed expert
    token_flop_s: float  # matrix products of one token
    pair_flop_s: float  # one (query, key) pair in a prompt
    seen_s: float  # one key that a decode looks at: reading or computing, the longer
    key_read_s: float  # one key that a prompt reads
    state_s: float  # one decode's recurrent state, read and written


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineLatency:
    """A worker's costs; see `cluster.contracts.latency.LatencyModel`."""

    layers: tuple[_Layer, ...]
    parallelism: Parallelism
    head_read_s: float
    head_flop_s: float  # one row of logits
    all_reduce_s: float  # latency of all of one step's
    all_reduced_token_s: float  # one token through all of one step's all-reduces
    passed_token_s: float  # one token's keys, of the heads of a rank, around those that have the other pieces
    stage_token_s: float  # one token's activations to the next stage, all stages
    fixed_s: float  # launches, step, stages' latencies
    sequence_s: float  # each decode
    stretch: float  # of the layers' time: stages that hold more layers than their share
    overlaps: bool  # see `Efficiency`

    @classmethod
    def of(cls, model: ModelSpec, device: DeviceSpec, parallelism: Parallelism, *, within_node: bool = True) -> Self:
        """Costs of a worker of `parallelism.num_devices` such devices.

        Args:
            within_node: Whether pipeline stages send to each other inside a node; tensor- and sequence-parallel
                ranks always do.
        Raises:
            ConfigError: The model does not divide by a degree.
        """
        tensor, stages = parallelism.tensor, parallelism.pipeline
        if not model.allows_tensor_parallel(tensor):
            raise ConfigError(
                f"tensor_parallel {tensor} does not divide {model.name}'s {model.num_heads} heads and "
                f"{model.num_kv_heads} KV heads; give a divisor"
            )
        if stages > model.num_layers:
            raise ConfigError(f"pipeline_parallel {stages} is more than {model.name}'s {model.num_layers} layers")
        reach = device.efficiency
        link_s = 1 / (device.link_bandwidth * reach.link)
        hop_s = link_s if within_node else 1 / (device.network_bandwidth * reach.link)
        hop_latency_s = device.link_latency_s if within_node else device.network_latency_s
        activation_bytes = model.hidden_size * model.element_bytes
        ring = 2 * (tensor - 1) / tensor  # bytes each rank sends in a ring's all-reduce, per byte reduced
        ranks, key_bytes = parallelism.sequence, model.kv_bytes_per_token * model.num_kv_copies(tensor) / tensor
        read_s = 1 / (tensor * device.memory_bandwidth * reach.memory)  # a byte of weights, in each rank's share
        return cls(
            layers=tuple(_layer(model, device, parallelism, spec, count) for spec, count in model.layer_counts),
            parallelism=parallelism,
            head_read_s=model.head_parameters * model.weights.outside * read_s,
            head_flop_s=2 * model.head_parameters / tensor / _flops(model.weights.outside, device),
            all_reduce_s=2 * model.num_layers * reach.all_reduce_s if tensor > 1 else 0.0,
            all_reduced_token_s=2 * model.num_layers * ring * activation_bytes * link_s,
            passed_token_s=key_bytes * (ranks - 1) / ranks * link_s,
            stage_token_s=(stages - 1) * activation_bytes / tensor * hop_s,
            fixed_s=reach.step_s + model.num_layers * reach.layer_s + (stages - 1) * hop_latency_s,
            sequence_s=reach.token_s,
            stretch=stages * -(-model.num_layers // stages) / model.num_layers,
            overlaps=reach.overlaps,
        )

    @property
    def pipeline_stages(self) -> int:
        return self.parallelism.pipeline

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        num_prompt_tokens = sum(chunk[0] for chunk in prompts)
        if not num_prompt_tokens and not num_decodes:
            return 0.0
        total_s = self._constant_s(num_prompt_tokens, len(prompts), num_decodes)
        for layer in self.layers:
            part_s = self._seen(layer, num_decodes, num_context) * layer.seen_s
            for num_tokens, num_before in prompts:
                part_s += self._prompt_attention_s(layer, num_tokens, num_before)
            total_s += part_s * layer.count * self.stretch
        return total_s

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        if not num_decodes:
            return 0.0
        total_s = self._constant_s(0, 0, num_decodes) * num_steps
        first = num_context + num_decodes
        for layer in self.layers:
            window = layer.spec.attention.window
            num_growing = num_steps
            if window is not None:  # steps before every sequence has filled its window
                num_growing = min(max(-(-(window * num_decodes - first) // num_decodes), 0), num_steps)
            seen = num_growing * first + num_decodes * (num_growing * (num_growing - 1) // 2)
            seen += (num_steps - num_growing) * (window or 0) * num_decodes
            total_s += seen * layer.seen_s * layer.count * self.stretch
        return total_s

    def _constant_s(self, num_prompt_tokens: int, num_prompts: int, num_decodes: int) -> float:
        """All that does not depend on contexts."""
        num_tokens = num_prompt_tokens / self.parallelism.sequence + num_decodes
        num_rows = num_prompts + num_decodes  # of logits
        layers_s = 0.0
        for layer in self.layers:
            spec = layer.spec
            touched = spec.feed_forward.num_touched(num_prompt_tokens + num_decodes) - spec.feed_forward.num_parameters
            read_s = layer.dense_read_s + touched * layer.expert_read_s
            products_s = self._together_s(num_tokens * layer.token_flop_s, read_s)
            layers_s += (products_s + num_decodes * layer.state_s) * layer.count
        head_s = self._together_s(num_rows * self.head_flop_s, self.head_read_s)
        moved_s = self.all_reduce_s + num_tokens * self.all_reduced_token_s + num_tokens * self.stage_token_s
        moved_s += num_prompt_tokens * self.passed_token_s
        return layers_s * self.stretch + head_s + moved_s + self.fixed_s + num_decodes * self.sequence_s

    def _together_s(self, computed_s: float, read_s: float) -> float:
        return max(computed_s, read_s) if self.overlaps else computed_s + read_s

    def _prompt_attention_s(self, layer: _Layer, num_tokens: int, num_before: int) -> float:
        window = layer.spec.attention.window
        num_keys = num_tokens + (num_before if window is None else min(num_before, window))
        pairs_s = num_pairs(num_tokens, num_before, window) * layer.pair_flop_s
        return max(pairs_s, num_keys * layer.key_read_s) / self.parallelism.sequence

    @staticmethod
    def _seen(layer: _Layer, num_decodes: int, num_context: int) -> int:
        num_all, window = num_context + num_decodes, layer.spec.attention.window
        return num_all if window is None else min(num_all, window * num_decodes)


def _layer(model: ModelSpec, device: DeviceSpec, parallelism: Parallelism, spec: LayerSpec, count: int) -> _Layer:
    reach, tensor = device.efficiency, parallelism.tensor
    attention_s = 1 / (device.bf16_flops * reach.attention_compute * tensor)
    kv_read_s = 1 / (device.memory_bandwidth * reach.kv_memory)
    key_bytes = spec.attention.kv_elements * model.kv_element_bytes * model.num_kv_copies(tensor) / tensor
    state_bytes = spec.attention.state_elements * STATE_BYTES / tensor
    read_s = 1 / (tensor * device.memory_bandwidth * reach.memory)
    dense_flop_s = 1 / (tensor * _flops(model.weights.dense, device))
    expert_flop_s = 1 / (tensor * _flops(model.weights.experts, device) * reach.experts)
    num_expert = spec.num_active - spec.num_dense
    return _Layer(
        spec=spec,
        count=count,
        dense_read_s=spec.num_dense * model.weights.dense * read_s,
        expert_read_s=model.weights.experts * read_s / reach.experts,
        token_flop_s=(2 * spec.num_dense + spec.attention.recurrence_flops) * dense_flop_s
        + 2 * num_expert * expert_flop_s,
        pair_flop_s=spec.attention.pair_flops * attention_s,
        seen_s=max(key_bytes * kv_read_s, spec.attention.decode_pair_flops * attention_s),
        key_read_s=key_bytes * kv_read_s,
        state_s=2 * state_bytes * kv_read_s,
    )


def _flops(element_bytes: float, device: DeviceSpec) -> float:
    """That matrix products reach with weights of so many bytes; those below one are widened before."""
    if device.fp8_flops and 1.0 <= element_bytes < FP8_BELOW:
        return device.fp8_flops * device.efficiency.fp8_compute
    return device.bf16_flops * device.efficiency.compute
