"""The runner on a CUDA device: equality with generate, graphs replayed or not, and blocks that leave the device."""

import random
from pathlib import Path

import pytest
import torch

from tests.models import FAMILIES, HYBRIDS, tiny
from tests.unit.engine.driver import Driver as EngineDriver
from tests.unit.model.cuda.steps import BLOCK, assert_replayed, eagerly, fill_blocks, random_step
from tests.unit.model.driver import Driver, count_differences, generate, make_spec, prompts_of
from tests.unit.model.prompt_scores import NUM_TOP, references
from tests.unit.model.scaled import scaled
from workers.model.contract import Chunk, Row
from workers.model.cuda.attention import flashinfer_available
from workers.model.cuda.choose import Chosen
from workers.model.cuda.fp8_support import CAPABILITY
from workers.model.cuda.inputs import Taken
from workers.model.cuda.ways import FlashInferWay, ways
from workers.model.memory_account import Part
from workers.model.runner import TorchRunner
from workers.spec import KVSpec

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
LENGTHS = (1, 3, 8, 21, 40)


@pytest.fixture(autouse=True)
def _exact_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("family", [*FAMILIES, *HYBRIDS])
def test_tokens_and_logprobs_are_those_of_generate(family: str) -> None:
    given = prompts_of(random.Random(5), LENGTHS, 160)
    driver = Driver(TorchRunner(make_spec(tiny(family), device="cuda")), seed=1)
    for prompt in given:
        driver.add(prompt, 10)
    driver.finish()
    assert count_differences(driver.streams, generate(tiny(family), given, 10), tolerance=1e-3) == 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_next"])
def test_prompts_are_as_likely_as_transformers_says(family: str) -> None:
    folder, prompt = tiny(family), prompts_of(random.Random(8), (40,), 160)[0]
    (want,) = references(folder, [prompt])
    driver = EngineDriver([make_spec(folder, device="cuda")], TorchRunner)
    driver.submit("r", prompt, prompt_logprobs=NUM_TOP)
    driver.run()
    told = [value for news in driver.prompts["r"] for value in news.logprobs]
    assert told == pytest.approx(want.logprobs, abs=1e-3)


def test_a_replayed_step_gives_what_an_eager_one_gives() -> None:
    given = prompts_of(random.Random(6), LENGTHS, 160)
    drivers = []
    for is_eager in (False, True):
        runner = TorchRunner(make_spec(tiny("llama"), device="cuda"), native=not is_eager)
        runner.warm_up()
        assert (runner.graphs is None) == is_eager
        driver = Driver(runner, seed=2)
        for prompt in given:
            driver.add(prompt, 20)
        driver.finish()
        drivers.append(driver)
    assert [s.tokens for s in drivers[0].streams] == [s.tokens for s in drivers[1].streams]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_steps_of_all_kinds_have_the_logits_and_blocks_of_eager_ones(family: str) -> None:
    runner = TorchRunner(make_spec(tiny(family), block_size=BLOCK, device="cuda"))
    if runner.graphs is None or not runner.graphs.sizes.has_mixed:
        pytest.skip("Triton is not installed")
    runner.warm_up()
    num_usual = runner.graphs.num_captured
    assert num_usual == len(list(runner.graphs.sizes.usual()))
    fill_blocks(runner)
    rng = random.Random(4)
    for _ in range(40):
        assert_replayed(runner, *random_step(rng, 60), tolerance=1e-3)
    assert runner.graphs.num_captured > num_usual, "trees are captured when they come"


def test_a_token_that_only_the_device_knows_is_replayed_after() -> None:
    runner = TorchRunner(make_spec(tiny("llama"), block_size=BLOCK, device="cuda"))
    graphs = runner.graphs
    assert graphs is not None
    runner.warm_up()
    first = Chunk(token_ids=[9], start=3, block_ids=[7, 8], num_sequence_tokens=4)
    for _ in range(4):  # the host does not wait in between
        fill_blocks(runner)
        logits = graphs.run([first], [Row(0, 0)])
        assert logits is not None
        drawn = logits.argmax(-1)
        unknown = Chunk(token_ids=[0], start=4, block_ids=[7, 8], num_sequence_tokens=5)
        found = graphs.run([unknown], [Row(0, 0)], Taken(source=drawn, where=[0], rows=[0]))
        assert found is not None
        found = found.clone()
        known = Chunk(token_ids=drawn.tolist(), start=4, block_ids=[7, 8], num_sequence_tokens=5)
        want, _ = eagerly(runner, [known], [Row(0, 0)])
        torch.testing.assert_close(found, want, atol=1e-3, rtol=0)


def test_the_account_of_memory_has_every_part() -> None:
    runner = TorchRunner(make_spec(tiny("llama"), device="cuda"))
    runner.warm_up()
    nbytes = runner.memory.nbytes
    assert nbytes[Part.WEIGHTS] > 0
    assert nbytes[Part.KV] >= 4 << 20
    assert runner.graphs is None or nbytes[Part.GRAPHS] >= 0
    assert runner.graphs is None or runner.graphs.nbytes > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_flashinfer_in_half_precision_stays_close_to_torch(family: str) -> None:
    if not flashinfer_available({64}, torch.bfloat16):
        pytest.skip("flashinfer is not installed")
    folder = tiny(family, head_dim=64)
    given = prompts_of(random.Random(7), LENGTHS, 160)
    found = []
    for dtype in ("bfloat16", "float32"):
        runner = TorchRunner(make_spec(folder, device="cuda", dtype=dtype))
        if dtype == "bfloat16":
            runner.attention, runner.graphs = FlashInferWay(runner.device).eager(), None
        driver = Driver(runner, seed=3)
        for prompt in given:
            driver.add(prompt, 1)
        driver.finish()
        found.append([s.logprobs[0] for s in driver.streams])
    assert found[0] == pytest.approx(found[1], abs=0.5)


def test_blocks_read_on_the_device_continue_on_another_runner() -> None:
    given = prompts_of(random.Random(3), [19], 160)
    sender, receiver = (TorchRunner(make_spec(tiny("llama"), device="cuda")) for _ in range(2))
    first, second = Driver(sender, seed=1), Driver(receiver, seed=7)
    stream, moved = first.add(given[0], 10), second.add(given[0], 10)
    while not stream.tokens:
        first.step()
    moved.tokens, moved.logprobs, moved.num_computed = list(stream.tokens), list(stream.logprobs), stream.num_computed
    for layer in range(len(sender.store.payloads)):
        payload = sender.store.read(layer, stream.blocks, 0, 19)
        assert payload.device.type == "cuda"
        receiver.store.write(layer, moved.blocks, 0, 19, payload)
    first.finish()
    second.finish()
    assert moved.tokens == stream.tokens


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < CAPABILITY, reason="a GPU that reads no FP8"
)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_oss", "qwen3_next"])
def test_keys_and_values_in_fp8_give_the_tokens_of_the_portable_path(tmp_path: Path, family: str) -> None:
    """Replayed, eager, and by every way to attend.

    Where sums differ in their last bits a number may be rounded to its other neighbour, so one text may go another way.
    """
    pytest.importorskip("triton")
    factors = torch.tensor([[0.03, 0.5], [0.2, 1.7]])
    names = {f"model.layers.1.self_attn.{name}_scale": one for name, one in zip("kv", factors, strict=True)}
    spec = make_spec(scaled(tiny(family), tmp_path, names), device="cuda", kv=KVSpec(dtype="fp8"))
    given = prompts_of(random.Random(5), LENGTHS, 160)
    portable = TorchRunner(spec, native=False)
    found = []
    for way in (None, *ways(torch.device("cuda"), {16}, torch.float32, is_fp8=True)):
        runner = portable if way is None else TorchRunner(spec)
        assert way is None or "FP8" in runner.attention_name
        if way is not None:
            runner.attention = way.eager()
        if way is not None and runner.graphs is not None:
            runner.graphs.way = way
        driver = Driver(runner, seed=1)
        for prompt in given:
            driver.add(prompt, 10)
        driver.finish()
        found.append(driver.streams)
    for streams in found[1:]:
        pairs = list(zip(streams, found[0], strict=True))
        assert sum(stream.tokens != first.tokens for stream, first in pairs) <= 1
        for stream, first in pairs:
            assert stream.logprobs[0] == pytest.approx(first.logprobs[0], abs=5e-2)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_oss"])
def test_every_way_to_attend_gives_the_tokens_of_generate(family: str) -> None:
    given = prompts_of(random.Random(5), LENGTHS, 160)
    for way in ways(torch.device("cuda"), {16}, torch.float32):
        spec = make_spec(tiny(family), device="cuda")
        runner = TorchRunner(spec)
        kinds = runner._kinds()
        runner.attention = way.eager()
        runner.graphs = runner._make_graphs(Chosen(decode=way, mixed=way), kinds, spec)
        driver = Driver(runner, seed=1)
        for prompt in given:
            driver.add(prompt, 10)
        driver.finish()
        assert count_differences(driver.streams, generate(tiny(family), given, 10), tolerance=1e-3) == 0, way.name
