"""What every latency model must keep to, and what the coefficient and roofline ones say in numbers."""

import itertools
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import ConfigError
from bench.roofline_error import ClosedLoop, Point, all_points, steady_tpot_s
from cluster.contracts.latency import LatencyModel, Parallelism, PromptChunk
from cluster.planner.costs.coefficients import CoefficientLatency, DecodeFit, PrefillFit
from cluster.planner.costs.devices import DEVICES, known_device
from cluster.planner.costs.fitted import FittedLatency
from cluster.planner.costs.roofline import RooflineLatency
from cluster.planner.models.known_models import known_model
from cluster.planner.models.model_spec import ModelSpec

DATA = Path(os.environ.get("BATON_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
PROFILE = DATA / "distserve_ground_truth" / "profile_data" / "profiler-a100-80g.distserve.json"

# OPT-13B on one A100 (DistServe's simulator), overhead made up.
DISTSERVE = CoefficientLatency(
    prefill=PrefillFit(base_s=18.1e-3, per_token_s=0.1019e-3, per_square_s=7.12e-9),
    decode_small=DecodeFit(base_s=19.93e-3, per_context_s=6.27e-7, per_sequence_s=3.85e-5),
    decode_large=DecodeFit(base_s=7.17e-3, per_context_s=5.8e-7, per_sequence_s=1.583e-4),
    large_from=95,
    overhead_s=1e-3,
)

FITTED = FittedLatency(
    base_s=2e-3,
    prompt_s=1e-4,
    decode_s=1e-3,
    knots=(0, 8, 128),
    slopes_s=(3e-5, 5e-5, 1e-5),
    chunk_s=2e-4,
    pair_s=3e-9,
    read_s=1e-7,
    sequence_s=2e-5,
    context_s=4e-8,
)


def roofline(model: str, device: str = "h100", **degrees: int) -> RooflineLatency:
    return RooflineLatency.of(known_model(model), known_device(device), Parallelism(**degrees))


MODELS: dict[str, LatencyModel] = {
    "coefficients": DISTSERVE,
    "fitted": FITTED,
    "roofline, dense": roofline("meta-llama/Llama-3.1-8B"),
    "roofline, windows": roofline("mistralai/Mistral-7B-v0.1"),
    "roofline, experts": roofline("Qwen/Qwen3-30B-A3B", tensor=2),
    "roofline, hybrid": roofline("Qwen/Qwen3-Next-80B-A3B-Instruct", tensor=4),
    "roofline, stages": roofline("meta-llama/Llama-3.1-70B", tensor=2, pipeline=3),
    "roofline, cpu": roofline("Qwen/Qwen3-0.6B", "epyc-2c"),
    "roofline, heads and prompts": roofline("Qwen/Qwen3-0.6B", tensor=2, sequence=2),
}
every_model = pytest.mark.parametrize("name", MODELS)
batches, contexts = st.integers(1, 300), st.integers(0, 20_000)


@every_model
@given(batch=batches, context=contexts, num_steps=st.integers(0, 200))
def test_steps_in_a_row_take_the_sum_of_their_steps(name: str, batch: int, context: int, num_steps: int) -> None:
    model, start = MODELS[name], batch * context
    each = [model.step_s((), batch, start + step * batch) for step in range(num_steps)]
    assert model.decode_steps_s(batch, start, num_steps) == pytest.approx(sum(each), rel=1e-9)


@every_model
@given(batch=batches, context=contexts, tokens=st.integers(1, 4000), before=contexts)
def test_more_work_never_takes_less_time(name: str, batch: int, context: int, tokens: int, before: int) -> None:
    model = MODELS[name]
    chunk = (PromptChunk(tokens, before),)
    mixed_s = model.step_s(chunk, batch, batch * context)
    assert 0 < model.step_s(chunk, 0, 0) <= mixed_s
    assert model.step_s((), batch, batch * context) <= mixed_s
    assert mixed_s <= model.step_s((PromptChunk(tokens + 1, before),), batch, batch * context)
    assert mixed_s <= model.step_s((PromptChunk(tokens, before + 1),), batch, batch * context)
    assert mixed_s <= model.step_s(chunk, batch, batch * context + 1)


@every_model
@given(tokens=st.integers(2, 6000), data=st.data())
def test_two_chunks_take_longer_than_the_prompt_at_once(name: str, tokens: int, data: st.DataObject) -> None:
    model, cut = MODELS[name], data.draw(st.integers(1, tokens - 1))
    whole_s = model.step_s((PromptChunk(tokens, 0),), 0, 0)
    assert whole_s <= model.step_s((PromptChunk(cut, 0),), 0, 0) + model.step_s((PromptChunk(tokens - cut, cut),), 0, 0)


@every_model
def test_an_empty_step_takes_no_time(name: str) -> None:
    assert MODELS[name].step_s((), 0, 0) == 0.0
    assert MODELS[name].decode_steps_s(0, 0, 5) == 0.0


def test_ranks_that_hold_copies_of_a_key_each_pass_theirs_around() -> None:
    few, whole = "Qwen/Qwen3-30B-A3B", PromptChunk(4096, 0)  # 4 KV heads
    passed_s = {tensor: roofline(few, tensor=tensor, sequence=2).passed_token_s for tensor in (1, 4, 8)}
    assert passed_s[4] == passed_s[1] / 4 == passed_s[8]
    assert roofline(few, tensor=2, sequence=2).step_s((whole,), 0, 0) < roofline(few, tensor=2).step_s((whole,), 0, 0)


def test_coefficients_add_up_as_published() -> None:
    prompts = (PromptChunk(100, 0), PromptChunk(300, 0))
    squares = 100**2 + 300**2
    assert DISTSERVE.step_s(prompts, 0, 0) == pytest.approx(1e-3 + 18.1e-3 + 0.1019e-3 * 400 + 7.12e-9 * squares)
    assert DISTSERVE.step_s((), 94, 5000) == pytest.approx(1e-3 + 19.93e-3 + 6.27e-7 * 5000 + 3.85e-5 * 94)
    assert DISTSERVE.step_s((), 95, 5000) == pytest.approx(1e-3 + 7.17e-3 + 5.8e-7 * 5000 + 1.583e-4 * 95)


def test_a_mixed_step_reads_the_weights_once() -> None:
    mixed_s = DISTSERVE.step_s((PromptChunk(256, 0),), 8, 800)
    apart_s = DISTSERVE.step_s((PromptChunk(256, 0),), 0, 0) + DISTSERVE.step_s((), 8, 800)
    assert apart_s - mixed_s == pytest.approx(18.1e-3 + 1e-3)


def test_a_distserve_profile_is_read_by_model_and_degree() -> None:
    if not PROFILE.exists():
        pytest.skip(f"distserve_ground_truth/profile_data is not below {DATA}")
    profile = json.loads(PROFILE.read_text())
    model = CoefficientLatency.from_profile(profile, "facebook/opt-13b", Parallelism(tensor=2, pipeline=2))
    assert model.pipeline_stages == 2
    assert model.step_s((PromptChunk(1000, 0),), 0, 0) == pytest.approx((14.743 + 68.577 + 2.4496) * 1e-3, rel=1e-4)
    with pytest.raises(ConfigError, match=r"no 'facebook/opt-1b' \(model\); it has facebook/opt-13b, facebook/opt-66b"):
        CoefficientLatency.from_profile(profile, "facebook/opt-1b", Parallelism())
    with pytest.raises(ConfigError, match=r"no '3' .*; it has 1, 2, 4"):
        CoefficientLatency.from_profile(profile, "facebook/opt-13b", Parallelism(tensor=3))
    with pytest.raises(ConfigError, match="sequence_parallel 2"):
        CoefficientLatency.from_profile(profile, "facebook/opt-13b", Parallelism(sequence=2))


def test_a_broken_profile_is_named() -> None:
    fields = {"prefill": [1, 2], "decoding_smallbs": [1, 2, 3], "decoding_largebs": [1, 2, 3]}
    with pytest.raises(ConfigError, match=r"m, tensor_parallel 1: prefill \[1, 2\] must be three numbers"):
        CoefficientLatency.from_profile({"m": {"1": fields}}, "m", Parallelism())
    with pytest.raises(ConfigError, match="no 'decoding_smallbs'"):
        CoefficientLatency.from_profile({"m": {"1": {}}}, "m", Parallelism())


def test_a_small_batch_takes_as_long_as_reading_the_weights() -> None:
    device = known_device("h100")
    model = known_model("meta-llama/Llama-3.1-8B")
    read_s = model.decode_bytes(1, 1000) / (device.memory_bandwidth * device.efficiency.memory)
    assert roofline(model.name).step_s((), 1, 1000) == pytest.approx(read_s, rel=0.25)


def test_a_long_prompt_takes_as_long_as_its_operations() -> None:
    device, model = known_device("a100-80g"), known_model("meta-llama/Llama-3.1-70B")
    flops_s = model.prefill_flops(4096) / 4 / (device.bf16_flops * device.efficiency.compute)
    assert roofline(model.name, "a100-80g", tensor=4).step_s((PromptChunk(4096, 0),), 0, 0) == pytest.approx(
        flops_s, rel=0.25
    )


def test_tensor_parallel_steps_gain_less_than_their_degree() -> None:
    steps_s = [roofline("meta-llama/Llama-3.1-70B", tensor=degree).step_s((), 32, 32_000) for degree in (1, 2, 4, 8)]
    gains = [before / after for before, after in itertools.pairwise(steps_s)]
    assert all(1.2 < gain < 2 for gain in gains)
    assert gains == sorted(gains, reverse=True)


def test_stages_speed_up_the_rhythm_and_not_the_step() -> None:
    one, two = (roofline("meta-llama/Llama-3.1-70B", tensor=4, pipeline=degree) for degree in (1, 2))
    chunk = (PromptChunk(2048, 0),)
    assert one.step_s(chunk, 0, 0) < two.step_s(chunk, 0, 0) < 1.05 * one.step_s(chunk, 0, 0)
    assert two.pipeline_stages == 2
    three = roofline("meta-llama/Llama-3.1-70B", tensor=4, pipeline=3)  # 27 of 80 layers at most
    assert three.step_s(chunk, 0, 0) / one.step_s(chunk, 0, 0) == pytest.approx(81 / 80, abs=0.02)


def test_sequence_parallel_ranks_read_long_prompts_faster_and_decode_no_faster() -> None:
    one, four = (roofline("meta-llama/Llama-3.1-8B", sequence=degree) for degree in (1, 4))
    long = (PromptChunk(32_768, 0),)
    assert 3 < one.step_s(long, 0, 0) / four.step_s(long, 0, 0) < 4
    assert one.step_s((), 8, 8000) == four.step_s((), 8, 8000)


def test_degrees_that_do_not_divide_the_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel 3 does not divide .*32 heads and 8 KV heads"):
        roofline("meta-llama/Llama-3.1-8B", tensor=3)
    with pytest.raises(ConfigError, match=r"pipeline_parallel 33 is more than .*32 layers"):
        roofline("meta-llama/Llama-3.1-8B", pipeline=33)


def test_unknown_hardware_is_refused_with_the_known() -> None:
    with pytest.raises(ConfigError, match=rf"hardware 'h800' is not known; give one of: {', '.join(DEVICES)}"):
        known_device("h800")
    assert known_device("H200").name == "h200"


def test_the_cpus_constants_give_the_figures_they_come_from() -> None:
    """The README's, of `python -m bench.engine`: a Llama of 150 M parameters on two cores."""
    fields = {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 8}
    others = {"intermediate_size": 2816, "vocab_size": 4096, "max_position_embeddings": 8192}
    model = ModelSpec.from_config({**fields, **others, "tie_word_embeddings": True})
    latency = RooflineLatency.of(model, known_device("epyc-2c"), Parallelism())
    steps_ms = [1000 * latency.step_s((), batch, 100 * batch) for batch in (1, 16, 64)]
    assert steps_ms == pytest.approx([7.1, 13.6, 36.9], rel=0.1)
    assert 1000 * latency.step_s((PromptChunk(2048, 0),), 0, 0) == pytest.approx(816, rel=0.1)


def test_clients_that_wait_for_their_first_token_are_no_batch() -> None:
    latency = roofline("Qwen/Qwen3-32B", tensor=2)
    at_once = ClosedLoop(isl=1024, osl=128, num_clients=64, ttft_s=0.0, max_context=1 << 30)
    assert at_once.tpot_s(latency) == (steady_tpot_s(latency, 1024, 128, 64), 64)
    waiting = ClosedLoop(isl=1024, osl=128, num_clients=64, ttft_s=2.5, max_context=1 << 30)
    tpot_s, batch = waiting.tpot_s(latency)
    assert batch == pytest.approx(64 * 127 * tpot_s / (127 * tpot_s + 2.5), abs=1)
    held = ClosedLoop(isl=1024, osl=128, num_clients=64, ttft_s=0.0, max_context=10 * (1024 + 64))
    assert held.tpot_s(latency)[1] == 10


def test_prompts_beyond_what_devices_can_do_are_seen() -> None:
    model, device = known_model("meta-llama/Llama-3.1-8B"), known_device("h100")
    loop = ClosedLoop(isl=1000, osl=2, num_clients=1, ttft_s=0.0, max_context=1 << 30)
    flops = model.prefill_flops(1000)
    only_prompts_s = flops / (device.bf16_flops * 0.89)
    assert loop.load(model, device, Parallelism(), 2 * only_prompts_s) == pytest.approx(0.5, abs=0.05)
    assert loop.load(model, device, Parallelism(), only_prompts_s) > 1


@cache
def measured_points() -> list[Point]:
    return list(all_points(DATA))


@pytest.mark.parametrize(
    ("source", "limit"),
    [  # median of |predicted / measured - 1|; what `python -m bench.roofline_error` prints, and some room
        ("trtllm Llama-3.1-8B-Instruct bf16 h100_sxm TPOT", 0.10),
        ("vllm Llama-3.1-70B fp8 h200_sxm TPOT", 0.12),
        ("sglang Llama-3.1-8B-Instruct fp8 h200_sxm TPOT", 0.15),
        ("distserve opt-66b a100 decode", 0.15),
    ],
)
def test_the_roofline_stays_near_measured_points(source: str, limit: float) -> None:
    if not (DATA / "aiconfigurator" / "silicon_sample.csv").exists() or not PROFILE.exists():
        pytest.skip(f"aiconfigurator and distserve_ground_truth are not below {DATA}")
    errors = [
        point.predicted_s / point.measured_s - 1
        for point in measured_points()
        if point.source == source and point.is_possible
    ]
    assert errors
    assert np.median(np.abs(errors)) < limit
