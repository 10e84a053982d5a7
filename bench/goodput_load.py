"""The requests of `bench.goodput`: a trace's lengths or such as it has, scaled, at Poisson arrivals of any rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.contracts.simulation import Arrival
from cluster.load.trace_file import read_trace
from cluster.planner.load.lengths import Independent, Lognormal

# Means and medians of Azure's conversations.
AZURE = Independent(prompt=Lognormal(mean=1155.0, median=1020.0), output=Lognormal(mean=211.0, median=129.0))
NUM_SYNTHETIC = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """(prompt, output) tokens of each request, in the order they come, over again at the end."""

    rows: Sequence[tuple[int, int]]
    source: str

    def __str__(self) -> str:
        prompts, outputs = (np.array(values) for values in zip(*self.rows, strict=True))
        return f"{self.source}: {prompts.mean():.0f} tokens in and {outputs.mean():.0f} out on average"

    def arrivals(self, rate: float, count: int, seed: int, max_model_len: int) -> list[Arrival]:
        """Poisson arrivals; what is longer than the context is cut, prompts first."""
        rng = np.random.default_rng([seed, count])
        first = int(rng.integers(len(self.rows)))
        times_s = np.cumsum(rng.exponential(1 / rate, count)).tolist()
        return [
            _arrival(at_s, self.rows[(first + number) % len(self.rows)], max_model_len)
            for number, at_s in enumerate(times_s)
        ]


def _arrival(at_s: float, row: tuple[int, int], max_model_len: int) -> Arrival:
    num_outputs = min(row[1], max_model_len // 2)
    return Arrival(at_s=at_s, num_prompt_tokens=min(row[0], max_model_len - num_outputs), num_output_tokens=num_outputs)


def read_lengths(path: Path, scale: float) -> Lengths:
    """Raises: ConfigError: no trace can be read there."""
    rows = [_scaled(row.input_len, row.output_len, scale) for row in read_trace(path)]
    return Lengths(rows=rows, source=f"{path.name}, lengths x {scale:g}")


def synthetic_lengths(scale: float, seed: int) -> Lengths:
    prompts, outputs = AZURE.draw(NUM_SYNTHETIC, np.random.default_rng(seed))
    rows = [_scaled(prompt, output, scale) for prompt, output in zip(prompts.tolist(), outputs.tolist(), strict=True)]
    return Lengths(rows=rows, source=f"drawn like Azure's conversations, lengths x {scale:g}")


def _scaled(prompt: int, output: int, scale: float) -> tuple[int, int]:
    return max(round(prompt * scale), 1), max(round(output * scale), 1)
