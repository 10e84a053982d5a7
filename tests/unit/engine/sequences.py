"""Sequences for tests of the block manager and the scheduler."""

import math
from collections.abc import Sequence as List

from workers.engine.sequence import Sequence
from workers.model.sampling_params import SamplingParams


def make_sequence(
    prompt: int | List[int] = 8,
    *,
    name: str = "r",
    choice: int = 0,
    outputs: List[int] = (),
    max_tokens: int = 4,
    arrived_s: float = 0.0,
    deadline_s: float = math.inf,
    siblings: tuple[int, ...] = (),
) -> Sequence:
    """A waiting sequence; a prompt given by its length has the token ids 1, 2, 3 ..."""
    return Sequence(
        request_id=name,
        choice=choice,
        attempt=0,
        ingress_id="ingress",
        prompt_token_ids=tuple(range(1, prompt + 1) if isinstance(prompt, int) else prompt),
        output_token_ids=list(outputs),
        params=SamplingParams(max_tokens=max_tokens),
        arrived_s=arrived_s,
        deadline_s=deadline_s,
        siblings=siblings,
    )
