"""What one decoder layer holds, keeps and computes; counts of elements and of floating point operations.

A multiply and an add count as two operations.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """`num_parameters` are those that every token meets, norms included.

    Softmax attention keeps `kv_elements` per token; linear attention keeps `state_elements` (float32, the recurrence's)
    and `conv_elements` (in the model's dtype) per sequence.
    """

    num_parameters: int
    kv_elements: int = 0
    pair_flops: int = 0  # of one query and one key, all heads: scores and values
    decode_pair_flops: int = 0  # the same in a decode step: latent attention absorbs a projection there
    window: int | None = None  # a query sees so many tokens at most, itself included; None: all
    state_elements: int = 0
    conv_elements: int = 0
    recurrence_flops: int = 0  # of one token, beside the parameters' products


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardSpec:
    """`num_parameters` are those that every token meets: a dense layer, or router and shared experts."""

    num_parameters: int
    num_experts: int = 0  # routed ones
    num_experts_per_token: int = 0
    expert_parameters: int = 0  # of one routed expert

    @property
    def num_held(self) -> int:
        return self.num_parameters + self.num_experts * self.expert_parameters

    @property
    def num_active(self) -> int:
        return self.num_parameters + self.num_experts_per_token * self.expert_parameters

    def num_touched(self, num_tokens: int) -> float:
        """Parameters that a step of `num_tokens` reads, when each token's experts are drawn at random."""
        if not self.num_experts:
            return self.num_parameters
        missed = (1 - self.num_experts_per_token / self.num_experts) ** num_tokens
        return self.num_parameters + self.num_experts * (1 - missed) * self.expert_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    attention: AttentionSpec
    feed_forward: FeedForwardSpec

    @property
    def num_parameters(self) -> int:
        return self.attention.num_parameters + self.feed_forward.num_held

    @property
    def num_dense(self) -> int:
        """That every token meets."""
        return self.attention.num_parameters + self.feed_forward.num_parameters

    @property
    def num_active(self) -> int:
        return self.attention.num_parameters + self.feed_forward.num_active


def num_pairs(num_tokens: int, num_context: int, window: int | None) -> int:
    """(query, key) pairs of causal attention: queries at [num_context, num_context + num_tokens), keys up to each."""
    if window is None:
        return num_tokens * num_context + num_tokens * (num_tokens + 1) // 2
    num_whole = min(max(window - num_context, 0), num_tokens)  # queries that see everything before them
    return num_whole * num_context + num_whole * (num_whole + 1) // 2 + (num_tokens - num_whole) * window
