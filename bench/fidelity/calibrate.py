"""Finds one set of constants per system from some of the runs, by simulating them again and again."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bench.fidelity.compare import Comparison
from bench.fidelity.distserve_systems import Constants

STEPS = {  # of the search: the first tried on each constant; the last is an eighth of it
    "ingress_s": 0.001,
    "prefill_scale": 0.04,
    "prefill_step_s": 0.002,
    "decode_step_s": 0.001,
    "sequence_s": 0.00008,
    "receive_token_s": 2e-6,
}
ATTAINMENT_WEIGHT = 3.0
ADDED = frozenset({"prefill_step_s", "decode_step_s"})  # to the published bases, which a faster server stays below


def loss(comparisons: Sequence[Comparison]) -> float:
    """Mean of the attainment's error and of the single requests', each run weighing as many as it has requests.

    Both are smooth in what is predicted, so that no single request decides.
    """
    errors = [ATTAINMENT_WEIGHT * abs(one.soft_error) / 100 + one.request_error for one in comparisons]
    return float(np.average(errors, weights=[one.num_requests for one in comparisons]))


def fit(start: Constants, names: Sequence[str], evaluate: Callable[[Constants], float]) -> tuple[Constants, float]:
    """Pattern search: moves one constant at a time while that helps, then with half the step, three times.

    Args:
        names: The constants to find.
        evaluate: The loss with such constants.
    Returns:
        The best constants seen and their loss.
    """
    best, best_loss = start, evaluate(start)
    for shrink in (1.0, 0.5, 0.25, 0.125):
        improved = True
        while improved:
            improved = False
            for name in names:
                for sign in (1, -1):
                    value = getattr(best, name) + sign * shrink * STEPS[name]
                    value = value if name in ADDED else max(value, 0.0)
                    tried = replace(best, **{name: value})
                    tried_loss = evaluate(tried)
                    if tried_loss < best_loss:
                        best, best_loss, improved = tried, tried_loss, True
                        break
    return best, best_loss
