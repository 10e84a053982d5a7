"""One sequence being read and written: its tokens, its cursors, its blocks.

Prompt and output token ids stay apart: penalties, `max_tokens`, usage and logprobs need the split. Draft tokens are no
part of it: they live in the step that computes them.
"""

import enum
from dataclasses import dataclass, field

from workers.engine.block_hash import ROOT
from workers.engine.following import Follower
from workers.model.sampling_params import SamplingParams


class Status(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    RECEIVING = "receiving"  # decode side: its KV is on the way
    SENDING = "sending"  # prefill side: computed, blocks kept until the ack
    FINISHED = "finished"


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One choice of a request; until its prompt is read, for its `siblings` too. Changed by the engine's thread alone.

    `arrived_s` and `deadline_s` are on the clock of the engine, or of the simulation.
    """

    request_id: str
    choice: int
    attempt: int
    ingress_id: str
    prompt_token_ids: tuple[int, ...]
    output_token_ids: list[int] = field(default_factory=list)
    params: SamplingParams
    arrived_s: float
    deadline_s: float
    admitted_s: float = 0.0  # to the running ones, for the first time; 0: not yet
    status: Status = Status.WAITING
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[int] = field(default_factory=list)  # of full blocks, in order; may run ahead of computed ones
    state_ids: list[int] = field(
        default_factory=list
    )  # slot of its state, with its blocks; none where no layer has one
    num_committed_blocks: int = 0  # of `block_ids`, offered to the prefix cache so far
    num_computed_tokens: int = 0  # KV of [0, num_computed_tokens) is in the blocks
    num_cached_tokens: int = 0  # leading ones found in the prefix cache when it was last admitted
    adapter_id: int = 0  # of the LoRA adapter that it is computed with, on this worker; 0: none
    root_hash: int = ROOT  # what the hash of its first block chains on
    num_scored_tokens: int = 0  # leading ones of the prompt whose log probabilities are out, the first one counted
    siblings: tuple[int, ...] = ()  # choices to fork off when the prompt is read; empty: none
    # Of steps that were launched and are not known to be done: see `workers.engine.flight`.
    num_launched_tokens: int = 0  # that they compute, after the computed ones
    num_pending_tokens: int = 0  # that they write: how many is known, which is not
    last_step: int | None = None  # the number of the last of them; None: there is none
    pending_row: int | None = None  # of that step's samples: where its token comes from
    is_held: bool = False  # what becomes of it depends on them
    grammar: str = ""  # that the output tokens follow, as llguidance reads it; empty: none
    follower: Follower | None = None  # of the grammar, from when it is compiled

    @property
    def key(self) -> tuple[str, int]:
        return (self.request_id, self.choice)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def num_scheduled_tokens(self) -> int:
        """Leading ones that are computed, or will be by steps that were launched."""
        return self.num_computed_tokens + self.num_launched_tokens

    @property
    def num_coming_tokens(self) -> int:
        """With those that such steps write."""
        return len(self.prompt_token_ids) + len(self.output_token_ids) + self.num_pending_tokens

    @property
    def num_unscored_tokens(self) -> int:
        """Of the prompt, whose log probabilities were asked for and are not out."""
        if self.params.prompt_logprobs is None:
            return 0
        return len(self.prompt_token_ids) - max(self.num_scored_tokens, 1)

    @property
    def num_reusable_tokens(self) -> int:
        """Leading ones that need not be computed where their KV is known: each says how likely the next one is."""
        return max(self.num_scored_tokens - 1, 0) if self.num_unscored_tokens else self.num_tokens - 1

    def tokens(self, start: int, end: int) -> list[int]:
        """Token ids of positions [start, end)."""
        split = len(self.prompt_token_ids)
        head = self.prompt_token_ids[start : min(end, split)]
        return [*head, *self.output_token_ids[max(start - split, 0) : max(end - split, 0)]]
