"""Whether and how a worker's model can draft for itself."""

import logging
import time

from baton.errors import ConfigError
from workers.model.contract import ModelRunner
from workers.spec import WorkerSpec
from workers.speculative.paced import CostlyDrafter

logger = logging.getLogger(__name__)
LIMIT_S = 10.0  # after which no more levels are tried, when the worker starts


def make_self_drafter(spec: WorkerSpec, runner: ModelRunner, kind: int) -> CostlyDrafter:
    """Tries the model's layers: seconds.

    Raises:
        ConfigError: The model is divided over ranks, has too few layers, or none.
    """
    if spec.fake:
        raise ConfigError("speculation.method: 'self' needs a model with layers, load_format: fake has none; set auto")
    if spec.gang.size > 1:
        raise ConfigError(
            f"speculation.method: 'self' does not go with workers of {spec.gang.size} ranks; give each decode worker "
            "one rank, or set auto or ngram"
        )
    from workers.model.layer_subset import LayerSubset
    from workers.model.runner import TorchRunner
    from workers.speculative.layer_choice import choose_levels, gain
    from workers.speculative.self_drafting import SelfDrafter

    assert isinstance(runner, TorchRunner)
    subset = LayerSubset(runner)
    levels = choose_levels(subset, limit_s=LIMIT_S, clock=time.perf_counter)
    if not levels:
        raise ConfigError(
            f"speculation.method: 'self' needs a model of more layers than {subset.num_layers}; set auto or ngram"
        )
    if max(gain(level.agreement, level.cost) for level in levels) <= 1.0:
        logger.warning("self-drafting is not expected to pay with this model; it is tried now and then all the same")
    return SelfDrafter(subset, levels, kind=kind)
