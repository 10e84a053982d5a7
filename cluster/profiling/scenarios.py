"""Which requests make a worker compute the steps that a profile wants to see: prompts, decodes, both in one step.

Pure. Sizes follow from the worker's limits, so that a small model's profile is as wide as its context allows.
"""

from dataclasses import dataclass

NUM_STEPS = 16  # decode steps per batch and round: their median is one sample


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioRequest:
    """One request. The first `num_prefix_tokens` of its prompt are those of the scenario's other prompts."""

    num_prompt_tokens: int
    num_outputs: int = 1
    num_prefix_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Waves of requests; each wave is sent when all before it have had their first token."""

    name: str
    waves: tuple[tuple[ScenarioRequest, ...], ...]

    @property
    def num_prompt_tokens(self) -> int:
        return sum(ask.num_prompt_tokens for wave in self.waves for ask in wave)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """Of the worker that is measured."""

    max_model_len: int
    num_kv_tokens: int
    max_batched_tokens: int
    max_sequences: int
    block_size: int


QUICK_TOKENS, FULL_TOKENS = 12_000, 36_000  # prompt tokens that a scenario may have, so that none takes all the time


def scenarios(limits: WorkerLimits, *, quick: bool) -> list[Scenario]:
    """In an order that covers the range early; no two of the same name."""
    longest = limits.max_model_len * 7 // 8 // limits.block_size * limits.block_size  # leaves room for answers
    lengths = _powers(16, min(limits.max_batched_tokens, longest), 4)
    contexts = _powers(256 if quick else 128, longest, 4)
    batches = _powers(1, limits.max_sequences, 8 if quick else 4)
    found = [_prompt(num_tokens, 0) for num_tokens in _powers(16, lengths[-1], 2)]
    found += [_prompt(num_tokens, context) for context in contexts for num_tokens in lengths[1::2]]
    found += [_prompts(count, num_tokens) for count, num_tokens in ((4, 64), (8, 24), (3, 200))]
    found += [_decodes(batch, context) for context in [32, *contexts] for batch in batches]
    found += [_mixed(batch, num_tokens) for batch in batches[1:] for num_tokens in lengths[1:]]
    max_tokens = min(QUICK_TOKENS if quick else FULL_TOKENS, int(0.8 * limits.num_kv_tokens))
    return [each for each in found if _fits(each, limits, max_tokens)]


def _powers(low: int, high: int, factor: int) -> list[int]:
    """low, low * factor, ... and `high`."""
    values = []
    while low < high:
        values.append(low)
        low *= factor
    return [*values, high]


def _prompt(num_tokens: int, context: int) -> Scenario:
    """A chunk of `num_tokens` behind `context` tokens that are cached (one prompt to read those first)."""
    ask = ScenarioRequest(num_prompt_tokens=context + num_tokens, num_prefix_tokens=context)
    before = ((ScenarioRequest(num_prompt_tokens=context, num_prefix_tokens=context),),) if context else ()
    return Scenario(name=f"prompt {num_tokens} after {context}", waves=(*before, (ask,)))


def _prompts(count: int, num_tokens: int) -> Scenario:
    return Scenario(
        name=f"{count} prompts of {num_tokens}", waves=((ScenarioRequest(num_prompt_tokens=num_tokens),) * count,)
    )


def _decodes(batch: int, context: int) -> Scenario:
    """`batch` answers behind prompts of `context` tokens, with NUM_STEPS steps of all of them."""
    num_outputs = NUM_STEPS + 1
    num_tokens = max(context - num_outputs // 2, 1)
    outlast = -(-batch * num_tokens // 1024)  # about the steps until the last prompt is read
    ask = ScenarioRequest(num_prompt_tokens=num_tokens, num_outputs=num_outputs + outlast)
    return Scenario(name=f"{batch} decodes at {context}", waves=((ask,) * batch,))


def _mixed(batch: int, num_tokens: int) -> Scenario:
    decodes = (ScenarioRequest(num_prompt_tokens=32, num_outputs=10),) * batch
    return Scenario(
        name=f"prompt {num_tokens} beside {batch}", waves=(decodes, (ScenarioRequest(num_prompt_tokens=num_tokens),))
    )


def _fits(scenario: Scenario, limits: WorkerLimits, max_tokens: int) -> bool:
    longest = max(ask.num_prompt_tokens + ask.num_outputs for wave in scenario.waves for ask in wave)
    return longest <= limits.max_model_len and scenario.num_prompt_tokens <= max_tokens
