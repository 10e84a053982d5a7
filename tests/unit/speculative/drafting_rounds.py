"""Drafts with a runner as a draft worker does: reads texts exactly, then drafts greedily, each in its own blocks."""

from collections.abc import Sequence
from pathlib import Path

from tests.models import tiny
from workers.model.contract import Batch, Chunk, ChunkKind, ModelRunner, SampleRow
from workers.model.sampling_params import SamplingParams

GREEDY = SamplingParams(max_tokens=64, temperature=0.0, logprobs=0)
NUM_LAYERS = 6
BLOCKS = 20  # of a text


def model(family: str) -> Path:
    """With four layers between the first and the last."""
    windowed = {"layer_types": ["sliding_attention", "full_attention"] * 3}
    return tiny(
        family, num_hidden_layers=NUM_LAYERS, **(windowed if family in ("qwen2", "gemma2", "gemma3_text") else {})
    )


class Drafting:
    def __init__(self, runner: ModelRunner, prompts: Sequence[Sequence[int]]) -> None:
        self.runner = runner
        self.texts = [list(prompt) for prompt in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self._num_prompt = [len(prompt) for prompt in prompts]
        self._starts = [0] * len(prompts)

    @property
    def outputs(self) -> list[list[int]]:
        return [text[num:] for text, num in zip(self.texts, self._num_prompt, strict=True)]

    def step(self, kind: ChunkKind) -> None:
        """Reads what is new of each text in chunks of that kind, and puts the most likely token after it."""
        chunks, rows = [], []
        for number, (text, start) in enumerate(zip(self.texts, self._starts, strict=True)):
            chunks.append(
                Chunk(
                    token_ids=text[start:],
                    start=start,
                    block_ids=range(BLOCKS * number, BLOCKS * (number + 1)),
                    num_sequence_tokens=len(text),
                    kind=kind,
                )
            )
            rows.append(SampleRow(chunk=number, choice=0, params=GREEDY, prompt_token_ids=text, output_token_ids=()))
        self._starts = [len(text) for text in self.texts]
        for number, (sampled,) in enumerate(self.runner.run(Batch(chunks=chunks, samples=rows))):
            assert sampled.logprob is not None
            self.texts[number].append(sampled.token_id)
            self.logprobs[number].append(sampled.logprob)

    def round(self, depth: int) -> None:
        """The first token exactly, the others as drafts."""
        self.step(ChunkKind.DECODE)
        for _ in range(depth - 1):
            self.step(ChunkKind.DRAFT)

    def reject(self, num_tokens: int) -> None:
        """The last tokens: what is read of them counts no more, nor does what was only drafted before them."""
        for number, text in enumerate(self.texts):
            del text[-num_tokens:]
            del self.logprobs[number][-num_tokens:]

    def read_again(self, num_tokens: int) -> None:
        """From so many tokens before the end on, as a calibration does."""
        self._starts = [len(text) - num_tokens for text in self.texts]
