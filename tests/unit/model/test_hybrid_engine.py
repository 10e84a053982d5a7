"""Models with layers of linear attention in whole engines: chunks, preemption, prefix hits, choices, hand-overs.

All answers are the greedy tokens of transformers' generate, in float32.
"""

import contextlib
import functools
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baton.errors import ConfigError
from baton.v1 import inference_pb2, worker_pb2
from cluster.planner.models.model_spec import ModelSpec
from tests.models import COMMON, HYBRIDS, tiny
from tests.unit.engine.driver import INGRESS, OPEN, Driver
from tests.unit.kv_transfer.harness import Server
from tests.unit.model.driver import generate, prompts_of
from workers.engine.stateful_blocks import StatefulBlocks
from workers.kv_transfer.grpc_link import make_inbox, make_outbox
from workers.memory_shares import share_memory
from workers.model.loader import load_model
from workers.model.runner import TorchRunner
from workers.profiled import facts
from workers.spec import EngineSpec, KVSpec, Role, WorkerSpec

NUM_OUTPUTS = 12
FAMILY = "qwen3_next"  # where one stands for all
KINDS = (FAMILY, "minimax", "bamba", "kimi_linear")  # one of each kind of recurrence
SOME_FAMILIES = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in HYBRIDS]
LENGTHS = (1, 3, 4, 9, 16, 17, 30, 41)


@pytest.fixture(autouse=True)
def _one_thread_and_closed_links() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


@functools.cache
def prompts() -> list[list[int]]:
    """The last two begin as another does."""
    given = prompts_of(random.Random(9), LENGTHS, 160)
    return [*given, [*given[-1][:33], 5, 6, 7], [*given[-2][:20], 9]]


@functools.cache
def expected(family: str) -> list[list[int]]:
    return [found.tokens for found in generate(tiny(family), prompts(), NUM_OUTPUTS)]


def spec_of(folder: Path, role: Role = Role.MIXED, dtype: str = "float32", **engine: object) -> WorkerSpec:
    settings: dict[str, object] = {"block_size": 4, "memory_bytes": 8 << 20, "max_model_len": 96, "max_sequences": 8}
    settings |= {"max_batched_tokens": 24, "state_cache_spacing": 8}
    return WorkerSpec(
        worker_id=f"{role.value}-0",
        role=role,
        model=str(folder),
        served_name="test",
        dtype=dtype,
        device="cpu",
        engine=EngineSpec(**(settings | engine)),  # type: ignore[arg-type]
        kv=KVSpec(lease_s=5.0),
        secret="s",
    )


@functools.cache
def shared_runner(spec: WorkerSpec) -> TorchRunner:
    return TorchRunner(spec)


def mixed(family: str, **engine: object) -> Driver:
    return Driver([spec_of(tiny(family), **engine)], shared_runner)


def submit_all(driver: Driver) -> None:
    for index, prompt in enumerate(prompts()):
        driver.submit(f"r{index}", prompt, max_tokens=NUM_OUTPUTS)
        driver.step()


def check(driver: Driver, family: str) -> None:
    driver.run()
    for engine in driver.engines:
        assert isinstance(engine.blocks, StatefulBlocks)
        assert engine.blocks.slots.num_free == engine.runner.num_states, "a slot is held"
    assert [driver.answer(f"r{index}") for index in range(len(prompts()))] == expected(family)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_prompts_in_chunks_beside_decodes_with_prefix_hits(family: str) -> None:
    driver = mixed(family)
    submit_all(driver)
    check(driver, family)
    num_hits = driver.engines[0].stats.num_prefix_hit_tokens
    driver.tokens.clear(), driver.finals.clear()
    submit_all(driver)  # from stored states, all but the first tokens
    check(driver, family)
    assert driver.engines[0].stats.num_prefix_hit_tokens >= num_hits + 4 * 8


@pytest.mark.parametrize("family", ["minimax", "qwen3_next", "qwen3_5_text", "bamba", "granitemoehybrid"])
def test_the_planner_counts_the_bytes_that_a_worker_does(family: str) -> None:
    spec = spec_of(tiny(family))
    runner = shared_runner(spec)
    found = facts(runner)
    model = ModelSpec.from_config(json.loads((tiny(family) / "config.json").read_text()), dtype="float32")
    assert (model.kv_bytes_per_token, model.state_bytes) == (found["token_bytes"], found["state_bytes"])
    shares = share_memory(spec.engine, token_nbytes=model.kv_bytes_per_token, state_nbytes=model.state_bytes)
    assert shares == (runner.num_blocks, runner.num_states, runner.state_spacing)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_prompts_that_are_handed_over(family: str) -> None:
    specs = [spec_of(tiny(family), role) for role in (Role.PREFILL, Role.DECODE)]
    driver = Driver(specs, lambda spec: TorchRunner(spec))
    for _ in range(2):  # then with prefixes cached on both sides
        submit_all(driver)
        check(driver, family)
        driver.tokens.clear(), driver.finals.clear()
    assert driver.engines[0].stats.num_prefix_hit_tokens > 0


def run_short_of_blocks(driver: Driver, num_left: int = 32) -> None:
    """All requests, with so few blocks that some sequences lose theirs."""
    engine = driver.engines[0]
    blocks = engine.blocks
    held = [blocks._free.take(blocks.num_blocks) for _ in range(blocks.num_blocks - num_left)]
    blocks._quarantined["held"], blocks._num_quarantined = held, len(held)
    submit_all(driver)
    for _ in range(2000):
        driver.step()
        if engine.is_idle:
            break
    blocks.release_quarantine("held")
    assert engine.stats.num_preemptions > 0


def test_sequences_that_lose_their_blocks() -> None:
    runner = shared_runner(spec_of(tiny(FAMILY)))
    driver = mixed(FAMILY)
    run_short_of_blocks(driver)
    check(driver, FAMILY)
    assert runner is driver.engines[0].runner


def test_choices_of_one_prompt_and_an_attempt_that_goes_on() -> None:
    driver = mixed(FAMILY)
    driver.submit("forked", prompts()[6], choices=2, max_tokens=NUM_OUTPUTS)
    half = expected(FAMILY)[7][:5]
    driver.engines[0].submit(
        INGRESS,
        worker_pb2.Submit(
            request_id="retried",
            attempt=1,
            prompt_token_ids=prompts()[7],
            choices=[worker_pb2.ChoiceStart(choice=0, output_token_ids=half)],
            sampling=inference_pb2.SamplingParams(max_tokens=NUM_OUTPUTS, temperature=0.0, ignore_eos=True),
            timeout_s=100.0,
        ),
    )
    driver.run()
    assert driver.answer("forked", 0) == driver.answer("forked", 1) == expected(FAMILY)[6]
    assert [*half, *(token for _, token in sorted(driver.tokens["retried", 0].items()))] == expected(FAMILY)[7]


@contextlib.contextmanager
def linked(transport: str, family: str) -> Iterator[Driver]:
    """Prefill and decode over the links that workers have."""
    specs = [
        replace(spec_of(tiny(family), role), kv=KVSpec(lease_s=5.0, transport=transport))
        for role in (Role.PREFILL, Role.DECODE)
    ]
    driver = Driver(specs, lambda spec: TorchRunner(spec))
    OPEN.pop().close()
    prefill, decode = driver.engines
    names = {"fingerprint": prefill.runner.fingerprint, "notify": lambda: None}
    inbox, servicer = make_inbox(runner_store=decode.runner.store, spec=specs[1], incarnation="d", **names)  # type: ignore[arg-type]
    server = Server(servicer)
    outbox = make_outbox(runner_store=prefill.runner.store, spec=specs[0], incarnation="p", **names)  # type: ignore[arg-type]
    prefill.connect(outbox, None)
    decode.connect(None, inbox)
    driver.route = worker_pb2.DecodeRoute(worker_id="decode-0", incarnation="d", address=server.address)
    try:
        yield driver
    finally:
        outbox.close()
        inbox.close()
        server.stop()


@pytest.mark.parametrize("transport", ["shm", "gloo", "grpc"])
def test_states_travel_over_every_transport(transport: str) -> None:
    with linked(transport, FAMILY) as driver:
        submit_all(driver)
        check(driver, FAMILY)
        state_nbytes = sum(shape.nbytes for shape in driver.engines[0].runner.store.shapes[::2])  # type: ignore[attr-defined]
        assert driver.engines[0].load.kv_bytes_sent > state_nbytes * len(prompts())


def test_bfloat16_runs_and_stays_near_float32() -> None:
    for family in HYBRIDS:
        driver = Driver([spec_of(tiny(family), dtype="bfloat16")], lambda spec: TorchRunner(spec))
        driver.submit("r", prompts()[5], max_tokens=4, logprobs=1)
        driver.run()
        assert len(driver.answer("r")) == 4
        first = generate(tiny(family), [prompts()[5]], 1)[0]
        if driver.answer("r")[0] == first.tokens[0]:
            assert abs(driver.logprobs["r", 0][0] - first.logprobs[0]) < 0.5


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_a_multimodal_checkpoint_is_served_as_its_text_model(tmp_path: Path, family: str) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 64}
    text = {**COMMON, **HYBRIDS[f"{family}_text"]}
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    _check_one_answer(tmp_path)


def test_a_checkpoint_with_the_old_names_of_layers_is_served(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny("granitemoehybrid_dense"), tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    config["layer_types"] = ["mamba", "attention", "mamba"]  # as in Granite's own
    (folder / "config.json").write_text(json.dumps(config))
    _check_one_answer(folder)


def _check_one_answer(folder: Path) -> None:
    driver = Driver([spec_of(folder)], lambda spec: TorchRunner(spec))
    driver.submit("r", prompts()[5], max_tokens=6)
    driver.run()
    assert driver.answer("r") == generate(folder, [prompts()[5]], 6)[0].tokens


def test_states_further_apart_than_any_sequence_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"state_cache_spacing: 1000 tokens are not below the longest sequence, 256: "
    ):
        TorchRunner(spec_of(tiny(FAMILY), state_cache_spacing=1000, max_model_len=None))


def test_memory_that_does_not_hold_blocks_and_states_is_refused_with_both() -> None:
    with pytest.raises(ConfigError, match=r"bytes hold 7 KV blocks .* beside states .* engine.max_sequences 8; 24"):
        TorchRunner(spec_of(tiny(FAMILY), memory_bytes=1 << 16, max_sequences=8))


def test_a_spacing_of_states_is_refused_for_a_model_without() -> None:
    with pytest.raises(ConfigError, match=r"engine.state_cache_spacing: 8 is for models with layers of linear"):
        TorchRunner(spec_of(tiny("llama")))


def test_an_unknown_kind_of_layer_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("olmo_hybrid", num_hidden_layers=4).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"'olmo_hybrid' has layers of type linear_attention; served are .*minimax"):
        load_model(spec_of(tmp_path))
