"""Products with weights kept in bfloat16 and widened: float32 answers, in both builds of the kernel."""

import pytest
import torch
from torch import nn

from workers.model.cpu import panels
from workers.model.cpu.packed import PackedLinear, can_pack, make_linear
from workers.model.cpu.panels import PanelLinear

pytestmark = [
    pytest.mark.skipif(not panels.available(), reason="no C compiler"),
    pytest.mark.usefixtures("isa"),
]


def linear_of(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(inputs * outputs)
    return nn.Linear(inputs, outputs, bias=bias).bfloat16().float().requires_grad_(False)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 5), (96, 64), (70, 333)])
@pytest.mark.parametrize("bias", [False, True])
def test_any_number_of_rows_is_answered_within_float32_rounding(
    inputs: int, outputs: int, bias: bool, num_threads: int
) -> None:
    plain = linear_of(inputs, outputs, bias=bias)
    layer = PanelLinear(plain.weight, plain.bias)
    x = torch.randn(211, inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for rows in (*range(1, 20), 211):
            truth = plain.double()(x[:rows].double())
            assert (layer(x[None, :rows])[0] - truth).abs().max() < 1e-5, rows
    finally:
        torch.set_num_threads(before)


def test_a_rows_answer_does_not_depend_on_the_rows_beside_it() -> None:
    plain = linear_of(70, 333)
    layer = PanelLinear(plain.weight, None)
    x = torch.randn(200, 70)
    together = layer(x)
    for first, rows in ((0, 1), (3, 2), (5, 3), (9, 7), (20, 16), (50, 150)):
        assert layer(x[first : first + rows]).equal(together[first : first + rows])


def test_bfloat16_activations_are_summed_in_float32_and_rounded_once() -> None:
    plain = linear_of(500, 40, bias=True)
    x = torch.randn(9, 500).bfloat16()
    found = PanelLinear(plain.weight, plain.bias)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain(x.float()).bfloat16(), rtol=1e-2, atol=1e-6)


def test_an_answer_is_added_to_what_is_there() -> None:
    plain = linear_of(30, 40, bias=True)
    x, y = torch.randn(1, 6, 60)[:, :, ::2], torch.randn(1, 6, 40)
    expected = y + plain(x)
    PanelLinear(plain.weight, plain.bias).add_to(y, x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_weights_that_bfloat16_would_round_keep_their_float32() -> None:
    weight = torch.randn(8, 8)
    assert not panels.fits(weight)
    assert panels.fits(weight.bfloat16().float())
    assert isinstance(make_linear(weight.bfloat16().float(), None), PanelLinear)
    if can_pack(torch.float32):
        assert isinstance(make_linear(weight, None), PackedLinear)
