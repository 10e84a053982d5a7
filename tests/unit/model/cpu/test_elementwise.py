"""The one-pass kernels give what the library's chains of ops give, and replace nothing that differs."""

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from workers.model.cpu import elementwise as cpu_elementwise

pytestmark = [
    pytest.mark.skipif(not cpu_elementwise.available(), reason="no C compiler"),
    pytest.mark.usefixtures("isa"),
]
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _draw(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("width", [5, 16, 67, 288])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma2RMSNorm])
def test_a_norm_is_replaced_by_one_that_gives_its_numbers(kind: type, width: int, dtype: torch.dtype) -> None:
    norm = kind(width, eps=1e-6).to(dtype)
    with torch.no_grad():
        norm.weight.add_(_draw(width, dtype=dtype))
    x = _draw(1, 9, width, dtype=dtype)
    wanted = norm(x)
    assert cpu_elementwise.replace(nn.Sequential(norm), dtype) == 1
    torch.testing.assert_close(norm(x), wanted, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
    strided = _draw(1, 3, 4, width, dtype=dtype).transpose(1, 2)
    torch.testing.assert_close(norm(strided), norm(strided.contiguous()))


class HalvedRMSNorm(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) * 0.5


def test_a_norm_that_computes_something_else_is_left_alone() -> None:
    norm = HalvedRMSNorm(16, eps=1e-6)
    assert cpu_elementwise.replace(nn.Sequential(norm), torch.float32) == 0
    assert "forward" not in norm.__dict__


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("dim", [6, 32, 48, 128])
def test_the_rotary_kernel_gives_llamas_numbers(dim: int, dtype: torch.dtype) -> None:
    q = _draw(1, 7, 5, dim, dtype=dtype).transpose(1, 2)  # heads 5, tokens 7, as a projection's view
    k = _draw(1, 7, 2 * dim, dtype=dtype).view(1, 7, 2, dim).transpose(1, 2)
    cos, sin = _draw(1, 7, dim, dtype=dtype).cos(), _draw(1, 7, dim, dtype=dtype).sin()
    for found, wanted in zip(
        cpu_elementwise.rotary(q, k, cos, sin), modeling_llama.apply_rotary_pos_emb(q, k, cos, sin), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_a_rotary_function_of_another_kind_is_left_alone() -> None:
    is_rotary = cpu_elementwise._is_rotary
    assert is_rotary(modeling_llama.apply_rotary_pos_emb, 16, torch.float32)
    assert not is_rotary(modeling_gpt_oss.apply_rotary_pos_emb, 16, torch.float32)


def test_the_library_keeps_its_own_rotary_function() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    before = modeling_llama.apply_rotary_pos_emb
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    first, second = LlamaForCausalLM(config).eval(), LlamaForCausalLM(config).eval()
    second.load_state_dict(first.state_dict())
    assert cpu_elementwise.replace(first, torch.float32) == 4  # three norms and one attention
    assert modeling_llama.apply_rotary_pos_emb is before
    tokens = torch.arange(9)[None]
    torch.testing.assert_close(first(tokens).logits, second(tokens).logits)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_keys_and_values_are_written_to_their_slots_alone(dtype: torch.dtype) -> None:
    key, value = _draw(1, 4, 3, 8, dtype=dtype), _draw(1, 4, 3, 8, dtype=dtype).neg().transpose(1, 2).contiguous()
    k_rows, v_rows = torch.zeros(2, 10, 4, 8, dtype=dtype)
    slots = torch.tensor([7, 0, 3])
    cpu_elementwise.write_kv(key, value.transpose(1, 2), k_rows, v_rows, slots)
    assert k_rows[slots].equal(key[0].transpose(0, 1))
    assert v_rows[slots].equal(value[0])
    assert int(k_rows.count_nonzero()) == key.numel()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("width", [1, 16, 100])
def test_silu_times_the_other_half_is_that_of_torch_from_far_below_zero_to_far_above(
    width: int, dtype: torch.dtype
) -> None:
    x = _draw(3, 2 * width, dtype=dtype) * 40
    x[0, 0], x[1, 0] = -1e4, 1e4
    wanted = torch.nn.functional.silu(x[:, :width].double()) * x[:, width:].double()
    torch.testing.assert_close(
        cpu_elementwise.silu_mul(x).double(), wanted, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype]
    )
