"""Logits in bfloat16: how far from float32 ours are, and how far transformers' eager attention in bfloat16 is.

Log-probabilities over the whole vocabulary of fixed sequences, the same tokens fed on every side: a prompt in chunks,
then decodes in one batch. Heads are 64 wide, so that FlashInfer serves them where it is installed.
"""

import random
from typing import Any

import torch
from torch import Tensor

from bench.gpu_check.check import Check
from bench.gpu_check.tokens import DRY_FAMILIES
from tests.models import COMMON, FAMILIES, tiny
from tests.unit.model.driver import make_spec, prompts_of
from workers.model.contract import Batch, Chunk, SampleRow
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams

VOCAB = int(COMMON["vocab_size"])
NUM_SEQUENCES, NUM_TOKENS, NUM_PROMPT = 8, 40, 16
MAX_RATIO = 2.0
EVERY_LOGPROB = SamplingParams(max_tokens=64, temperature=0.0, logprobs=VOCAB)


def run(check: Check) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    for family in DRY_FAMILIES if check.is_dry else FAMILIES:
        with check.item(family):
            _compare(check, family)


def _compare(check: Check, family: str) -> None:
    folder = tiny(family, head_dim=64)
    sequences = prompts_of(random.Random(9), [NUM_TOKENS] * NUM_SEQUENCES, VOCAB)
    exact = eager_logprobs(str(folder), sequences, torch.float32, check.device)
    eager = eager_logprobs(str(folder), sequences, torch.bfloat16, check.device)
    runner = TorchRunner(make_spec(folder, device=check.device, dtype="bfloat16"))
    ours = own_logprobs(runner, sequences)
    own_error, eager_error = _rms(ours - exact), _rms(eager - exact)
    check.judge(
        family,
        own_error <= MAX_RATIO * eager_error,
        f"error {own_error:.4f}, eager's {eager_error:.4f}: {own_error / eager_error:.2f} x",
        own_error=own_error,
        eager_error=eager_error,
    )


def _rms(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


@torch.inference_mode()
def eager_logprobs(folder: str, sequences: list[list[int]], dtype: torch.dtype, device: str) -> Tensor:
    """[sequences, NUM_TOKENS - NUM_PROMPT + 1, vocab] on the CPU, of the tokens after the prompt's last and later."""
    from transformers import AutoModelForCausalLM

    auto_model: Any = AutoModelForCausalLM
    model = auto_model.from_pretrained(folder, dtype=dtype, attn_implementation="eager").to(device).eval()
    logits = model(input_ids=torch.tensor(sequences, device=device), use_cache=False).logits
    found: Tensor = logits[:, NUM_PROMPT - 1 :].float().log_softmax(-1).cpu()
    return found


def own_logprobs(runner: TorchRunner, sequences: list[list[int]]) -> Tensor:
    """The same by our runner: the prompts as two ragged chunks each, then one decode of every sequence at a time."""
    size = runner.store.block_size
    width = -(-NUM_TOKENS // size)
    tables = [list(range(i * width, (i + 1) * width)) for i in range(len(sequences))]
    half = NUM_PROMPT // 2 - 1
    steps = [(0, half), (half, NUM_PROMPT), *[(at, at + 1) for at in range(NUM_PROMPT, NUM_TOKENS)]]
    rows = [_step(runner, sequences, tables, start, end) for start, end in steps]
    return torch.stack(rows[1:], dim=1)


def _step(runner: TorchRunner, sequences: list[list[int]], tables: list[list[int]], start: int, end: int) -> Tensor:
    """[sequences, vocab]: tokens [start, end) of each computed, and what follows the last."""
    chunks = [
        Chunk(token_ids=tokens[start:end], start=start, block_ids=table, num_sequence_tokens=end)
        for tokens, table in zip(sequences, tables, strict=True)
    ]
    samples = [
        SampleRow(chunk=i, choice=0, params=EVERY_LOGPROB, prompt_token_ids=tokens[:end], output_token_ids=())
        for i, tokens in enumerate(sequences)
    ]
    found = torch.empty(len(sequences), VOCAB)
    for row, (sampled,) in zip(found, runner.run(Batch(chunks=chunks, samples=samples)), strict=True):
        ids, values = zip(*sampled.top, strict=True)
        row[torch.tensor(ids)] = torch.tensor(values)
    return found
