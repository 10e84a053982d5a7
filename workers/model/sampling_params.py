"""How one request is sampled, as sampler, scheduler and fake read it. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Checked at the edge (cluster.ingress.openai); here every field has a value."""

    max_tokens: int
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_logprobs: int | None = None  # None: none; k: of the sampled token and of the k most likely
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
