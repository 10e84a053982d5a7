"""Checks of options that several commands share; each names the flag, its value and what to give."""

from collections.abc import Mapping
from math import inf

from baton.errors import ConfigError


def check_least(least: float, options: Mapping[str, float | None]) -> None:
    """Raises: ConfigError: one of them is given and below, or no finite number."""
    for flag, value in options.items():
        if value is not None and not least <= value < inf:
            raise ConfigError(f"{flag} {value} must be {least:g} or more")


def check_most(options: Mapping[str, float | None], most: float) -> None:
    """Raises: ConfigError: one of them is given and above: a typing error, which would be computed for hours."""
    for flag, value in options.items():
        if value is not None and value > most:
            raise ConfigError(f"{flag} {value:g} must be {most:,.15g} or less")


def check_above_zero(unit: str, options: Mapping[str, float | None]) -> None:
    """Raises: ConfigError: one of them is given and 0, below, or no finite number."""
    for flag, value in options.items():
        if value is not None and not 0 < value < inf:
            raise ConfigError(f"{flag} {value:g} must be a number of {unit} above 0, for example {flag} 200")


def check_unread(options: Mapping[str, object], why: str) -> None:
    """Raises: ConfigError: one of them is given (neither None nor False), and nothing would read it."""
    for flag, value in options.items():
        if value is not None and value is not False:
            shown = flag if value is True else f"{flag} {value}"
            raise ConfigError(f"{shown}: {why}; leave one of them out")
