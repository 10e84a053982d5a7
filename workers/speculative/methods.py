"""Names of `speculation.method`, and what each asks of a model."""

from baton.errors import ConfigError

AUTO, NONE, NGRAM, DRAFT, SELF = "auto", "none", "ngram", "draft", "self"
DRAFTED = (AUTO, DRAFT)  # those that take what a draft model guesses, here or on draft workers


def check_goes_with_states(method: str, model: str) -> None:
    """Raises: ConfigError: a method is named that a model with linear attention cannot go with."""
    if method not in (AUTO, NONE):
        raise ConfigError(
            f"speculation.method: {method!r} does not go with {model}: a rejected token cannot be taken out of the "
            "state that linear attention keeps; set none or auto"
        )
