"""How much hangs on the last digit of the constants, and on which runs they were fitted."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from bench.fidelity.compare import mean_attainment_error
from bench.fidelity.distserve_replay import fit_constants, replay
from bench.fidelity.distserve_runs import DistserveRun
from bench.fidelity.distserve_systems import MODEL, Constants, Published

MOVED = 0.03  # of each constant and each published coefficient, at most
_FITS = ("prefill", "decoding_smallbs", "decoding_largebs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Mean absolute errors of attainment in points, with constants fitted on `fitted`."""

    fitted: tuple[str, ...]
    all_runs: float
    held_out: float
    errors: tuple[float, ...]  # predicted less measured, of each run


def neighbourhood(
    runs: Sequence[DistserveRun], published: Published, constants: Constants, *, num_draws: int, seed: int
) -> list[float]:
    """Mean absolute errors of attainment, each with all costs moved by up to MOVED at random."""
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(num_draws):
        moved, tried = _moved_fits(published, rng), _moved(constants, rng)
        errors.append(mean_attainment_error([replay(run, moved, tried) for run in runs]))
    return errors


def splits(runs: Sequence[DistserveRun], published: Published, start: Constants, *, num_fitted: int) -> Iterator[Split]:
    """Fits on each choice of `num_fitted` of `runs`, which are one system's."""
    for chosen in combinations(runs, num_fitted):
        names = frozenset(run.name for run in chosen)
        constants = fit_constants(chosen, published, start)
        comparisons = [replay(run, published, constants, names) for run in runs]
        yield Split(
            fitted=tuple(run.name for run in chosen),
            all_runs=mean_attainment_error(comparisons),
            held_out=mean_attainment_error([one for one in comparisons if not one.fitted]),
            errors=tuple(one.attainment_error for one in comparisons),
        )


def spread_line(errors: Sequence[float]) -> str:
    return (
        f"with every cost moved by up to {MOVED:.0%}, {len(errors)} times: {np.mean(errors):.1f} points "
        f"(sd {np.std(errors):.1f}, {min(errors):.1f} to {max(errors):.1f})"
    )


def split_line(split: Split) -> str:
    errors = ", ".join(f"{error:+.1f}" for error in split.errors)
    return f"fitted on {', '.join(split.fitted)}: all {split.all_runs:.1f}, held out {split.held_out:.1f} ({errors})"


def _moved(constants: Constants, rng: np.random.Generator) -> Constants:
    return Constants(**{name: value * _factor(rng) for name, value in asdict(constants).items()})


def _moved_fits(published: Published, rng: np.random.Generator) -> Published:
    profiles: dict[str, Any] = {}
    for system, profile in published.profiles.items():
        degrees = {
            degree: {
                key: [part * _factor(rng) for part in value] if key in _FITS else value for key, value in fits.items()
            }
            for degree, fits in profile[MODEL].items()
        }
        profiles[system] = {MODEL: degrees}
    return Published(profiles=profiles, capacity=published.capacity)


def _factor(rng: np.random.Generator) -> float:
    return 1 + MOVED * float(rng.uniform(-1, 1))
