"""The runner beyond equality: when layers are told, what ends up in blocks, and how they move."""

import random

import pytest
import torch

from tests.models import tiny
from tests.unit.model.driver import GREEDY, Driver, count_differences, generate, make_spec, prompts_of
from workers.model.contract import Batch, Chunk, SampleRow
from workers.model.runner import TorchRunner


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def runner() -> TorchRunner:
    return TorchRunner(make_spec(tiny("llama")))


def _chunk(tokens: list[int], blocks: list[int], start: int = 0) -> Chunk:
    return Chunk(token_ids=tokens, start=start, block_ids=blocks, num_sequence_tokens=start + len(tokens))


def _row(chunk: int, choice: int = 0) -> SampleRow:
    return SampleRow(chunk=chunk, choice=choice, params=GREEDY, prompt_token_ids=(1,), output_token_ids=())


@pytest.mark.parametrize("length", [1, 3, 4, 5])
def test_a_prompt_around_a_blocks_length_gives_the_tokens_of_generate(runner: TorchRunner, length: int) -> None:
    given = prompts_of(random.Random(length), [length], 160)
    driver = Driver(runner, seed=length)
    driver.add(given[0], 9)
    driver.finish()
    assert count_differences(driver.streams, generate(tiny("llama"), given, 9)) == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_result_depends_neither_on_the_chunks_nor_on_the_rest_of_the_batch(runner: TorchRunner, seed: int) -> None:
    given = prompts_of(random.Random(seed), (22, 9, 1), 160)
    alone = Driver(runner, seed=seed, max_chunk=64)
    alone.add(given[0], 8)
    alone.finish()
    mixed = Driver(runner, seed=seed + 10, max_chunk=3)
    for prompt in given:
        mixed.add(prompt, 8)
    mixed.finish()
    assert mixed.streams[0].tokens == alone.streams[0].tokens
    assert mixed.streams[0].logprobs == pytest.approx(alone.streams[0].logprobs, abs=1e-5)


def test_each_layer_is_told_once_in_order_when_its_keys_are_in_the_blocks(runner: TorchRunner) -> None:
    blocks = [9, 4]
    seen: list[tuple[int, torch.Tensor]] = []
    prompt = [5, 6, 7, 8, 9, 10]
    for layer in runner.store.layers:
        layer[:, blocks] = 0
    runner.run(
        Batch(chunks=[_chunk(prompt, blocks)], samples=[_row(0)]),
        lambda layer: seen.append((layer, runner.store.read(layer, blocks, 0, 6).clone())),
    )
    assert [layer for layer, _ in seen] == [0, 1, 2]
    for layer, payload in seen:
        assert payload.equal(runner.store.read(layer, blocks, 0, 6))
        assert payload.view(torch.float32).abs().sum() > 0


def test_a_step_without_samples_fills_the_blocks_and_returns_nothing(runner: TorchRunner) -> None:
    blocks = [3, 7]
    assert runner.run(Batch(chunks=[_chunk([4, 5, 6, 7, 8], blocks)], samples=[])) == []
    whole = runner.run(Batch(chunks=[_chunk([4, 5, 6, 7, 8, 9], [11, 12])], samples=[_row(0)]))
    rest = runner.run(Batch(chunks=[_chunk([9], blocks, start=5)], samples=[_row(0)]))
    assert rest[0][0].token_id == whole[0][0].token_id


def test_several_choices_are_sampled_from_one_chunk(runner: TorchRunner) -> None:
    chunks = [_chunk([4], [0]), _chunk([4, 5, 6], [1])]
    found = runner.run(Batch(chunks=chunks, samples=[_row(1), _row(1, choice=1), _row(0)]))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_copied_block_serves_as_the_first(runner: TorchRunner) -> None:
    runner.run(Batch(chunks=[_chunk([4, 5, 6, 7, 8, 9], [20, 21])], samples=[]))
    runner.copy_blocks([(20, 31), (21, 30)])
    a, b = (
        runner.run(Batch(chunks=[_chunk([10], blocks, start=6)], samples=[_row(0)])) for blocks in ([20, 21], [31, 30])
    )
    assert a == b
    assert torch.equal(runner.store.layers[2][:, [20, 21]], runner.store.layers[2][:, [31, 30]])


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_blocks_moved_to_another_runner_in_odd_ranges_go_on_as_if_never_moved(family: str) -> None:
    given = prompts_of(random.Random(3), [19], 160)
    sender, receiver = (TorchRunner(make_spec(tiny(family))) for _ in range(2))
    assert sender.fingerprint == receiver.fingerprint
    assert sender.store.payloads == receiver.store.payloads
    first = Driver(sender, seed=1)
    stream = first.add(given[0], 10)
    while not stream.tokens:
        first.step()
    second = Driver(receiver, seed=7)
    moved = second.add(given[0], 10)
    moved.tokens, moved.logprobs = list(stream.tokens), list(stream.logprobs)
    moved.num_computed = stream.num_computed
    for layer in range(len(sender.store.payloads)):
        for start, end in ((0, 3), (3, 4), (4, 13), (13, 19)):
            payload = sender.store.read(layer, stream.blocks, start, end)
            assert payload.numel() == sender.store.payloads[layer].unit_nbytes * (end - start)
            buffer = receiver.store.empty_payload(payload.numel())
            buffer.copy_(payload)
            receiver.store.write(layer, moved.blocks, start, end, buffer)
    second.finish()
    assert count_differences(second.streams, generate(tiny(family), given, 10)) == 0


def test_a_payload_of_the_wrong_size_is_refused_and_writes_nothing(runner: TorchRunner) -> None:
    before = runner.store.layers[0].clone()
    with pytest.raises(ValueError, match=r"payload has 12 bytes; layer 0, \[0, 2\) takes 512"):
        runner.store.write(0, [1], 0, 2, torch.zeros(12, dtype=torch.uint8))
    assert runner.store.layers[0].equal(before)


def test_warming_up_leaves_empty_blocks() -> None:
    runner = TorchRunner(make_spec(tiny("llama")))
    runner.warm_up()
    assert all(int(layer.count_nonzero()) == 0 for layer in runner.store.layers)


def test_bfloat16_runs_and_keeps_bfloat16_blocks() -> None:
    runner = TorchRunner(make_spec(tiny("llama"), dtype="bfloat16"))
    assert runner.store.payloads[0].layout == "kv/heads=2/dim=16/bfloat16"
    driver = Driver(runner, seed=1)
    for prompt in prompts_of(random.Random(3), (19, 4), 160):
        driver.add(prompt, 5)
    driver.finish()
    assert all(len(s.tokens) == 5 for s in driver.streams)
