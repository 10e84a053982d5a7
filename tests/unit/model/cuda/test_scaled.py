"""Products with weights of 8 bits are those with the weights that they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.model.quantized.scaled_weight import ScaledWeight, joined

pytest.importorskip("triton", reason="triton is not installed (make kernels)")

from workers.model.cuda.scaled import MOST_ROWS, GPUScaledLinear, can_keep, dequantized, tiling


def weight_of(outputs: int, inputs: int, span: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> ScaledWeight:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(outputs, inputs, generator=generator)
    values = (values * 30).round().clamp(-127, 127).to(dtype) if dtype is torch.int8 else values.to(dtype)
    shape = (-(-outputs // span[0]), -(-inputs // span[1]))
    scales = torch.rand(*shape, generator=generator) * 0.1 + 0.01
    return ScaledWeight(values=values, scales=scales, row_span=span[0], column_span=span[1])


def by_hand(weight: ScaledWeight, dtype: torch.dtype) -> Tensor:
    outputs, inputs = weight.shape
    wide = torch.empty(outputs, inputs)
    for row in range(outputs):
        for column in range(inputs):
            scale = weight.scales[row // weight.row_span, column // weight.column_span]
            wide[row, column] = weight.values[row, column].float() * scale
    return wide.to(dtype)


@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 70),
    rows=st.integers(1, 40),
    span=st.sampled_from([(16, 16), (5, 32), (1, 1 << 20), (1 << 20, 1 << 20), (8, 48), (3, 7)]),
    stored=st.sampled_from([torch.float8_e4m3fn, torch.int8]),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    has_bias=st.booleans(),
    adds=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_product_is_that_with_the_dequantized_weight(
    outputs: int,
    inputs: int,
    rows: int,
    span: tuple[int, int],
    stored: torch.dtype,
    dtype: torch.dtype,
    has_bias: bool,
    adds: bool,
) -> None:
    weight = weight_of(outputs, inputs, (min(span[0], outputs), min(span[1], inputs)), stored)
    whole = by_hand(weight, dtype)
    assert weight.dequantized(dtype).equal(whole)
    assert dequantized(weight, dtype).equal(whole)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    bias = torch.randn(outputs, generator=generator).to(dtype) if has_bias else None
    before = torch.randn(rows, outputs, generator=generator).to(dtype)
    layer = GPUScaledLinear(weight, bias)
    want = x.double() @ whole.double().t() + (bias.double() if bias is not None else 0.0)
    if adds:
        found = before.clone()
        layer.add_to(found, x)
        want += before.double()
    else:
        found = layer(x)
    tolerance = 2e-3 if dtype is torch.float16 else 2e-6
    torch.testing.assert_close(found.double(), want, atol=tolerance * float(want.abs().max() + 1), rtol=tolerance)


def test_many_rows_are_multiplied_by_torch() -> None:
    weight = weight_of(24, 32, (8, 16), torch.float8_e4m3fn)
    layer = GPUScaledLinear(weight, None)
    x = torch.randn(MOST_ROWS + 1, 32, generator=torch.Generator().manual_seed(2))
    want = x @ weight.dequantized(torch.float32).t()
    assert layer(x).equal(want)
    sums = torch.ones(len(x), 24)
    layer.add_to(sums, x)
    torch.testing.assert_close(sums, want + 1)


def test_weights_that_are_joined_keep_their_scales() -> None:
    parts = [weight_of(n, 40, (16, 16), torch.float8_e4m3fn, seed) for seed, n in enumerate((32, 24, 40))]
    both = joined(parts)
    assert both is not None
    assert both.row_span == 8
    assert both.dequantized(torch.float32).equal(torch.cat([part.dequantized(torch.float32) for part in parts]))
    assert joined([parts[0], weight_of(8, 40, (16, 8), torch.float8_e4m3fn)]) is None


def test_tiles_are_as_large_as_leaves_work_for_every_processor() -> None:
    weight = ScaledWeight(
        values=torch.empty(4096, 4096, dtype=torch.int8), scales=torch.empty(32, 32), row_span=128, column_span=128
    )
    assert tiling(1, weight, 132) == (16, 16, 128)
    assert tiling(1, weight, 128) == (32, 16, 128)
    assert tiling(200, weight, 128) == (128, 64, 128)
    narrow = ScaledWeight(values=weight.values, scales=torch.empty(1, 171), row_span=4096, column_span=24)
    assert tiling(1, narrow, 132) is None


def test_what_a_gpu_keeps_depends_on_its_age() -> None:
    assert can_keep(torch.float8_e4m3fn, torch.bfloat16, (8, 9))
    assert not can_keep(torch.float8_e4m3fn, torch.bfloat16, (8, 6))
    assert can_keep(torch.int8, torch.bfloat16, (8, 0))
    assert not can_keep(torch.int8, torch.bfloat16, (7, 5))
    assert not can_keep(torch.float8_e5m2, torch.bfloat16, (9, 0))
