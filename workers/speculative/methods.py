"""Names of `speculation.method`."""

from baton.errors import ConfigError

AUTO, NONE, NGRAM, DRAFT, SELF = "auto", "none", "ngram", "draft", "self"
DRAFTED = (AUTO, DRAFT)  # those that take what a draft model guesses, here or on draft workers


def check_goes_with_states(method: str, model: str) -> None:
    """Raises: ConfigError: a method is named that a model with linear attention cannot go with."""
    if method == SELF:
        raise ConfigError(
            f"speculation.method: 'self' does not go with {model}: what its own layers guess would change the states "
            "that its linear attention keeps; set auto, ngram or none"
        )
