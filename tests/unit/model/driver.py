"""Drives a runner without an engine: ragged mixes of odd chunks and decodes over shuffled blocks, from a seed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from workers.model.contract import Batch, Chunk, SampleRow
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec, Role, WorkerSpec

GREEDY = SamplingParams(max_tokens=64, temperature=0.0, logprobs=0)


def make_spec(folder: Path, block_size: int = 4, max_model_len: int | None = 96, **fields: object) -> WorkerSpec:
    base: dict[str, object] = {
        "worker_id": "test-0",
        "role": Role.MIXED,
        "model": str(folder),
        "served_name": "test",
        "dtype": "float32",
        "device": "cpu",
        "engine": EngineSpec(block_size=block_size, memory_bytes=4 << 20, max_model_len=max_model_len),
    }
    return WorkerSpec(**{**base, **fields})  # type: ignore[arg-type]


@dataclass(slots=True)
class Stream:
    prompt: list[int]
    num_outputs: int
    blocks: list[int]
    state: int | None = None
    num_computed: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def all_tokens(self) -> list[int]:
        return self.prompt + self.tokens

    @property
    def is_done(self) -> bool:
        return len(self.tokens) == self.num_outputs


class Driver:
    """Each step takes decodes first, then chunks of 1 to `max_chunk` tokens."""

    def __init__(self, runner: TorchRunner, seed: int = 0, max_chunk: int = 7) -> None:
        self.runner = runner
        self.rng = random.Random(seed)
        self.max_chunk = max_chunk
        self.free = list(range(runner.num_blocks))
        self.rng.shuffle(self.free)
        self.free_states = list(range(runner.num_states))
        self.rng.shuffle(self.free_states)
        self.streams: list[Stream] = []

    def add(self, prompt: Sequence[int], num_outputs: int) -> Stream:
        size = self.runner.store.block_size
        blocks = [self.free.pop() for _ in range(-(-(len(prompt) + num_outputs) // size))]
        state = self.free_states.pop() if self.free_states else None
        stream = Stream(list(prompt), num_outputs, blocks, state)
        self.streams.append(stream)
        return stream

    def step(self, on_layer: Callable[[int], None] | None = None) -> None:
        live = [s for s in self.streams if not s.is_done]
        chunks: list[Chunk] = []
        samples: list[SampleRow] = []
        taken: list[tuple[Stream, int]] = []
        for stream in sorted(live, key=lambda s: not s.tokens):
            known = stream.all_tokens
            left = len(known) - stream.num_computed
            size = 1 if left == 1 else min(left, self.rng.randint(1, self.max_chunk))
            end = stream.num_computed + size
            if end == len(known):
                samples.append(_row(len(chunks), stream))
            chunks.append(
                Chunk(
                    token_ids=known[stream.num_computed : end],
                    start=stream.num_computed,
                    block_ids=stream.blocks,
                    num_sequence_tokens=len(known),
                    state_id=stream.state,
                )
            )
            taken.append((stream, end))
        found = self.runner.run(Batch(chunks=chunks, samples=samples), on_layer)
        for stream, end in taken:
            stream.num_computed = end
        for row, (sampled,) in zip(samples, found, strict=True):
            stream = taken[row.chunk][0]
            assert sampled.logprob is not None
            stream.tokens.append(sampled.token_id)
            stream.logprobs.append(sampled.logprob)

    def finish(self) -> None:
        while not all(s.is_done for s in self.streams):
            self.step()


def _row(chunk: int, stream: Stream) -> SampleRow:
    return SampleRow(
        chunk=chunk, choice=0, params=GREEDY, prompt_token_ids=stream.prompt, output_token_ids=list(stream.tokens)
    )


@dataclass(frozen=True, slots=True)
class Expected:
    tokens: list[int]
    logprobs: list[float]


def generate(folder: Path, prompts: Sequence[Sequence[int]], num_outputs: int, device: str = "cpu") -> list[Expected]:
    """What transformers' own greedy generate gives, one prompt at a time, in float32."""
    from transformers import AutoModelForCausalLM

    auto_model: Any = AutoModelForCausalLM
    model = auto_model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").to(device).eval()
    results = []
    for prompt in prompts:
        found = model.generate(
            torch.tensor([list(prompt)], device=device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64, device=device),
            max_new_tokens=num_outputs,
            min_new_tokens=num_outputs,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = found.sequences[0, len(prompt) :].tolist()
        table = torch.stack(found.logits)[:, 0].float().log_softmax(-1).cpu()
        results.append(Expected(tokens, [float(table[i, token]) for i, token in enumerate(tokens)]))
    return results


def prompts_of(rng: random.Random, lengths: Sequence[int], vocab_size: int) -> list[list[int]]:
    return [[rng.randrange(2, vocab_size) for _ in range(length)] for length in lengths]


def count_differences(streams: Sequence[Stream], expected: Sequence[Expected], tolerance: float = 1e-4) -> int:
    """Tokens that differ, or whose logprob is off by more than `tolerance`."""
    return sum(
        ours != theirs or abs(a - b) > tolerance
        for stream, want in zip(streams, expected, strict=True)
        for ours, theirs, a, b in zip(stream.tokens, want.tokens, stream.logprobs, want.logprobs, strict=True)
    )
