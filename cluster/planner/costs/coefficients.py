"""Latencies from a few published coefficients per model and degree: DistServe's form.

Prefill a + b*sum(l) + c*sum(l^2) and decode a + b*sum(context) + c*batch, lengths in tokens; decode has one set of
coefficients up to a batch size and another above it. DistServe: Zhong et al., OSDI 2024, section 5 and appendix A.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from baton.errors import ConfigError
from cluster.contracts.latency import Parallelism, PromptChunk

MS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillFit:
    base_s: float
    per_token_s: float
    per_square_s: float  # of a prompt's length


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeFit:
    base_s: float
    per_context_s: float  # of each token of context
    per_sequence_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CoefficientLatency:
    """A worker's costs; see `cluster.contracts.latency.LatencyModel`.

    `overhead_s` is what every step takes beside its kernels. Pipeline stages divide a step evenly between them, as
    in DistServe's simulator; a stage's own overhead is not divided.
    """

    prefill: PrefillFit
    decode_small: DecodeFit
    decode_large: DecodeFit
    large_from: int  # the batch size at which `decode_large` takes over
    overhead_s: float = 0.0
    pipeline_stages: int = 1

    @classmethod
    def from_profile(
        cls, profile: Mapping[str, Any], model: str, parallelism: Parallelism, *, overhead_s: float = 0.0
    ) -> Self:
        """From DistServe's profile: model -> TP degree -> coefficients in ms.

        Raises:
            ConfigError: The profile has no such model or degree, lacks a field, or `parallelism` is sequence-parallel.
        """
        if parallelism.sequence > 1:
            raise ConfigError(f"sequence_parallel {parallelism.sequence}: a coefficient profile knows degree 1 alone")
        by_degree = _entry(profile, "model", model)
        fields = _entry(by_degree, f"{model}: tensor_parallel", str(parallelism.tensor))
        place = f"{model}, tensor_parallel {parallelism.tensor}"
        small = _three(fields, "decoding_smallbs", place)
        large = _three(fields, "decoding_largebs", place)
        prefill = _three(fields, "prefill", place)
        return cls(
            prefill=PrefillFit(base_s=prefill[0], per_token_s=prefill[1], per_square_s=prefill[2]),
            decode_small=DecodeFit(base_s=small[0], per_context_s=small[1], per_sequence_s=small[2]),
            decode_large=DecodeFit(base_s=large[0], per_context_s=large[1], per_sequence_s=large[2]),
            large_from=int(_entry(fields, place, "decoding_large_small_bs_threshold")),
            overhead_s=overhead_s,
            pipeline_stages=parallelism.pipeline,
        )

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        """A mixed step reads the weights once: of the two bases the larger one counts, and the rest adds up."""
        overhead_s = self.overhead_s * self.pipeline_stages
        fit = self._decode_fit(num_decodes)
        decode_s = fit.per_context_s * num_context + fit.per_sequence_s * num_decodes
        if not prompts:
            return overhead_s + fit.base_s + decode_s if num_decodes else 0.0
        fresh_s = 0.0
        for num_tokens, num_before in prompts:
            # (n + c)^2 - c^2: what the chunk adds to the square of a whole prompt.
            squares = num_tokens * (num_tokens + 2 * num_before)
            fresh_s += self.prefill.per_token_s * num_tokens + self.prefill.per_square_s * squares
        if not num_decodes:
            return overhead_s + self.prefill.base_s + fresh_s
        return overhead_s + max(self.prefill.base_s, fit.base_s) + fresh_s + decode_s

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        if not num_decodes:
            return 0.0
        first_s = self.step_s((), num_decodes, num_context)
        grown_s = self._decode_fit(num_decodes).per_context_s * num_decodes
        return num_steps * first_s + grown_s * (num_steps * (num_steps - 1) // 2)

    def _decode_fit(self, num_decodes: int) -> DecodeFit:
        return self.decode_small if num_decodes < self.large_from else self.decode_large


def _entry(fields: Mapping[str, Any], what: str, key: str) -> Any:
    if key not in fields:
        raise ConfigError(f"the profile has no {key!r} ({what}); it has {', '.join(map(str, fields))}")
    return fields[key]


def _three(fields: Mapping[str, Any], key: str, place: str) -> tuple[float, float, float]:
    """Coefficients in seconds."""
    values = _entry(fields, place, key)
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise ConfigError(f"{place}: {key} {values!r} must be three numbers of ms")
    first, second, third = values
    return first * MS, second * MS, third * MS
