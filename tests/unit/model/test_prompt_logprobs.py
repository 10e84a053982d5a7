"""How likely prompts' tokens are: as transformers says it for every family, and never with all logits in memory."""

import functools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models import FAMILIES, HYBRIDS, OTHERS, tiny
from tests.unit.engine.driver import Driver
from tests.unit.model.driver import make_spec, prompts_of
from tests.unit.model.prompt_scores import NUM_TOP, Reference, check, references
from workers.model.contract import Batch, Chunk
from workers.model.prompt_rows import MAX_ROWS, PromptRow
from workers.model.prompt_scores import MAX_BYTES, num_pieces, rows_at_once, score
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec


@functools.cache
def prompts() -> list[list[int]]:
    return prompts_of(random.Random(11), (1, 2, 13, 40, 64), 160)


@functools.cache
def expected(folder: Path) -> list[Reference]:
    return references(folder, [prompt if len(prompt) > 1 else [prompt[0], 2] for prompt in prompts()])


def driver_of(folder: Path, **engine: object) -> Driver:
    settings: dict[str, object] = {
        "block_size": 4,
        "memory_bytes": 4 << 20,
        "max_model_len": 96,
        "max_batched_tokens": 23,
    }
    spec = replace(make_spec(folder), engine=EngineSpec(**{**settings, **engine}))  # type: ignore[arg-type]
    return Driver([spec], TorchRunner)


@pytest.mark.parametrize("family", [*FAMILIES, *HYBRIDS, *OTHERS])
def test_they_are_those_of_transformers_with_chunks_and_beside_prefix_hits(family: str) -> None:
    folder = tiny(family)
    driver = driver_of(folder)
    for asks in (False, True):  # then the cache knows all of them
        for number, prompt in enumerate(prompts()):
            more = {"prompt_logprobs": NUM_TOP, "logit_bias": {5: 50.0}, "repetition_penalty": 2.0} if asks else {}
            driver.submit(f"{number}-{asks}", prompt, max_tokens=2, **more)
        driver.run()
    for number, prompt in enumerate(prompts()):
        assert not driver.prompts[f"{number}-False"]
        if len(prompt) > 1:
            check(driver, f"{number}-True", prompt, expected(folder)[number])


def test_a_budget_of_one_token_and_one_of_all_give_the_same() -> None:
    folder = tiny("gemma2")
    for budget in (1, 5, 512):
        driver = driver_of(folder, max_batched_tokens=budget)
        driver.submit("r", prompts()[3], max_tokens=0, prompt_logprobs=NUM_TOP)
        driver.run()
        check(driver, "r", prompts()[3], expected(folder)[3])


def test_bfloat16_has_them_too() -> None:
    folder = tiny("llama")
    spec = replace(make_spec(folder), dtype="bfloat16")
    driver = Driver([spec], TorchRunner)
    driver.submit("r", prompts()[3], max_tokens=0, prompt_logprobs=1)
    driver.run()
    told = [value for news in driver.prompts["r"] for value in news.logprobs]
    assert told == pytest.approx(expected(folder)[3].logprobs, abs=1.0)


def test_ranks_and_the_likeliest_are_those_of_a_sort() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(9, 4000, generator=generator)
    token_ids = [0, 3999, 7, 1, 2, 3, 4, 5, int(logits[8].argmax())]
    found = score(logits, token_ids, 20)
    values, order = logits.log_softmax(-1).sort(-1, descending=True)
    assert found.top_ids.tolist() == order[:, :20].tolist()
    assert torch.equal(torch.from_numpy(found.top_logprobs), values[:, :20])
    assert found.ranks.tolist() == [row.index(token) + 1 for row, token in zip(order.tolist(), token_ids, strict=True)]
    assert found.ranks[8] == 1
    assert score(logits, token_ids, 0).top_ids.shape == (9, 0)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made under it took at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self._made: list[ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor):
                self._made.append(ref(tensor))
        alive = [tensor.untyped_storage() for one in self._made if (tensor := one()) is not None]
        self._made = [one for one in self._made if one() is not None]
        self.num_bytes = max(self.num_bytes, sum({one.data_ptr(): one.nbytes() for one in alive}.values()))
        return found


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_prompt_of_a_large_vocabulary_takes_100_mb_at_most(family: str) -> None:
    vocab_size, num_tokens = 128 * 1024, 240
    folder = tiny(family, vocab_size=vocab_size, hidden_size=32, intermediate_size=32)
    engine = EngineSpec(block_size=16, memory_bytes=4 << 20, max_model_len=256)
    runner = TorchRunner(replace(make_spec(folder), engine=engine), native=False)
    chunk = Chunk(
        token_ids=[3] * num_tokens,
        start=0,
        block_ids=list(range(-(-num_tokens // 16))),
        num_sequence_tokens=num_tokens,
        num_scored=num_tokens - 1,
    )
    row = PromptRow(chunk=0, next_token_ids=[3] * (num_tokens - 1), num_top=20)
    with Peak() as peak:
        runner.run(Batch(chunks=[chunk], samples=[], prompts=[row]))
    assert sum(len(piece.logprobs) for piece in row.found) == num_tokens - 1
    assert len(row.found) == num_pieces([chunk], vocab_size) == 4
    one_copy = num_tokens * vocab_size * 4
    assert MAX_BYTES / 4 < peak.num_bytes <= MAX_BYTES < one_copy


def test_pieces_are_no_larger_than_a_message_should_be() -> None:
    assert [rows_at_once(size) for size in (160, 49_152, 131_072, 10**9)] == [MAX_ROWS, 169, 63, 1]
