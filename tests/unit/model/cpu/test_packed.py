"""Packed layers answer what the plain ones answer, within float32 rounding."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.model.cpu import panels
from workers.model.cpu.packed import FEW_ROWS, PackedGatedMLP, PackedLinear, TwiceLinear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="this torch has no packed linear layers")


class Gated(nn.Module):
    def __init__(self, width: int, inner: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(self.activate(self.gate_proj(x)) * self.up_proj(x))
        return result

    def activate(self, x: Tensor) -> Tensor:
        return F.silu(x)


class GatedByGelu(Gated):
    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.embed(ids))
        return result


def both(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    packed = copy.deepcopy(model)
    pack_linears(packed)
    with torch.inference_mode():
        return model(x), packed(x)


@pytest.mark.parametrize("rows", [1, 3, 16, 65])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (70, 33), (288, 768), (1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_layer_answers_within_float32_rounding(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    expected, found = both(nn.Sequential(nn.Linear(inputs, outputs, bias=bias)), torch.randn(1, rows, inputs))
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5


def test_input_of_any_strides_is_read_right() -> None:
    torch.manual_seed(0)
    x = torch.randn(24, 5).T[None, ::2]  # [1, 3, 24], not contiguous
    expected, found = both(nn.Sequential(nn.Linear(24, 10)), x)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this processor packs no bfloat16")
@pytest.mark.parametrize("rows", [1, 17, 130])
def test_a_packed_bfloat16_layer_is_as_near_to_the_truth_as_the_plain_one(rows: int) -> None:
    torch.manual_seed(0)
    model = Gated(96, 200).bfloat16()
    x = torch.randn(1, rows, 96).bfloat16()
    plain, packed = both(model, x)
    truth = copy.deepcopy(model).double()(x.double())
    assert (packed - truth).abs().mean() <= 1.05 * (plain - truth).abs().mean()


@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_mlp_becomes_one_module_with_the_same_answers(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Gated(32, 72, bias=bias))
    packed = copy.deepcopy(model)
    pack_linears(packed)
    assert isinstance(packed[0], PackedGatedMLP)
    x = torch.randn(1, 9, 32)
    assert (packed(x) - model(x)).abs().max() < 1e-5


def test_an_mlp_with_another_activation_keeps_its_own_forward() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(GatedByGelu(32, 72))
    packed = copy.deepcopy(model)
    pack_linears(packed)
    assert isinstance(packed[0], GatedByGelu)
    assert isinstance(packed[0].gate_proj, PackedLinear)
    x = torch.randn(1, 9, 32)
    assert (packed(x) - model(x)).abs().max() < 1e-5


def test_tied_embeddings_keep_their_table_and_packed_layers_no_plain_weight() -> None:
    torch.manual_seed(0)
    model = Tied()
    expected = model(torch.arange(7))
    pack_linears(model)
    assert [name for name, _ in model.named_parameters()] == ["embed.weight"]
    assert (model(torch.arange(7)) - expected).abs().max() < 1e-5


def test_layers_of_other_types_and_dtypes_stay_as_they_are() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4, dtype=torch.float64))
    pack_linears(model)
    assert [type(layer) for layer in model] == [Scaled, nn.Linear]


@pytest.mark.skipif(
    not can_pack(torch.bfloat16) or not panels.available(), reason="no bfloat16 products, or no compiler"
)
def test_a_small_bfloat16_model_takes_few_rows_by_panels_and_more_by_onednn() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(64, 48).bfloat16()
    model = nn.Sequential(copy.deepcopy(plain))
    pack_linears(model)
    layer = model[0]
    assert isinstance(layer, TwiceLinear)
    for rows in (1, FEW_ROWS, FEW_ROWS + 1, 40):
        x = torch.randn(1, rows, 64).bfloat16()
        with torch.inference_mode():
            torch.testing.assert_close(layer(x), plain(x), rtol=2e-2, atol=1e-2)
            assert layer(x).equal((layer.few if rows <= FEW_ROWS else layer.many)(x))
