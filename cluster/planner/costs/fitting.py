"""From measured points to latencies: robust least squares on the relative error, no coefficient below 0."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from baton.errors import ConfigError
from cluster.contracts.latency import LatencyModel, PromptChunk
from cluster.planner.costs.fitted import FitError, FittedLatency
from cluster.planner.costs.transfer import Path
from cluster.planner.models.layer_spec import num_pairs

Floats = NDArray[np.float64]

KNOTS = (0, 8, 32, 128, 512)  # tokens of a step: kernels change their ways between a few rows and many
MIN_POINTS = 4
MAX_WEIGHT = 9  # samples beyond so many make a point no surer: what is left is the machine's drift
NUM_REWEIGHTED = 5


class MeasuredStep(Protocol):
    """What a step computed, and what it took."""

    @property
    def prompts(self) -> Sequence[tuple[int, int]]:
        """(num_tokens, num_context) of each chunk."""
        ...

    @property
    def num_decodes(self) -> int: ...

    @property
    def num_context(self) -> int:
        """Of the decodes, summed."""
        ...

    @property
    def step_s(self) -> float: ...

    @property
    def num_samples(self) -> int:
        """That `step_s` is the median of."""
        ...


class MeasuredTransfer(Protocol):
    @property
    def num_bytes(self) -> int: ...

    @property
    def transfer_s(self) -> float: ...


def fit_steps(points: Sequence[MeasuredStep]) -> FittedLatency:
    """
    Raises:
        ConfigError: Too few points, or none with prompts, or none with decodes.
    """
    num_prompts = sum(1 for point in points if point.prompts)
    num_decodes = sum(1 for point in points if point.num_decodes)
    if min(num_prompts, num_decodes) < MIN_POINTS:
        raise ConfigError(
            f"{num_prompts} steps with prompts and {num_decodes} with decodes are too few to fit; "
            f"measure at least {MIN_POINTS} of each"
        )
    took_s = np.array([point.step_s for point in points])
    if not (took_s > 0).all():
        raise ConfigError(f"a step of {took_s.min():g} s cannot be; measure again")
    largest = max(_num_tokens(point) for point in points)
    knots = tuple(knot for knot in KNOTS if knot < largest)
    rows = np.array([_features(point, knots) for point in points], dtype=float)
    weights = np.sqrt([min(point.num_samples, MAX_WEIGHT) for point in points])
    found = _robust(rows / took_s[:, None], weights).tolist()
    names = ("base_s", "prompt_s", "decode_s", "chunk_s", "pair_s", "read_s", "sequence_s", "context_s")
    terms = dict(zip(names, found, strict=False))
    return FittedLatency(knots=knots, slopes_s=tuple(found[len(names) :]), **terms)


def _robust(relative: Floats, weights: Floats) -> Floats:
    """Huber's estimate of `relative` @ x = 1: points far off count by their distance, not by its square."""
    found = nonnegative_least_squares(relative * weights[:, None], weights)
    for _ in range(NUM_REWEIGHTED):
        errors = np.abs(relative @ found - 1)
        near = 2 * np.median(errors) + 1e-9
        trusted = weights * np.sqrt(near / np.maximum(errors, near))
        found = nonnegative_least_squares(relative * trusted[:, None], trusted)
    return found


def _num_tokens(point: MeasuredStep) -> int:
    return point.num_decodes + sum(num_tokens for num_tokens, _ in point.prompts)


def _features(point: MeasuredStep, knots: Sequence[int]) -> list[float]:
    """One per coefficient of `FittedLatency`, in the order of `fit_steps`'s names, then the slopes."""
    pairs = sum(num_pairs(num_tokens, num_before, None) for num_tokens, num_before in point.prompts)
    num_tokens = _num_tokens(point)
    ends = [*knots[1:], float("inf")]
    return [
        1,
        bool(point.prompts),
        bool(point.num_decodes),
        len(point.prompts),
        pairs,
        sum(num_before for _, num_before in point.prompts),
        point.num_decodes,
        point.num_context,
        *(max(0, min(num_tokens, high) - low) for low, high in zip(knots, ends, strict=True)),
    ]


def fit_transfer(points: Sequence[MeasuredTransfer]) -> Path:
    """
    Raises:
        ConfigError: Fewer than two sizes, or times that do not grow with the bytes.
    """
    sizes = sorted({point.num_bytes for point in points})
    if len(sizes) < 2:
        raise ConfigError(f"transfers of {sizes} bytes are too few to fit; measure at least two sizes")
    took_s = np.array([point.transfer_s for point in points])
    rows = np.array([[1.0, point.num_bytes] for point in points])
    latency_s, byte_s = nonnegative_least_squares(rows / took_s[:, None], np.ones(len(points))).tolist()
    if byte_s <= 0:
        raise ConfigError(f"{sizes[-1]} bytes took no longer than {sizes[0]}; measure larger transfers")
    return Path(bandwidth=1 / byte_s, latency_s=latency_s)


def fit_errors(latency: LatencyModel, points: Iterable[MeasuredStep]) -> dict[str, FitError]:
    """By kind of step: prefill, decode, mixed."""
    errors: dict[str, list[float]] = defaultdict(list)
    for point in points:
        kind = "mixed" if point.prompts and point.num_decodes else "prefill" if point.prompts else "decode"
        chunks = [PromptChunk(*chunk) for chunk in point.prompts]
        predicted_s = latency.step_s(chunks, point.num_decodes, point.num_context)
        errors[kind].append(abs(predicted_s / point.step_s - 1))
    return {
        kind: FitError(num_points=len(found), median=float(np.median(found)), p90=float(np.percentile(found, 90)))
        for kind, found in sorted(errors.items())
    }


def nonnegative_least_squares(rows: Floats, target: Floats) -> Floats:
    """x >= 0 that minimizes |rows @ x - target|: Lawson and Hanson, Solving Least Squares Problems, chapter 23.

    Args:
        rows: [num_points, num_coefficients]; columns may differ by orders of magnitude.
        target: [num_points].
    """
    scale = np.linalg.norm(rows, axis=0)
    scale[scale == 0] = 1.0
    scaled = rows / scale
    found, free = np.zeros(rows.shape[1]), np.zeros(rows.shape[1], dtype=bool)
    for _ in range(10 * rows.shape[1]):
        gain = scaled.T @ (target - scaled @ found)
        gain[free] = -np.inf
        if gain.max() <= 1e-10:
            break
        free[gain.argmax()] = True
        while True:
            trial = np.zeros_like(found)
            trial[free] = np.linalg.lstsq(scaled[:, free], target, rcond=None)[0]
            below = free & (trial <= 0)
            if not below.any():
                break
            # As far towards the trial as nothing falls below 0; what arrives there is bound again.
            step = np.min(found[below] / (found[below] - trial[below]))
            found = found + step * (trial - found)
            free &= found > 1e-15
            found[~free] = 0.0
        found = trial
    result: Floats = found / scale
    return result
