"""The fake model: its tokens are what `expected_output` says, and it notices whatever is wrong with a block."""

import json
from pathlib import Path
from typing import Any

import pytest

from baton.errors import ConfigError
from workers.model.contract import Batch, Chunk, Sampled, SampleRow
from workers.model.fake import EOS_TOKEN_ID, MAX_NUM_BLOCKS, NUM_LAYERS, VOCAB_SIZE, FakeRunner
from workers.model.fake_store import KVMismatchError
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec, Role, WorkerSpec

PROMPT = (5, 6, 7, 8, 9, 10)


def make(model: str = "fake", **engine: Any) -> FakeRunner:
    spec = WorkerSpec(
        worker_id="mixed-0",
        role=Role.MIXED,
        model=model,
        served_name="fake",
        dtype="float32",
        device="cpu",
        engine=EngineSpec(**{"block_size": 4, "memory_bytes": 1 << 14} | engine),
        fake=True,
    )
    return FakeRunner(spec)


def params(**changes: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 100, "ignore_eos": True} | changes)


def chunk(block_ids: list[int], tokens: list[int], start: int = 0, end: int | None = None) -> Chunk:
    """Computes positions [start, end) of `tokens`."""
    end = len(tokens) if end is None else end
    return Chunk(token_ids=tokens[start:end], start=start, block_ids=block_ids, num_sequence_tokens=len(tokens))


def row(index: int, output: list[int], sampling: SamplingParams, choice: int = 0) -> SampleRow:
    return SampleRow(chunk=index, choice=choice, params=sampling, prompt_token_ids=PROMPT, output_token_ids=output)


def generate(
    runner: FakeRunner, block_ids: list[int], n: int, sampling: SamplingParams, choice: int = 0, chunk_size: int = 100
) -> list[int]:
    """Tokens 0 to `n` of PROMPT, read in chunks of `chunk_size`."""
    tokens, output, start = list(PROMPT), [], 0
    while len(output) < n:
        end = min(start + chunk_size, len(tokens))
        rows = [row(0, output, sampling, choice)] if end == len(tokens) else []
        sampled = runner.run(Batch(chunks=[chunk(block_ids, tokens, start, end)], samples=rows))
        new = [token.token_id for run in sampled for token in run]
        output += new
        tokens += new
        start = end
    return output


@pytest.mark.parametrize("chunk_size", [1, 4, 5, 100])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_are_the_expected_ones_however_the_prompt_is_cut(chunk_size: int, temperature: float) -> None:
    sampling = params(temperature=temperature, seed=3)
    output = generate(make(), [9, 2, 0, 7], 10, sampling, chunk_size=chunk_size)
    assert output == FakeRunner.expected_output(PROMPT, sampling, 0, 10)
    assert len(set(output)) > 5
    assert all(0 <= token < VOCAB_SIZE for token in output)


def test_seed_counts_above_temperature_0_alone_and_choice_always() -> None:
    def answer(temperature: float, seed: int, choice: int = 0) -> list[int]:
        return FakeRunner.expected_output(PROMPT, params(temperature=temperature, seed=seed), choice, 8)

    assert answer(0.0, 1) == answer(0.0, 2)
    assert answer(1.0, 1) != answer(1.0, 2)
    assert answer(1.0, 1) != answer(0.0, 1)
    assert answer(1.0, 1, choice=1) != answer(1.0, 1)


def test_a_retry_from_prompt_and_output_goes_on_with_the_same_tokens() -> None:
    sampling = params(temperature=1.0, seed=4)
    whole = FakeRunner.expected_output(PROMPT, sampling, 1, 12)
    runner, tokens = make(), [*PROMPT, *whole[:7]]
    batch = Batch(chunks=[chunk([0, 1, 2, 3], tokens)], samples=[row(0, whole[:7], sampling, choice=1)])
    assert runner.run(batch)[0][0].token_id == whole[7]
    moved = SampleRow(
        chunk=0, choice=1, params=sampling, prompt_token_ids=tokens[:7], output_token_ids=whole[1:7]
    )  # the split between prompt and output is lost by one
    assert runner.run(Batch(chunks=batch.chunks, samples=[moved]))[0][0].token_id != whole[7]


def test_sequences_of_a_batch_do_not_change_each_other() -> None:
    runner, tokens = make(), list(PROMPT)
    other = [*reversed(PROMPT)]
    rows = [
        row(0, [], params()),
        SampleRow(chunk=1, choice=0, params=params(), prompt_token_ids=other, output_token_ids=[]),
    ]
    sampled = runner.run(Batch(chunks=[chunk([0, 1], tokens), chunk([2, 3], other)], samples=rows))
    assert [token.token_id for run in sampled for token in run] == [
        FakeRunner.expected_output(prompt, params(), 0, 1)[0] for prompt in (tokens, other)
    ]


def test_eos_ends_the_expected_output_unless_it_is_ignored() -> None:
    forced = ((EOS_TOKEN_ID, 100.0),)
    assert FakeRunner.expected_output(PROMPT, params(logit_bias=forced, ignore_eos=False), 0, 5) == [EOS_TOKEN_ID]
    assert FakeRunner.expected_output(PROMPT, params(logit_bias=forced), 0, 3) == [EOS_TOKEN_ID] * 3


def test_min_tokens_holds_eos_and_stop_tokens_back() -> None:
    first, second, third, fourth = FakeRunner.expected_output(PROMPT, params(), 0, 4)
    stop = frozenset({second, fourth})
    assert FakeRunner.expected_output(PROMPT, params(stop_token_ids=stop), 0, 9) == [first, second]
    held = FakeRunner.expected_output(PROMPT, params(stop_token_ids=stop, min_tokens=4), 0, 9)
    assert len(held) >= 4
    assert not stop & set(held[:4])
    assert third not in stop


def test_bias_forces_and_bars_tokens() -> None:
    token = FakeRunner.expected_output(PROMPT, params(), 0, 1)[0]
    assert FakeRunner.expected_output(PROMPT, params(logit_bias=((token, -100.0),)), 0, 1) == [token + 1]
    assert FakeRunner.expected_output(PROMPT, params(logit_bias=((33, 100.0),)), 0, 1) == [33]


def test_logprobs_come_when_asked_for_most_likely_first() -> None:
    runner = make()

    def sampled(num_logprobs: int | None) -> Sampled:
        rows = [row(0, [], params(logprobs=num_logprobs))]
        return runner.run(Batch(chunks=[chunk([0, 1], list(PROMPT))], samples=rows))[0][0]

    assert sampled(None).logprob is None
    assert sampled(0).top == ()
    three = sampled(3)
    assert three == sampled(3)
    assert three.top[0] == (three.token_id, three.logprob)
    assert [value for _, value in three.top] == sorted((value for _, value in three.top), reverse=True)
    assert len({token for token, _ in three.top}) == 3


def test_layers_are_told_in_order_with_their_blocks_written() -> None:
    runner, seen = make(), []

    def on_layer(layer: int) -> None:
        seen.append((layer, runner.store.read(layer, [3, 4], 0, 6) != bytes(48)))
        assert layer + 1 == NUM_LAYERS or runner.store.read(layer + 1, [3, 4], 0, 6) == bytes(48)

    runner.run(Batch(chunks=[chunk([3, 4], list(PROMPT))], samples=[]), on_layer)
    assert seen == [(layer, True) for layer in range(NUM_LAYERS)]


def prompt_read(runner: FakeRunner) -> list[int]:
    """Reads PROMPT into blocks 0 and 1; prompt and first output token."""
    return [*PROMPT, *generate(runner, [0, 1], 1, params())]


def decode(runner: FakeRunner, block_ids: list[int], tokens: list[int]) -> int:
    batch = Batch(chunks=[chunk(block_ids, tokens, 6)], samples=[row(0, tokens[6:], params())])
    return runner.run(batch)[0][0].token_id


@pytest.mark.parametrize("layer", range(NUM_LAYERS))
def test_an_overwritten_token_of_any_layer_is_noticed(layer: int) -> None:
    runner = make()
    tokens = prompt_read(runner)
    runner.store.write(layer, [0, 1], 2, 3, runner.store.read(layer, [0, 1], 3, 4))
    with pytest.raises(KVMismatchError, match=f"layer {layer} position 2 .block 0.: expected token 7, found token 8"):
        decode(runner, [0, 1], tokens)


def test_a_block_that_was_never_written_is_noticed() -> None:
    runner = make()
    tokens = prompt_read(runner)
    with pytest.raises(KVMismatchError, match="found nothing"):
        decode(runner, [5, 1], tokens)


def test_blocks_in_the_wrong_order_are_noticed() -> None:
    runner = make(block_size=2)
    tokens = [*PROMPT, *generate(runner, [0, 1, 2, 3], 1, params())]
    with pytest.raises(KVMismatchError):
        decode(runner, [1, 0, 2, 3], tokens)


def test_a_layer_put_in_the_place_of_another_is_noticed() -> None:
    runner = make()
    tokens = prompt_read(runner)
    runner.store.write(1, [0, 1], 0, 6, runner.store.read(2, [0, 1], 0, 6))
    with pytest.raises(KVMismatchError, match="of layer 2 position 0"):
        decode(runner, [0, 1], tokens)


def test_two_sequences_that_write_one_block_are_noticed() -> None:
    chunks = [chunk([0, 1], list(PROMPT)), chunk([2, 1], list(PROMPT))]
    with pytest.raises(AssertionError, match="two chunks write block 1"):
        make().run(Batch(chunks=chunks, samples=[]))


def test_writing_into_a_block_that_another_sequence_reads_is_noticed() -> None:
    runner = make()
    tokens = prompt_read(runner)
    chunks = [chunk([0, 1], tokens, 6), chunk([0, 3], list(PROMPT))]
    with pytest.raises(AssertionError, match="writes block 0 of another"):
        runner.run(Batch(chunks=chunks, samples=[]))


def test_payloads_carry_a_sequence_to_another_worker() -> None:
    sender, receiver = make(), make()
    tokens = prompt_read(sender)
    blocks = [30, 11]
    for layer in range(NUM_LAYERS):
        for start, end in ((0, 3), (3, 6)):
            payload = sender.store.read(layer, [0, 1], start, end)
            assert len(payload) == sender.store.payloads[layer].unit_nbytes * (end - start)
            buffer = receiver.store.empty_payload(len(payload))
            buffer[:] = payload
            receiver.store.write(layer, blocks, start, end, buffer)
    assert decode(receiver, blocks, tokens) == FakeRunner.expected_output(PROMPT, params(), 0, 2)[1]


def test_copied_blocks_hold_the_same() -> None:
    runner = make()
    tokens = prompt_read(runner)
    runner.copy_blocks([(1, 6)])
    assert decode(runner, [0, 6], tokens) == decode(runner, [0, 1], tokens)


def test_it_takes_the_shape_of_a_model_folder(tmp_path: Path) -> None:
    config = {"vocab_size": 300, "eos_token_id": [1, 2], "max_position_embeddings": 40}
    (tmp_path / "config.json").write_text(json.dumps(config))
    runner = make(str(tmp_path))
    assert (runner.vocab_size, runner.eos_token_ids, runner.max_model_len) == (300, {1, 2}, 40)
    assert runner.fingerprint != make().fingerprint


def test_its_memory_sets_the_number_of_blocks_and_the_longest_sequence() -> None:
    runner = make(memory_bytes=4 * 8 * NUM_LAYERS * 10)
    assert (runner.num_blocks, runner.max_model_len) == (10, 40)
    assert make(memory_bytes=1 << 30).num_blocks == MAX_NUM_BLOCKS
    assert make(max_model_len=20).max_model_len == 20


def test_too_little_memory_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"engine.memory: 100 bytes hold no block of 128"):
        make(memory_bytes=100)
    with pytest.raises(ConfigError, match=r"engine.max_model_len: 9 tokens do not fit into 8"):
        make(memory_bytes=256, max_model_len=9)
