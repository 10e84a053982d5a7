"""The options that say what a step costs: a measured profile, or a device's data sheet."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import ConfigError

if TYPE_CHECKING:
    from cluster.planner.fitted import Profile

PANEL = "Costs of a step (one of)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptions:
    hardware: Annotated[
        str | None, typer.Option(help="A device by its data sheet: h200, a100-80g, ...", rich_help_panel=PANEL)
    ] = None
    profile: Annotated[Path | None, typer.Option(help="What `baton profile` measured.", rich_help_panel=PANEL)] = None

    def check(self) -> None:
        """Raises: ConfigError: not one of them."""
        if (self.profile is None) is (self.hardware is None):
            given = "both were given" if self.profile is not None else "neither was given"
            raise ConfigError(f"--hardware NAME or --profile FILE: {given}; give one of them")


def read_profile(path: Path) -> "Profile":
    """Raises: ConfigError: no file, or none that `baton profile` of this version wrote."""
    from cluster.planner.fitted import Profile

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"--profile {path} cannot be read: {reason}; make one with `baton profile`") from error
    return Profile.from_text(text, f"--profile {path}")
