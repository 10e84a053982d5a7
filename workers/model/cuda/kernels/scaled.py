"""Products with weights of 8 bits and their scales: dequantized in registers, a tile at a time."""

import triton
import triton.language as tl


@triton.jit
def multiply(
    x,  # [rows, inputs]
    values,  # [outputs, value_stride] of FP8 or int8
    scales,  # [ceil(outputs / row_span), scale_stride] float32
    bias,  # [outputs]; with HAS_BIAS alone
    y,  # [rows, outputs] out
    rows,
    outputs,
    inputs,
    x_stride,
    y_stride,
    value_stride,
    scale_stride,
    row_span,
    column_span,  # a multiple of BLOCK_K, or not below inputs
    HAS_BIAS: tl.constexpr,
    ADDS: tl.constexpr,  # to what is in y
    IS_EVEN: tl.constexpr,  # BLOCK_K divides inputs
    BLOCK_N: tl.constexpr,  # outputs of a program
    BLOCK_M: tl.constexpr,  # rows of a program
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y = x @ (values * scales).T: weights are rounded to x's dtype, sums are float32."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    is_output = n < outputs
    is_row = m < rows
    weights_at = values + n.to(tl.int64)[:, None] * value_stride + k[None, :]
    inputs_at = x + m.to(tl.int64)[None, :] * x_stride + k[:, None]
    scales_at = scales + (n // row_span) * scale_stride
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for start in range(0, inputs, BLOCK_K):
        if IS_EVEN:
            stored = tl.load(weights_at + start, mask=is_output[:, None], other=0.0)
            given = tl.load(inputs_at + start, mask=is_row[None, :], other=0.0)
        else:
            is_input = start + k < inputs
            stored = tl.load(weights_at + start, mask=is_output[:, None] & is_input[None, :], other=0.0)
            given = tl.load(inputs_at + start, mask=is_input[:, None] & is_row[None, :], other=0.0)
        scale = tl.load(scales_at + start // column_span, mask=is_output, other=0.0)
        weights = (stored.to(tl.float32) * scale[:, None]).to(x.dtype.element_ty)
        sums = tl.dot(weights, given, sums, input_precision=PRECISION)
    is_there = is_output[:, None] & is_row[None, :]
    places = y + m.to(tl.int64)[None, :] * y_stride + n[:, None]
    if HAS_BIAS:
        sums += tl.load(bias + n, mask=is_output, other=0.0).to(tl.float32)[:, None]
    if ADDS:
        sums += tl.load(places, mask=is_there, other=0.0).to(tl.float32)
    tl.store(places, sums.to(y.dtype.element_ty), mask=is_there)


@triton.jit
def dequantize(
    values,  # [outputs, value_stride] of FP8 or int8
    scales,  # [ceil(outputs / row_span), scale_stride] float32
    out,  # [outputs, value_stride]
    outputs,
    inputs,
    value_stride,
    scale_stride,
    row_span,
    column_span,
    IS_EVEN: tl.constexpr,  # BLOCK_K divides inputs
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """As `multiply` has the weights."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_there = (n < outputs)[:, None]
    if not IS_EVEN:
        is_there = is_there & (k < inputs)[None, :]
    places = n.to(tl.int64)[:, None] * value_stride + k[None, :]
    stored = tl.load(values + places, mask=is_there, other=0.0).to(tl.float32)
    scale = tl.load(
        scales + (n // row_span)[:, None] * scale_stride + (k // column_span)[None, :], mask=is_there, other=0.0
    )
    tl.store(out + places, (stored * scale).to(out.dtype.element_ty), mask=is_there)
