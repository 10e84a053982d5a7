"""A model's size: parameters, operations and bytes, from its `config.json` alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from cluster.planner.models.layer_spec import LayerSpec, num_pairs
from cluster.planner.models.model_config import is_latent, is_tied, layers_of, model_type, whole
from cluster.planner.models.size_fields import check_fields
from cluster.planner.models.weight_format import WeightFormat, dtype_bytes

LINEAR_HEADS = ("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads", "mamba_n_heads")
STATE_BYTES = 4  # of an element of a linear layer's state: float32, as its kernels keep it
FP8_BYTES = 1  # of a key's or value's element with `kv.dtype: fp8`
BF16 = WeightFormat()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """`extra_parameters`: positions, final norm and projections around the layers, all small.

    `num_kv_heads`: 1 where all heads share what is kept of a token, as in latent attention.
    `linear_heads`: counts of heads of linear attention, each of which a tensor-parallel degree divides.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    max_model_len: int
    tied: bool
    linear_heads: tuple[int, ...] = ()
    extra_parameters: int = 0
    embedding_size: int | None = None  # of the vocabulary's vectors; None: `hidden_size`
    weights: WeightFormat = BF16
    element_bytes: int = 2  # of activations
    kv_element_bytes: int = 2

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, name: str = "", dtype: str | None = None) -> Self:
        """From a Hub `config.json`; a multi-modal one's `text_config` counts.

        Args:
            dtype: Of weights and KV; None: what the config says, else bfloat16.
        Raises:
            ConfigError: A field is missing or out of range, or a layout is unknown.
        """
        if isinstance(config.get("text_config"), Mapping):
            whole_model = {name: config.get(name) for name in ("quantization_config", "tie_word_embeddings", "dtype")}
            config = {
                **{name: value for name, value in whole_model.items() if value is not None},
                **config["text_config"],
            }
        check_fields(config)
        hidden = whole(config, "hidden_size")
        num_heads = whole(config, "num_attention_heads")
        element_bytes = dtype_bytes(dtype or config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        return cls(
            name=name or model_type(config),
            layers=layers_of(config),
            hidden_size=hidden,
            vocab_size=whole(config, "vocab_size"),
            num_heads=num_heads,
            num_kv_heads=1 if is_latent(config) else whole(config, "num_key_value_heads", default=num_heads),
            max_model_len=whole(config, "max_position_embeddings"),
            tied=is_tied(config),
            linear_heads=tuple(whole(config, name) for name in LINEAR_HEADS if config.get(name) is not None),
            extra_parameters=_extra(config),
            embedding_size=config.get("word_embed_proj_dim"),
            weights=WeightFormat.from_config(config, element_bytes),
            element_bytes=element_bytes,
            kv_element_bytes=element_bytes,
        )

    def with_kv(self, kv_dtype: str) -> Self:
        """`kv_dtype`: the config's `kv.dtype`."""
        return replace(self, kv_element_bytes=FP8_BYTES) if kv_dtype == "fp8" else self

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def has_experts(self) -> bool:
        return any(layer.feed_forward.num_experts for layer in self.layers)

    @property
    def layer_counts(self) -> tuple[tuple[LayerSpec, int], ...]:
        """Distinct layers, in order of first appearance, and how many there are of each."""
        return tuple(Counter(self.layers).items())

    @property
    def head_parameters(self) -> int:
        """Of the output head, also where it is the embedding."""
        return self.vocab_size * (self.embedding_size or self.hidden_size)

    @property
    def num_parameters(self) -> int:
        embeddings = self.head_parameters * (1 if self.tied else 2)
        return embeddings + self.extra_parameters + sum(layer.num_parameters for layer in self.layers)

    @property
    def num_active_parameters(self) -> int:
        """That a token meets; embeddings count whole, as is usual."""
        embeddings = self.head_parameters * (1 if self.tied else 2)
        return embeddings + self.extra_parameters + sum(layer.num_active for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        outside = self.head_parameters * (1 if self.tied else 2) + self.extra_parameters
        return round(outside * self.weights.outside + sum(self.layer_weight_bytes(layer) for layer in self.layers))

    def layer_weight_bytes(self, layer: LayerSpec) -> float:
        experts = layer.num_parameters - layer.num_dense
        return layer.num_dense * self.weights.dense + experts * self.weights.experts

    @property
    def kv_layer_bytes(self) -> tuple[int, ...]:
        """KV of one token in each layer, in layer order; 0 in a linear one."""
        return tuple(layer.attention.kv_elements * self.kv_element_bytes for layer in self.layers)

    @property
    def kv_bytes_per_token(self) -> int:
        return sum(self.kv_layer_bytes)

    @property
    def num_kv_layers(self) -> int:
        return sum(1 for size in self.kv_layer_bytes if size)

    @property
    def state_bytes(self) -> int:
        """What the linear layers keep of one sequence, whatever its length."""
        return sum(
            layer.attention.state_elements * STATE_BYTES + layer.attention.conv_elements * self.element_bytes
            for layer in self.layers
        )

    def prefill_flops(self, num_tokens: int, num_context: int = 0) -> int:
        """Of `num_tokens` prompt tokens after `num_context`, and one sampled token's head."""
        flops = 2 * self.head_parameters
        for layer, count in self.layer_counts:
            one = (2 * layer.num_active + layer.attention.recurrence_flops) * num_tokens
            one += layer.attention.pair_flops * num_pairs(num_tokens, num_context, layer.attention.window)
            flops += one * count
        return flops

    def decode_flops(self, num_sequences: int, num_context: int) -> int:
        """Of one step; `num_context` is the sum over sequences, taken to be of equal length under windows."""
        flops = 2 * self.head_parameters * num_sequences
        for layer, count in self.layer_counts:
            one = (2 * layer.num_active + layer.attention.recurrence_flops) * num_sequences
            one += layer.attention.decode_pair_flops * seen_tokens(layer, num_sequences, num_context)
            flops += one * count
        return flops

    def decode_bytes(self, num_sequences: int, num_context: int) -> int:
        """Read and written by one step: weights it touches, KV that it sees and adds, states."""
        weights = (self.head_parameters + self.extra_parameters) * self.weights.outside
        elements = 0
        for layer, count in self.layer_counts:
            experts = layer.feed_forward.num_touched(num_sequences) - layer.feed_forward.num_parameters
            weights += (layer.num_dense * self.weights.dense + experts * self.weights.experts) * count
            elements += layer.attention.kv_elements * (seen_tokens(layer, num_sequences, num_context)) * count
        states = 2 * self.state_bytes * num_sequences
        return round(weights) + elements * self.kv_element_bytes + states

    def allows_tensor_parallel(self, degree: int) -> bool:
        """Whether heads split evenly; KV heads are copied where the degree is a multiple of them."""
        whole_heads = all(heads % degree == 0 for heads in (self.num_heads, *self.linear_heads))
        return whole_heads and (self.num_kv_heads % degree == 0 or degree % self.num_kv_heads == 0)

    def num_kv_copies(self, tensor_parallel: int) -> int:
        """How many of the ranks hold the same KV head."""
        return max(1, tensor_parallel // self.num_kv_heads)


def seen_tokens(layer: LayerSpec, num_sequences: int, num_context: int) -> int:
    """Keys that one step's decodes look at in this layer, their own included."""
    num_all = num_context + num_sequences
    if layer.attention.window is None:
        return num_all
    return min(num_all, layer.attention.window * num_sequences)


def _extra(config: Mapping[str, Any]) -> int:
    hidden = whole(config, "hidden_size")
    if model_type(config) != "opt":
        return hidden  # the final norm
    embedding = whole(config, "word_embed_proj_dim", default=hidden)
    projections = 2 * embedding * hidden if embedding != hidden else 0
    # Learned positions start at 2; the final norm has a bias, and is left out where norms come after the layers.
    norm = 2 * hidden if config.get("do_layer_norm_before", True) else 0
    return (whole(config, "max_position_embeddings") + 2) * hidden + projections + norm
