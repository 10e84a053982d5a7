"""A decode worker whose tokens come in draft rounds, as a latency model."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.contracts.latency import DraftModel, LatencyModel, PromptChunk


@dataclass(frozen=True, slots=True)
class Drafted:
    """One step stands for one token: a round's time over the tokens that it brings.

    A step that also reads prompts lengthens by what the prompts cost `base`.
    """

    base: LatencyModel
    draft: DraftModel

    @property
    def pipeline_stages(self) -> int:
        return self.base.pipeline_stages

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        if not num_decodes:
            return self.base.step_s(prompts, 0, 0)
        token_s = self.draft.round_s(num_decodes, num_context) / self.draft.tokens_per_round()
        if not prompts:
            return token_s
        plain_s = self.base.step_s((), num_decodes, num_context)
        return token_s + max(self.base.step_s(prompts, num_decodes, num_context) - plain_s, 0.0)

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return sum(self.step_s((), num_decodes, num_context + step * num_decodes) for step in range(num_steps))
