"""Names of `speculation.method`."""

from baton.errors import ConfigError
from workers.model.contract import ModelRunner
from workers.spec import WorkerSpec

AUTO, NONE, NGRAM, DRAFT, SELF = "auto", "none", "ngram", "draft", "self"
AUTO_WIDTH = 4
DRAFTED = (AUTO, DRAFT)  # those that take what a draft model guesses, here or on draft workers


def check_goes_with_states(method: str, model: str) -> None:
    """Raises: ConfigError: a method is named that a model with linear attention cannot go with."""
    if method == SELF:
        raise ConfigError(
            f"speculation.method: 'self' does not go with {model}: what its own layers guess would change the states "
            "that its linear attention keeps; set auto, ngram or none"
        )


def tree_width(spec: WorkerSpec, runner: ModelRunner) -> int:
    """What is asked for; of models that keep states 1 all the same: a state has no branches.

    auto: `AUTO_WIDTH` on CPUs, where kernels of our own verify trees as fast as paths, and 1 elsewhere.
    """
    if runner.num_states:
        return 1
    asked = spec.speculation.tree_width
    if asked is None:
        return AUTO_WIDTH if spec.device == "cpu" and not spec.fake else 1
    return asked
