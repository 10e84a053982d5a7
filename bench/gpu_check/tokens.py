"""Greedy tokens and logprobs of every family in float32, against transformers' generate on the same device."""

import random

import torch

from bench.gpu_check.check import Check
from tests.models import FAMILIES, tiny
from tests.unit.model.driver import Driver, generate, make_spec, prompts_of
from workers.model.runner import TorchRunner

LENGTHS = (1, 3, 8, 21, 40)
NUM_OUTPUTS = 10
MAX_LOGPROB_ERROR = 1e-3
DRY_FAMILIES = ("llama", "gemma2")


def run(check: Check) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    for family in DRY_FAMILIES if check.is_dry else FAMILIES:
        with check.item(family):
            _compare(check, family)


def _compare(check: Check, family: str) -> None:
    prompts = prompts_of(random.Random(5), LENGTHS, 160)
    runner = TorchRunner(make_spec(tiny(family), device=check.device))
    driver = Driver(runner, seed=1)
    for prompt in prompts:
        driver.add(prompt, NUM_OUTPUTS)
    driver.finish()
    expected = generate(tiny(family), prompts, NUM_OUTPUTS, device=check.device)
    pairs = list(zip(driver.streams, expected, strict=True))
    differing = sum(a != b for ours, theirs in pairs for a, b in zip(ours.tokens, theirs.tokens, strict=True))
    error = max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours.logprobs, theirs.logprobs, strict=True))
    graphs = runner.graphs.num_captured if runner.graphs is not None else 0
    check.judge(
        family,
        differing == 0 and error <= MAX_LOGPROB_ERROR,
        f"{differing} of {len(prompts) * NUM_OUTPUTS} tokens differ, logprobs by at most {error:.1e}, {graphs} graphs",
        differing=differing,
        logprob_error=error,
        graphs=graphs,
    )
