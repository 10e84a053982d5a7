"""Whether a worker fits, and what it says when it does not."""

from cluster.config.schema import EngineConfig
from cluster.contracts.latency import Parallelism
from cluster.planner.costs.devices import known_device
from cluster.planner.costs.fitted import FittedLatency, Profile
from cluster.planner.costs.memory import MAX_MEMORY_SHARE, Footprint, fit
from cluster.planner.costs.profile_costs import ProfileCosts
from cluster.planner.costs.spec_costs import SpecCosts
from cluster.planner.models.known_models import known_model
from workers.memory_shares import share_memory

FOOTPRINT = Footprint(weight_bytes=400, activation_bytes=100, token_bytes=1.0)


def test_what_weights_and_a_step_leave_is_blocks() -> None:
    fitted = fit(FOOTPRINT, device_bytes=1000, block_size=10, max_request_tokens=99)
    assert fitted.num_blocks == (900 - 500) // 10
    assert fitted.fits
    assert fitted.min_blocks == 10
    assert fitted.headroom_share == (400 - 100) / 1000


def test_a_worker_must_hold_the_longest_request() -> None:
    fitted = fit(FOOTPRINT, device_bytes=1000, block_size=10, max_request_tokens=400)
    assert not fitted.fits
    enough = fit(FOOTPRINT, device_bytes=fitted.needed_bytes + 1, block_size=10, max_request_tokens=400)
    assert enough.fits


def test_weights_larger_than_the_device_leave_no_blocks() -> None:
    fitted = fit(FOOTPRINT, device_bytes=500, block_size=10, max_request_tokens=1)
    assert (fitted.num_blocks, fitted.fits, fitted.headroom_share) == (0, False, 0.0)
    assert fitted.needed_bytes > 500


def test_a_known_model_takes_its_weights_and_kv() -> None:
    costs = SpecCosts(model=known_model("meta-llama/Llama-3.1-8B"), device=known_device("h200"))
    whole = costs.footprint(Parallelism(), EngineConfig())
    assert abs(whole.weight_bytes - 8.03e9 * 2) < 0.02e9  # 8.03 B parameters in bfloat16
    assert whole.token_bytes == 2 * 32 * 8 * 128 * 2  # keys and values, layers, KV heads, head, bytes
    half = costs.footprint(Parallelism(tensor=2), EngineConfig())
    assert abs(half.weight_bytes * 2 - whole.weight_bytes) < 4
    assert half.token_bytes * 2 == whole.token_bytes
    copied = costs.footprint(Parallelism(tensor=16), EngineConfig())
    assert copied.token_bytes * 8 == whole.token_bytes  # 8 KV heads: two ranks hold each
    staged = costs.footprint(Parallelism(pipeline=2), EngineConfig())
    assert whole.weight_bytes / 2 < staged.weight_bytes < whole.weight_bytes * 0.55
    assert costs.device_bytes * MAX_MEMORY_SHARE > whole.weight_bytes


def test_a_profiled_worker_has_the_blocks_that_it_counts_itself() -> None:
    """With states, of which it keeps a slot for each sequence and some for the prefix cache."""
    profile = profile_of(token_bytes=640, state_bytes=10_000)
    engine = EngineConfig(memory_bytes=9_000_000, max_sequences=16, max_batched_tokens=256)
    costs = ProfileCosts(profile=profile, kv_bytes=engine.memory_bytes)
    fitted = fit(
        costs.footprint(Parallelism(), engine),
        device_bytes=costs.device_bytes,
        block_size=engine.block_size,
        max_request_tokens=100,
    )
    shares = share_memory(engine, token_nbytes=640, state_nbytes=10_000)
    assert shares.num_states > engine.max_sequences
    assert abs(fitted.num_blocks - shares.num_blocks) <= 1


def test_ranks_that_divide_heads_hold_a_share_and_those_that_divide_prompts_all_of_it() -> None:
    costs = ProfileCosts(profile=profile_of(token_bytes=640, state_bytes=10_000), kv_bytes=1 << 20)
    whole = costs.footprint(Parallelism(), EngineConfig())
    assert costs.footprint(Parallelism(sequence=2), EngineConfig()) == whole
    half = costs.footprint(Parallelism(tensor=2), EngineConfig())
    assert (half.token_bytes * 2, half.activation_bytes * 2) == (whole.token_bytes, whole.activation_bytes)


def profile_of(**changes: int) -> Profile:
    latency = FittedLatency(
        base_s=0.001,
        prompt_s=0.0,
        decode_s=0.0,
        knots=(0,),
        slopes_s=(0.0,),
        chunk_s=0.0,
        pair_s=0.0,
        read_s=0.0,
        sequence_s=0.0,
        context_s=0.0,
    )
    return Profile(
        model="m",
        fingerprint="f",
        dtype="float32",
        machine="a test",
        num_layers=2,
        max_model_len=512,
        latencies={"1": latency},
        **changes,  # type: ignore[arg-type]
    )
