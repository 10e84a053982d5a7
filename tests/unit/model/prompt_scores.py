"""How likely transformers itself finds the tokens of prompts, and what an engine has told of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.unit.engine.driver import Driver

NUM_TOP = 4


class Reference(NamedTuple):
    logprobs: list[float]  # of each token but the first
    ranks: list[int]
    tops: list[list[float]]  # the NUM_TOP highest at each place


def references(folder: Path, prompts: Sequence[Sequence[int]]) -> list[Reference]:
    """In float32, each prompt by itself."""
    from transformers import AutoModelForCausalLM

    auto_model: Any = AutoModelForCausalLM
    model = auto_model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return [_reference(model, prompt) for prompt in prompts]


@torch.inference_mode()
def _reference(model: Any, prompt: Sequence[int]) -> Reference:
    table = model(torch.tensor([list(prompt)]), use_cache=False).logits[0, :-1].float().log_softmax(-1)
    own = table.gather(1, torch.tensor(prompt[1:], dtype=torch.int64)[:, None])
    ranks = (table > own + 1e-5).sum(-1) + 1  # nearly equals may change places
    return Reference(own[:, 0].tolist(), ranks.tolist(), table.topk(NUM_TOP).values.tolist())


def check(driver: Driver, request_id: str, prompt: Sequence[int], want: Reference) -> None:
    """Told once, in order, within 1e-4."""
    logprobs: list[float] = []
    ranks: list[int] = []
    tops: list[float] = []
    for news in driver.prompts[request_id]:
        assert news.start == len(logprobs) + 1
        logprobs += news.logprobs
        ranks += news.ranks
        tops += news.top_logprobs
    assert logprobs == pytest.approx(want.logprobs, abs=1e-4)
    assert all(abs(one - other) <= 1 for one, other in zip(ranks, want.ranks, strict=True))
    assert tops == pytest.approx([value for top in want.tops for value in top], abs=1e-4)
