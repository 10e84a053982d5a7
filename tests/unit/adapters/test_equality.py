"""Requests with LoRA adapters, several in one batch, in whole engines: tokens are those of PEFT's merged weights.

All in float32, by transformers' greedy generate; sampled ones by an engine that serves the merged weights.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baton.v1 import inference_pb2, worker_pb2
from tests.adapters import merged, rounded
from tests.models import tiny
from tests.unit.adapters.asked import (
    NAMES,
    NUM_OUTPUTS,
    adapted_spec,
    adapters,
    check,
    expected,
    named,
    prompts,
    submit,
    submit_all,
)
from tests.unit.engine.driver import INGRESS, OPEN, Driver
from tests.unit.model.test_hybrid_engine import spec_of
from workers.model.cpu.fused import FusedLayer, PanelLayer
from workers.model.runner import TorchRunner
from workers.spec import Role
from workers.speculative.ngram import NgramDrafter

FAMILIES = ("llama", "qwen2", "gemma3_text", "phi3")
BASES = [("plain", "float32"), ("plain", "bfloat16"), ("rounded", "float32")]
SLOW = ("mistral", "qwen3", "gemma2", "olmo2", "bamba")


@pytest.fixture(autouse=True)
def _one_thread_and_closed_links() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


def test_the_adapters_change_tokens() -> None:
    base = tiny("llama")
    assert expected(base, "") != expected(base, "one") != expected(base, "two") != expected(base, "")


@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_batch_of_several_adapters_in_chunks_with_prefix_hits(family: str) -> None:
    base = tiny(family)
    driver = Driver([adapted_spec(base)], TorchRunner)
    submit_all(driver)
    check(driver, base)
    num_hits = driver.engines[0].stats.num_prefix_hit_tokens
    submit_all(driver)  # each from blocks of its own adapter
    check(driver, base)
    if family != "bamba":  # whose states are not kept here
        assert driver.engines[0].stats.num_prefix_hit_tokens >= num_hits + 3 * 4 * 10


def test_a_hybrid_of_linear_attention_with_adapters_of_its_projections() -> None:
    base = tiny("qwen3_next")
    driver = Driver([adapted_spec(base, state_cache_spacing=8)], TorchRunner)
    for _ in range(2):
        submit_all(driver)
        check(driver, base)


def test_the_handed_over_go_on_with_their_adapter() -> None:
    base = tiny("llama")
    driver = Driver([adapted_spec(base, role) for role in (Role.PREFILL, Role.DECODE)], TorchRunner)
    for _ in range(2):
        submit_all(driver)
        check(driver, base)
    assert driver.engines[0].stats.num_prefix_hit_tokens > 0


def test_guesses_of_an_adapters_answers_are_verified_with_it() -> None:
    base = tiny("llama")
    driver = Driver([adapted_spec(base)], TorchRunner, drafter=NgramDrafter())
    submit_all(driver)
    check(driver, base)


def test_sampled_tokens_of_several_choices_are_those_of_the_merged_model() -> None:
    base = tiny("llama")
    driver = Driver([adapted_spec(base)], TorchRunner)
    one = driver.engines[0].spec.adapters[0]
    alone = Driver([spec_of(merged(base, adapters(base)["one"]), state_cache_spacing=None)], TorchRunner)
    sampling = {"temperature": 0.9, "seed": 11, "choices": 3}
    for asked, adapter in ((driver, one), (alone, None)):
        submit(asked, "n", prompts()[3], adapter, **sampling)
        asked.run()
    assert [driver.answer("n", choice) for choice in range(3)] == [alone.answer("n", choice) for choice in range(3)]


def test_preempted_sequences_are_read_again_with_their_adapter() -> None:
    base = tiny("llama")
    driver = Driver([adapted_spec(base, memory_bytes=20 * 4 * 3 * 2 * 2 * 16 * 4, max_model_len=None)], TorchRunner)
    submit_all(driver)
    check(driver, base)
    assert driver.engines[0].stats.num_preemptions > 0


def test_an_attempt_that_goes_on_elsewhere_goes_on_with_its_adapter() -> None:
    base = tiny("llama")
    driver = Driver([adapted_spec(base)], TorchRunner)
    two, want = driver.engines[0].spec.adapters[1], expected(base, "two")[2]
    driver.engines[0].submit(
        INGRESS,
        worker_pb2.Submit(
            request_id="retried",
            attempt=1,
            prompt_token_ids=prompts()[2],
            choices=[worker_pb2.ChoiceStart(choice=0, output_token_ids=want[:3])],
            sampling=inference_pb2.SamplingParams(max_tokens=NUM_OUTPUTS, temperature=0.0, ignore_eos=True),
            timeout_s=100.0,
            adapter=worker_pb2.Adapter(name="two", hash=two.content_hash),
        ),
    )
    driver.run()
    assert [token for _, token in sorted(driver.tokens["retried", 0].items())] == want[3:]


def test_blocks_of_one_adapter_are_never_anothers() -> None:
    base = tiny("llama")
    driver = Driver([adapted_spec(base)], TorchRunner)
    by_name = {adapter.name: adapter for adapter in driver.engines[0].spec.adapters}
    for name in NAMES:
        submit(driver, name, prompts()[3], by_name.get(name))
        driver.run()
        assert driver.engines[0].stats.num_prefix_hit_tokens == 0, name


def base_of(kind: str) -> Path:
    return rounded(tiny("llama")) if kind == "rounded" else tiny("llama")


@pytest.mark.parametrize(("kind", "dtype"), BASES)
def test_rows_without_an_adapter_are_the_same_beside_those_that_have_one(kind: str, dtype: str) -> None:
    """To the last bit: in the same batch, once with an adapter for one row of it and once with none."""
    base = base_of(kind)
    found = []
    for with_adapter in (False, True):
        driver = Driver([replace(adapted_spec(base), dtype=dtype)], TorchRunner)
        adapter = driver.engines[0].spec.adapters[0] if with_adapter else None
        submit(driver, "bare", prompts()[2], None, logprobs=0)
        submit(driver, "adapted", prompts()[1], adapter)
        driver.run()
        found.append((driver.answer("bare"), dict(driver.logprobs["bare", 0])))
    assert found[0] == found[1]


@pytest.mark.parametrize(("kind", "dtype"), BASES)
def test_layers_are_fused_with_adapters_as_they_are_without(kind: str, dtype: str) -> None:
    base = base_of(kind)
    specs = [replace(adapted_spec(base), dtype=dtype, adapters=given) for given in ((), named(adapters(base)))]
    kinds = [{type(layer) for layer in TorchRunner(one).model.base_model.layers} for one in specs]
    assert kinds[0] == kinds[1]


def test_layers_in_c_give_way_to_their_parts_where_a_row_has_an_adapter() -> None:
    base = rounded(tiny("llama"))
    driver = Driver([adapted_spec(base)], TorchRunner)
    layers = driver.engines[0].runner.model.base_model.layers  # type: ignore[attr-defined]
    assert {type(layer) for layer in layers} <= {PanelLayer, FusedLayer}  # the second where there is no compiler
    submit_all(driver)
    check(driver, base)
