"""The halves of a decoder layer of the usual kind as a few calls, as `workers.model.cpu.fused` has them for one rank.

A layer's halves take the place of its own code where both answer random input as that does.
"""

from typing import Any

import torch
from torch import Tensor, nn

from workers.model.attention import Scoring
from workers.model.cpu import elementwise as cpu_elementwise
from workers.model.fused_layers import HEADS, NORMS, MakeLinear, Recorder, close, joined, turned_share
from workers.model.tensor_parallel.summed import like, plain_linear
from workers.speculative.layer_halves import Arguments, PlainHalves
from workers.speculative.panel_halves import PanelHalf

MLP = ("gate_proj", "up_proj", "down_proj")
NUM_PARTS = 4  # of such a layer: attention, MLP and two norms


class FusedAttention(nn.Module):
    def __init__(self, layer: Any, attention: Any, index: int, scoring: Scoring, make_linear: MakeLinear) -> None:
        super().__init__()
        self.index, self.scoring = index, scoring
        self.head_dim: int = attention.head_dim
        parts = [getattr(attention, name) for name in HEADS]
        self.num_heads, self.num_kv_heads, _ = (part.out_features // self.head_dim for part in parts)
        self.qkv = make_linear(*joined(parts))
        self.output = make_linear(*joined([attention.o_proj]))
        norm = getattr(layer, NORMS[0])
        self.norm, self.eps = norm.weight.detach().float().contiguous(), float(norm.variance_epsilon)
        sizes = {"num_heads": self.num_heads, "num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim}
        sizes |= {"width": self.norm.shape[0], "eps": self.eps}
        self.native = PanelHalf.of(norm.weight.dtype, {"qkv": self.qkv}, {"norm": self.norm}, **sizes)

    def forward(self, x: Tensor, arguments: Arguments) -> Tensor:
        cos, sin = (angles.contiguous() for angles in arguments["position_embeddings"])
        heads, turning = self.num_heads, self.num_heads + self.num_kv_heads
        if self.native is not None and x.shape[1] <= self.native.max_rows:
            qkv, rows = self.native.begin(x.contiguous(), cos, sin)
            by_head, turned = qkv.transpose(1, 2), rows.transpose(1, 2)
        else:
            qkv = self.qkv(cpu_elementwise.rms_norm(x, self.norm, self.eps))
            by_head = qkv.view(1, x.shape[1], turning + self.num_kv_heads, self.head_dim).transpose(1, 2)
            turned = cpu_elementwise.rotated(by_head[:, :turning], cos, sin)
        value = by_head[:, turning:]
        found = arguments["step"].attend(self.index, turned[:, :heads], turned[:, heads:], value, self.scoring)
        answer: Tensor = self.output(found.flatten(2))
        return answer


class FusedRest(nn.Module):
    def __init__(self, layer: Any, make_linear: MakeLinear) -> None:
        super().__init__()
        mlp = layer.mlp
        self.gate_up = make_linear(*joined([mlp.gate_proj, mlp.up_proj]))
        self.down = like(mlp.down_proj, make_linear(*joined([plain_linear(mlp.down_proj)])))
        norm = getattr(layer, NORMS[1])
        self.norm, self.eps = norm.weight.detach().float().contiguous(), float(norm.variance_epsilon)
        plain = plain_linear(self.down)
        sizes = {"width": self.norm.shape[0], "inner": plain.in_features, "mlp_eps": self.eps}
        linears = {"gate_up": self.gate_up, "down": plain}
        self.native = PanelHalf.of(norm.weight.dtype, linears, {"mlp_norm": self.norm}, **sizes)
        self.total = self.down.total if self.down is not plain else None

    def forward(self, x: Tensor, found: Tensor) -> Tensor:
        x = x.contiguous()
        x += found
        if self.native is not None and x.shape[1] <= self.native.max_rows:
            added = self.native.mlp(x)
            x += added if self.total is None else self.total(added)
            return x
        gate_up = self.gate_up(cpu_elementwise.rms_norm(x, self.norm, self.eps))
        self.down.add_to(x, cpu_elementwise.silu_mul(gate_up))
        return x


class FusedHalves(nn.Module):
    """Implements `workers.speculative.layer_halves.Halves`; `attending` only where this rank has the attention."""

    def __init__(self, attending: FusedAttention | None, resting: FusedRest) -> None:
        super().__init__()
        self.attending, self.resting = attending, resting

    def attention(self, x: Tensor, arguments: Arguments) -> Tensor:
        assert self.attending is not None
        found: Tensor = self.attending(x, arguments)
        return found

    def rest(self, x: Tensor, found: Tensor, arguments: Arguments) -> Tensor:
        out: Tensor = self.resting(x, found)
        return out


@torch.inference_mode()
def fused_halves(plain: PlainHalves, dtype: torch.dtype, make_linear: MakeLinear) -> FusedHalves | None:
    """None: the layer is of another kind. Tried before the ranks compute together."""
    layer: Any = plain.layer
    mlp = [plain_linear(getattr(getattr(layer, "mlp", None), name, None)) for name in MLP]
    norms = [getattr(layer, name, None) for name in NORMS]
    if not all(type(linear) is nn.Linear for linear in mlp) or len(list(layer.children())) != NUM_PARTS:
        return None
    if not all(isinstance(getattr(norm, "variance_epsilon", None), float) for norm in norms):
        return None
    generator = torch.Generator().manual_seed(0)
    x, found = torch.randn(2, 1, 3, mlp[0].in_features, generator=generator).to(dtype)
    resting = FusedRest(layer, make_linear)
    if not close(resting(x.clone(), found), plain.rest(x.clone(), found, {})):
        return None
    if not plain.has_attention:
        return FusedHalves(None, resting)
    attending = _fused_attention(plain, x, make_linear, generator)
    return FusedHalves(attending, resting) if attending is not None else None


def _fused_attention(
    plain: PlainHalves, x: Tensor, make_linear: MakeLinear, generator: torch.Generator
) -> FusedAttention | None:
    attention: Any = plain.given.inner
    linears = [getattr(attention, name, None) for name in (*HEADS, "o_proj")]
    if not all(type(linear) is nn.Linear for linear in linears) or not isinstance(attention.head_dim, int):
        return None
    if turned_share(attention) != 1.0:
        return None
    dim, inputs = attention.head_dim, linears[3].in_features  # type: ignore[union-attr]
    angles = torch.randn(1, 3, dim, generator=generator)
    answer = torch.randn(1, 3, inputs // dim, dim, generator=generator).to(x.dtype)
    wanted, found = Recorder(answer), Recorder(answer)
    embeddings = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
    expected = plain.attention(x, {"position_embeddings": embeddings, "step": wanted, "attention_mask": None})
    assert wanted.seen is not None
    fused = FusedAttention(plain.layer, attention, wanted.seen[0], wanted.seen[4], make_linear)
    ours = fused(x, {"position_embeddings": embeddings, "step": found})
    assert found.seen is not None
    pairs = [(ours, expected), *zip(found.seen[1:4], wanted.seen[1:4], strict=True)]
    return fused if all(close(a, b) for a, b in pairs) else None
