"""Distributions of prompt and output lengths, in tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from baton.errors import ConfigError

Lengths = NDArray[np.int64]


class Shape(Protocol):
    """Draws requests' lengths together, so that long prompts may go with short outputs."""

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Lengths, Lengths]:
        """Prompt and output lengths, `count` of each, all >= 1."""
        ...


class Length(Protocol):
    def draw(self, count: int, rng: np.random.Generator) -> Lengths: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    value: int

    def __post_init__(self) -> None:
        if self.value < 1:
            raise ConfigError(f"length {self.value} must be 1 token or more")

    def draw(self, count: int, rng: np.random.Generator) -> Lengths:
        return np.full(count, self.value, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """By mean and median, mean >= median >= 1; draws are cut to [1, `max_tokens`]."""

    mean: float
    median: float
    max_tokens: int = 1 << 20

    def __post_init__(self) -> None:
        if not 1 <= self.median <= self.mean < float("inf"):
            raise ConfigError(
                f"lognormal lengths: mean {self.mean:g} and median {self.median:g} must be mean >= median >= 1"
            )

    def draw(self, count: int, rng: np.random.Generator) -> Lengths:
        sigma = math.sqrt(2 * math.log(self.mean / self.median))  # mean = median * exp(sigma^2 / 2)
        drawn = rng.lognormal(math.log(self.median), sigma, count)
        return np.clip(np.rint(drawn), 1, self.max_tokens).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Independent:
    """Prompts and outputs drawn apart."""

    prompt: Length
    output: Length

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Lengths, Lengths]:
        return self.prompt.draw(count, rng), self.output.draw(count, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Empirical:
    """(prompt, output) pairs as seen, drawn with replacement."""

    pairs: Sequence[tuple[int, int]]

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ConfigError("empirical lengths need at least one (prompt, output) pair")
        bad = [pair for pair in self.pairs if min(pair) < 1]
        if bad:
            raise ConfigError(f"empirical lengths: {bad[0]} must be 1 token or more, both")

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Lengths, Lengths]:
        chosen = np.asarray(self.pairs, dtype=np.int64)[rng.integers(0, len(self.pairs), count)]
        return chosen[:, 0], chosen[:, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Several kinds of requests in one stream, for loads whose mean describes nobody; weights need not add to 1."""

    parts: Sequence[tuple[float, Shape]]

    def __post_init__(self) -> None:
        if not self.parts or any(weight <= 0 for weight, _ in self.parts):
            raise ConfigError(f"a mix needs parts with weights above 0, got {[weight for weight, _ in self.parts]}")

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Lengths, Lengths]:
        weights = np.array([weight for weight, _ in self.parts])
        kinds = rng.choice(len(self.parts), size=count, p=weights / weights.sum())
        prompts, outputs = np.ones(count, dtype=np.int64), np.ones(count, dtype=np.int64)
        for kind, (_, shape) in enumerate(self.parts):
            chosen = kinds == kind
            prompts[chosen], outputs[chosen] = shape.draw(int(chosen.sum()), rng)
        return prompts, outputs
