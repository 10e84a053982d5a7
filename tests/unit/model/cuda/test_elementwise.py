"""Each kernel between a layer's products gives what torch gives."""

import pytest
import torch

from workers.model import fp8
from workers.model.cuda.elementwise import HeadNorms, rms_norm, rotate_and_write, silu_mul
from workers.model.fp8 import KVScales

pytest.importorskip("triton", reason="triton is not installed (make kernels)")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def _random(*size: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rms_norm(dtype: torch.dtype) -> None:
    x, weight = _random(1, 3, 100, dtype=dtype), _random(100, seed=2)
    want = torch.nn.functional.rms_norm(x.float(), (100,), weight, 1e-5)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).float(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_rms_norm_of_rows_that_do_not_lie_side_by_side() -> None:
    x, weight = _random(4, 2, 16)[:, 0], _random(16, seed=2)
    want = torch.nn.functional.rms_norm(x, (16,), weight, 1e-5)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), want, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_silu_mul(dtype: torch.dtype) -> None:
    x = _random(2, 5, 2 * 1500, dtype=dtype)
    gate, up = x.float().chunk(2, -1)
    want = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(silu_mul(x).float(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(6, 2, 16), (9, 3, 24), (2, 1, 64)])
def test_queries_are_turned_and_keys_and_values_written(
    num_heads: int, num_kv_heads: int, head_dim: int, has_norms: bool, dtype: torch.dtype
) -> None:
    tokens, num_slots = 5, 11
    qkv = _random(tokens, num_heads + 2 * num_kv_heads, head_dim, dtype=dtype)
    angles = _random(tokens, head_dim, seed=3)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    norms = HeadNorms(_random(head_dim, seed=4), _random(head_dim, seed=5), 1e-6) if has_norms else None
    slots = torch.tensor([3, 10, 0, 7, 1])
    k_rows, v_rows = torch.zeros(2, num_slots, num_kv_heads, head_dim, dtype=dtype)
    query = rotate_and_write(qkv, cos, sin, k_rows, v_rows, slots, norms)

    q, k, v = qkv.float().split([num_heads, num_kv_heads, num_kv_heads], 1)
    if norms is not None:
        q = torch.nn.functional.rms_norm(q, (head_dim,), norms.query, norms.eps)
        k = torch.nn.functional.rms_norm(k, (head_dim,), norms.key, norms.eps)
    want = [_turned(x, cos.float(), sin.float()) for x in (q, k)] + [v]
    for found, wanted in zip((query, k_rows[slots], v_rows[slots]), want, strict=True):
        torch.testing.assert_close(found.float(), wanted, atol=TOLERANCE[dtype] * 3, rtol=TOLERANCE[dtype])
    rest = [slot for slot in range(num_slots) if slot not in slots]
    assert not k_rows[rest].any()
    assert not v_rows[rest].any()


@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(6, 2, 16), (9, 3, 24), (2, 1, 64)])
def test_keys_and_values_in_fp8_are_the_bytes_of_torch(
    num_heads: int, num_kv_heads: int, head_dim: int, has_norms: bool
) -> None:
    tokens = 7
    spread = _random(tokens, num_heads + 2 * num_kv_heads, head_dim, seed=6) * 2
    qkv = _random(tokens, num_heads + 2 * num_kv_heads, head_dim) * spread.exp()
    qkv[0, -1, :4] = torch.tensor([1e9, -1e9, torch.inf, 0.0])
    angles = _random(tokens, head_dim, seed=3)
    cos, sin = angles.cos(), angles.sin()
    norms = HeadNorms(_random(head_dim, seed=4), _random(head_dim, seed=5), 1e-6) if has_norms else None
    slots = torch.tensor([3, 10, 0, 7, 1, 4, 9])
    plain = torch.zeros(2, 11, num_kv_heads, head_dim)
    kept = torch.zeros(2, 11, num_kv_heads, head_dim, dtype=torch.uint8)
    scales = KVScales.of(_random(2, num_kv_heads, seed=7).exp())
    query = rotate_and_write(qkv, cos, sin, plain[0], plain[1], slots, norms)
    again = rotate_and_write(qkv, cos, sin, kept[0], kept[1], slots, norms, scales)
    assert again.equal(query)
    for rows, found, inverse in zip(plain, kept, scales.inverses, strict=True):
        assert found[slots].equal(fp8.to_bytes(rows[slots].transpose(0, 1), inverse).transpose(0, 1))
    assert len(kept.unique()) > 150, "of large and small numbers"
    rest = [slot for slot in range(11) if slot not in slots]
    assert not kept[:, rest].any()
    assert kept[1, 3, -1, :4].view(fp8.DTYPE).tolist() == [448.0, -448.0, 448.0, 0.0]


def test_every_fp8_number_and_what_lies_between_them_is_rounded_as_torch_does() -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(fp8.DTYPE).float()
    numbers = numbers[~numbers.isnan()].unique()
    between = (numbers[1:] + numbers[:-1]) / 2
    near = torch.cat([between, between.nextafter(numbers[1:]), between.nextafter(numbers[:-1])])
    x = torch.cat([numbers, near, torch.zeros(-(len(numbers) + len(near)) % 16)])
    qkv = torch.cat([torch.zeros(len(x) // 16, 2, 16), x.view(-1, 1, 16)], dim=1)  # a query, a key, a value
    kept = torch.zeros(2, len(qkv), 1, 16, dtype=torch.uint8)
    angles = torch.zeros(len(qkv), 16)
    rotate_and_write(qkv, angles, angles, kept[0], kept[1], torch.arange(len(qkv)), None, KVScales.of(torch.ones(2, 1)))
    assert kept[1].view(-1).equal(x.to(fp8.DTYPE).view(torch.uint8))


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]
