"""What a step, a transfer and a draft round cost: the one protocol that the simulator and the search ask.

Implementations: `fitted` (from `baton profile`), `coefficients` (published fits), `roofline` (from specs, for hardware
one has not got).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cluster.config.schema import MAX_RANKS
from workers.spec import SERVING_ROLES, Role


class PromptChunk(NamedTuple):
    """Prompt tokens of one sequence that one step computes."""

    num_tokens: int
    num_context: int  # tokens of the sequence before them


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """Degrees of one worker (a gang of `num_devices` ranks)."""

    tensor: int = 1
    pipeline: int = 1
    sequence: int = 1

    @property
    def num_devices(self) -> int:
        return self.tensor * self.pipeline * self.sequence

    def runs_as(self, role: Role) -> bool:
        """Whether this version starts such workers of a pool."""
        is_known = role is Role.PREFILL or (role in SERVING_ROLES and self.sequence == 1)
        return is_known and self.pipeline == 1 and self.num_devices <= MAX_RANKS

    def __str__(self) -> str:
        parts = (("tp", self.tensor), ("pp", self.pipeline), ("sp", self.sequence))
        return "".join(f"{name}{degree}" for name, degree in parts if degree > 1) or "1"


class LatencyModel(Protocol):
    """One worker's costs; pure functions. Seconds hold everything a step takes: kernels, launch, engine, sampling.

    With `pipeline_stages` > 1 a step's result comes after `step_s`, and the next step of other sequences may begin
    after `step_s / pipeline_stages`.
    """

    @property
    def pipeline_stages(self) -> int: ...

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        """One engine step: prompts alone, decodes alone, or both (chunked prefill).

        Args:
            num_decodes: Sequences that compute one token each.
            num_context: Sum of the lengths of their contexts in tokens.
        """
        ...

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        """`num_steps` steps in a row of the same decodes, each with a token more than before; their sum.

        Equals the sum of `step_s((), num_decodes, num_context + i * num_decodes)` for i < num_steps.
        """
        ...


class TransferModel(Protocol):
    def transfer_s(self, num_bytes: int) -> float:
        """From the first byte's departure until all are in the receiver's blocks, over an idle path."""
        ...


class DraftModel(Protocol):
    def round_s(self, num_sequences: int, num_context: int) -> float:
        """One round: drafting, and the target's verification of all drafts."""
        ...

    def tokens_per_round(self) -> float:
        """Expected tokens that a sequence gains per round, the target's own included; >= 1."""
        ...


@dataclass(frozen=True, slots=True)
class Slowed:
    """`latency`, every step `factor` times as long."""

    latency: LatencyModel
    factor: float

    @property
    def pipeline_stages(self) -> int:
        return self.latency.pipeline_stages

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        return self.factor * self.latency.step_s(prompts, num_decodes, num_context)

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return self.factor * self.latency.decode_steps_s(num_decodes, num_context, num_steps)
