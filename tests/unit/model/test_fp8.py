"""Keys and values in FP8: what is kept, and that tokens depend on nothing but what is kept."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM

from tests.models import tiny
from tests.unit.engine.driver import OPEN
from tests.unit.engine.driver import Driver as EngineDriver
from tests.unit.model.driver import Driver, Stream, make_spec, prompts_of
from tests.unit.model.scaled import FACTORS, scaled
from workers.kv_transfer.handshake import answer, identify, propose
from workers.model import fp8
from workers.model.contract import Batch, Chunk, Row, Unit
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, KVSpec, Role, WorkerSpec

FP8 = KVSpec(dtype="fp8")
LENGTHS = (1, 3, 9, 22, 40)
NUM_OUTPUTS = 10


@pytest.fixture(autouse=True)
def _links_are_closed() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    while OPEN:
        OPEN.pop().close()


def spec(folder: Path, role: Role = Role.MIXED, **engine: object) -> WorkerSpec:
    settings: dict[str, object] = {"block_size": 4, "memory_bytes": 1 << 20, "max_model_len": 96} | engine
    return make_spec(folder, role=role, engine=EngineSpec(**settings), kv=FP8)  # type: ignore[arg-type]


def prompts() -> list[list[int]]:
    return prompts_of(random.Random(5), LENGTHS, 160)


def streams(runner: TorchRunner, *, seed: int = 1, max_chunk: int = 7) -> Sequence[Stream]:
    driver = Driver(runner, seed=seed, max_chunk=max_chunk)
    for prompt in prompts():
        driver.add(prompt, NUM_OUTPUTS)
    driver.finish()
    return driver.streams


def numbers() -> Tensor:
    """All of them, in order."""
    found = torch.arange(256, dtype=torch.uint8).view(fp8.DTYPE).float()
    return found[~found.isnan()].unique()


def nearest(x: Tensor) -> Tensor:
    table = numbers()
    return table[(x.flatten()[:, None] - table).abs().argmin(1)].view(x.shape)


def test_what_is_kept_is_the_nearest_number_and_no_number_is_too_large() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 7, 16, generator=generator) * torch.randn(2, 3, 7, 16, generator=generator).exp()
    x[0, 0, 0, :4] = torch.tensor([torch.inf, -torch.inf, 1e9, -500.0])
    factor = torch.tensor([0.01, 1.0, 3.0])
    kept = fp8.to_bytes(x, factor.reciprocal()).view(fp8.DTYPE)
    assert kept.float().equal(nearest((x * factor.reciprocal()[:, None, None]).clamp(-1e6, 1e6)))
    assert kept[0, 0, 0, :4].float().tolist() == [448.0, -448.0, 448.0, -448.0]
    read = fp8.read(kept.transpose(1, 2), factor, torch.float32)
    assert read.equal(kept.transpose(1, 2).float() * factor[:, None])


@pytest.mark.parametrize("factor", [None, torch.tensor([0.5, 8.0])])
def test_blocks_are_filled_with_numbers_that_are_normal_once_read(factor: Tensor | None) -> None:
    cache = torch.zeros(50, 16, 2, 16, dtype=torch.uint8)
    fp8.fill_normal(cache, factor)
    read = fp8.read(cache.view(fp8.DTYPE), torch.ones(2) if factor is None else factor, torch.float32)
    assert read.std(dim=(0, 1, 3)) == pytest.approx(torch.ones(2), abs=0.05)
    assert not read.isnan().any()


def by_hand(factors: Callable[[int], Tensor]) -> None:
    """Teaches transformers to attend to keys and values that went through FP8, without blocks: causally, in float32."""

    def attend(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: object, *, scaling: float, **_: object
    ) -> tuple[Tensor, None]:
        rows = []
        for x, factor in zip((key, value), factors(int(module.layer_idx)), strict=True):  # type: ignore[arg-type]
            kept = (x / factor[:, None, None]).clamp(-448, 448).to(torch.float8_e4m3fn).float()
            rows.append((kept * factor[:, None, None]).repeat_interleave(query.shape[1] // x.shape[1], dim=1))
        scores = query @ rows[0].transpose(2, 3) * scaling
        scores = scores.masked_fill(torch.ones(scores.shape[2:]).triu(1).bool(), -torch.inf)
        return (scores.softmax(-1) @ rows[1]).transpose(1, 2), None

    AttentionInterface.register("by_hand", attend)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("has_factors", [False, True])
def test_tokens_are_those_of_keys_and_values_that_are_rounded_by_hand(
    tmp_path: Path, family: str, has_factors: bool
) -> None:
    folder = scaled(tiny(family), tmp_path) if has_factors else tiny(family)
    by_hand(lambda layer: FACTORS[layer] if has_factors else torch.ones(2, 2))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="by_hand").eval()
    for stream in streams(TorchRunner(spec(folder))):
        known = list(stream.prompt)
        for token, logprob in zip(stream.tokens, stream.logprobs, strict=True):
            with torch.inference_mode():
                table = model(torch.tensor([known]), use_cache=False).logits[0, -1].log_softmax(-1)
            assert (token, logprob) == (int(table.argmax()), pytest.approx(float(table.max()), abs=1e-4))
            known.append(token)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "qwen3_next"])
def test_a_result_depends_on_no_chunk_and_is_close_to_what_is_not_rounded(family: str) -> None:
    folder = tiny(family)
    found = [streams(TorchRunner(spec(folder), native=native), seed=seed, max_chunk=size)
             for native, seed, size in ((True, 1, 64), (True, 2, 3), (False, 3, 7))]  # fmt: skip
    for other in found[1:]:
        assert [s.tokens for s in other] == [s.tokens for s in found[0]]
        for stream, first in zip(other, found[0], strict=True):
            assert stream.logprobs == pytest.approx(first.logprobs, abs=1e-3)
    chunk = Chunk(token_ids=prompts()[-1], start=0, block_ids=list(range(10)), num_sequence_tokens=40, state_id=None)
    tables = []
    for kv in (FP8, KVSpec()):
        runner = TorchRunner(replace(spec(folder), kv=kv))
        tables.append(_logits(runner, replace(chunk, state_id=0 if runner.num_states else None)))
    error = float((tables[0] - tables[1]).square().mean().sqrt() / tables[1].std())
    assert 0 < error < 0.2, "each key is off by a sixteenth at most"


def _logits(runner: TorchRunner, chunk: Chunk) -> Tensor:
    found = runner.compute([chunk], [Row(0, 0)])
    assert found is not None
    return found.float()


def test_there_are_more_blocks_in_the_same_memory_and_states_are_as_they_were() -> None:
    small, large = (TorchRunner(replace(spec(tiny("llama")), kv=kv)) for kv in (KVSpec(), FP8))
    block_nbytes = 4 * 3 * 2 * 2 * 16  # 4 tokens of 3 layers of keys and values of 2 heads of 16 bytes
    assert (large.num_blocks, small.num_blocks) == ((1 << 20) // block_nbytes, (1 << 20) // (4 * block_nbytes))
    assert large.store.payloads[0].layout == "kv/heads=2/dim=16/float8_e4m3fn/scales=1"
    assert small.store.payloads[0].layout == "kv/heads=2/dim=16/float32"
    hybrids = [TorchRunner(replace(spec(tiny("qwen3_next")), kv=kv)) for kv in (KVSpec(), FP8)]
    states = [[one for one in runner.store.payloads if one.unit is Unit.STATE] for runner in hybrids]
    assert states[0] == states[1] != []


def test_moved_blocks_and_tokens_are_the_bytes_of_others() -> None:
    runner = TorchRunner(spec(tiny("llama")))
    runner.run(
        Batch(chunks=[Chunk(token_ids=prompts()[3], start=0, block_ids=range(6), num_sequence_tokens=22)], samples=[])
    )
    runner.copy_blocks([(0, 9), (1, 8)])
    runner.copy_tokens([(4 * 2 + 1, 4 * 3 + 2)])
    for layer in runner.store.layers:
        assert layer[:, [9, 8]].equal(layer[:, [0, 1]])
        assert layer[:, 3, 2].equal(layer[:, 2, 1])
        assert layer[:, 3, 2].any()


def answers(driver: EngineDriver, turn: str = "") -> list[list[int]]:
    for index, prompt in enumerate(prompts()):
        driver.submit(f"{turn}{index}", prompt, max_tokens=NUM_OUTPUTS)
    driver.run()
    return [driver.answer(f"{turn}{index}") for index in range(len(LENGTHS))]


def test_handed_over_read_again_and_found_in_the_cache_it_is_what_one_worker_answers(tmp_path: Path) -> None:
    folder = scaled(tiny("llama"), tmp_path)
    want = [stream.tokens for stream in streams(TorchRunner(spec(folder)))]
    pair = EngineDriver([spec(folder, role, max_batched_tokens=7) for role in (Role.PREFILL, Role.DECODE)], TorchRunner)
    assert answers(pair) == want
    assert answers(pair, "again ") == want, "of a prefix that both have"
    assert pair.engines[0].stats.num_prefix_hit_tokens > 0


@pytest.mark.parametrize(
    ("kv", "has_factors", "words"),
    [
        (KVSpec(), True, "'kv/heads=2/dim=16/float32' on the receiver; set the same kv.dtype on both"),
        (FP8, False, "'kv/heads=2/dim=16/float8_e4m3fn/scales=1' on the receiver; load the same model on both"),
    ],
)
def test_workers_that_keep_other_bytes_refuse_each_other_by_name(
    tmp_path: Path, kv: KVSpec, has_factors: bool, words: str
) -> None:
    plain = tiny("llama")
    sender = spec(scaled(plain, tmp_path))
    receiver = replace(spec(tmp_path if has_factors else plain), kv=kv)
    own, offered = (
        identify(one, TorchRunner(one).store, incarnation="1", fingerprint="w") for one in (receiver, sender)
    )
    refusal = answer(own, propose(offered, transport="grpc", store_address="", store_prefix="")).refusal
    assert refusal.startswith("payloads[0].layout: 'kv/heads=2/dim=16/float8_e4m3fn/scales=")
    assert refusal.endswith(words)


def test_a_preempted_sequence_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    folder = scaled(tiny("qwen3"), tmp_path)
    block_nbytes = 4 * 3 * 2 * 2 * 16  # 4 tokens of 3 layers of keys and values of 2 heads of 16 bytes
    found = []
    for num_blocks in (400, 14):
        driver = EngineDriver([spec(folder, memory_bytes=num_blocks * block_nbytes, max_model_len=None)], TorchRunner)
        for name in range(4):
            driver.submit(str(name), prompts()[4][name : name + 5], max_tokens=20)
        driver.run()
        found.append([driver.answer(str(name)) for name in range(4)])
    assert found[0] == found[1]
    assert driver.engines[0].stats.num_preemptions > 0
