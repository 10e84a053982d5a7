"""A decoder layer of the usual kind on a GPU: four products, and five kernels of our own between them and attention.

Residual sums are the products' own: `output` and `down` add to what is there. See `workers.model.fused_layers`.
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.model import fused_layers
from workers.model.attention import Scoring
from workers.model.cuda import ragged, scaled
from workers.model.cuda.elementwise import MAX_WIDTH, HeadNorms, rms_norm, rotate_and_write, silu_mul
from workers.model.cuda.launching import has_triton, reason_of
from workers.model.fused_layers import LayerParts, Recorder
from workers.model.quantized.scaled_weight import ScaledWeight
from workers.model.tensor_parallel.summed import plain_linear

logger = logging.getLogger(__name__)

HEAD_NORMS = ("q_norm", "k_norm")


class AddingLinear(nn.Module):
    """A linear layer whose answer may be added to what is there, in the product itself."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight.detach()
        self.bias = bias.detach() if bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += the layer's answer to x; y is contiguous."""
        y.view(-1, self.out_features).addmm_(x.reshape(-1, self.in_features), self.weight.t())
        if self.bias is not None:
            y += self.bias


class GPULayer(LayerParts):
    def __init__(self, layer: Any, scoring: Scoring, index: int) -> None:
        super().__init__(layer, scoring, index, _linear)
        self.head_norms: HeadNorms | None = None
        if all(hasattr(layer.self_attn, name) for name in HEAD_NORMS):
            norms = [getattr(layer.self_attn, name) for name in HEAD_NORMS]
            query, key = (norm.weight.detach().float().contiguous() for norm in norms)
            self.head_norms = HeadNorms(query, key, float(norms[0].variance_epsilon))

    def forward(
        self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], step: Any, **_: Any
    ) -> Tensor:
        x = hidden_states.contiguous()
        cos, sin = (angles[0].contiguous() for angles in position_embeddings)
        assert cos.shape == sin.shape == (x.shape[1], self.head_dim), "all of a head is turned: see fused_layers"
        qkv = self.qkv(rms_norm(x, self.norm, self.eps))
        by_head = qkv.view(x.shape[1], self.num_heads + 2 * self.num_kv_heads, self.head_dim)
        found = step.turn_and_attend(self.index, by_head, cos, sin, self.head_norms, self.scoring)
        self.output.add_to(x, found.flatten(2))
        gate_up = self.gate_up(rms_norm(x, self.mlp_norm, self.mlp_eps))
        self.down.add_to(x, silu_mul(gate_up))
        return x


def _linear(weight: Tensor | ScaledWeight, bias: Tensor | None) -> AddingLinear | scaled.GPUScaledLinear:
    make: Any = scaled.GPUScaledLinear if isinstance(weight, ScaledWeight) else AddingLinear
    made: AddingLinear | scaled.GPUScaledLinear = make(weight, bias)
    return made


class TurningRecorder(Recorder):
    """One that is told of queries and keys before they are turned."""

    def turn_and_attend(
        self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None, scoring: Scoring
    ) -> Tensor:
        self.seen = (layer, *turned(qkv, cos, sin, self.answer.shape[2], norms), scoring)
        return self.answer


def turned(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, norms: HeadNorms | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as [1, heads, T, head_dim], for who keeps keys and values elsewhere than in slots."""
    tokens, num_all, head_dim = qkv.shape
    num_kv_heads = (num_all - num_heads) // 2
    keys, values = torch.empty(2, tokens, num_kv_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    query = rotate_and_write(qkv, cos, sin, keys, values, torch.arange(tokens, device=qkv.device), norms)
    first, second, third = (rows.transpose(0, 1)[None] for rows in (query, keys, values))
    return first, second, third


def fuse_layers(model: nn.Module, dtype: torch.dtype) -> int:
    """How many layers were replaced: none without Triton, or where its kernels cannot be compiled."""
    if not has_triton() or dtype not in ragged.DTYPES:
        return 0
    num_fused = fused_layers.fuse_layers(model, dtype, _make, recorder=TurningRecorder, on_error=_tell)
    scaled.replace(model)  # what is left of layers whose weights stay as they are stored
    if num_fused and torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the layers' own weights
    return num_fused


def _tell(error: Exception) -> None:
    """Of a compiler, say: the library's own layer is there for it."""
    logger.warning("a layer is not fused error=%s", reason_of(error))


def _make(layer: Any, scoring: Scoring, index: int) -> GPULayer | None:
    attention = layer.self_attn
    norms = [getattr(attention, name) for name in HEAD_NORMS if hasattr(attention, name)]
    shapes = [getattr(getattr(norm, "weight", None), "shape", None) for norm in norms]
    is_by_head = all(shape == (attention.head_dim,) for shape in shapes)
    is_by_head = is_by_head and all(hasattr(norm, "variance_epsilon") for norm in norms)
    width = plain_linear(attention.q_proj).in_features
    if len(norms) not in (0, 2) or not is_by_head or width > MAX_WIDTH or attention.head_dim % 2:
        return None
    return GPULayer(layer, scoring, index)
