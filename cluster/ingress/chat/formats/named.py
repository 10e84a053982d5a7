"""Finds a format by its name, or by what stands in a chat template."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from baton.errors import ConfigError


class Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> Sequence[str]: ...


F = TypeVar("F", bound=Named)


def of_template(marks: Sequence[tuple[tuple[str, ...], F]], template_source: str) -> F | None:
    """The first one all of whose marks stand in the template."""
    return next((one for texts, one in marks if all(text in template_source for text in texts)), None)


def of_name(formats: Sequence[F], name: str, *, key: str, noun: str) -> F:
    """Raises: ConfigError: no format has this name; `key` is the config's, `noun` what the formats are of."""
    for one in formats:
        if name == one.name or name in one.aliases:
            return one
    known = ", ".join(sorted({alias for one in formats for alias in (one.name, *one.aliases)}))
    raise ConfigError(f"{key}: {name} is no format of {noun}; give auto, none, or one of {known}")
