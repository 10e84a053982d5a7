"""Costs that are easy to add up by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.contracts.latency import PromptChunk


@dataclass(frozen=True, slots=True)
class LinearLatency:
    """A millisecond per prompt token, ten per step of decodes."""

    pipeline_stages: int = 1

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        return sum(chunk.num_tokens for chunk in prompts) * 1e-3 + (num_decodes > 0) * 0.01

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return self.step_s((), num_decodes, num_context) * num_steps
