"""The options that say which requests come: a trace's or made-up ones. `arrivals` reads and makes them."""

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError

PANEL = "Load: a trace, or synthetic"
INPUT_LEN, OUTPUT_LEN = 512, 128  # tokens, where not given


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """As given; None where not."""

    trace: Annotated[Path | None, typer.Option(help="Azure .csv or Mooncake .jsonl.", rich_help_panel=PANEL)] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Rows read of --trace.", rich_help_panel=PANEL)] = None
    clip: Annotated[
        bool, typer.Option("--clip", help="Cut requests of --trace that exceed the context.", rich_help_panel=PANEL)
    ] = False
    rate: Annotated[
        float | None, typer.Option(help="Requests/s (default: the trace's own).", rich_help_panel=PANEL)
    ] = None
    input_len: Annotated[
        int | None,
        typer.Option(min=1, help=f"Without --trace: mean prompt tokens (default: {INPUT_LEN}).", rich_help_panel=PANEL),
    ] = None
    output_len: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Without --trace: mean output tokens (default: {OUTPUT_LEN}).", rich_help_panel=PANEL
        ),
    ] = None
    gap_cv: Annotated[
        float | None,
        typer.Option(help="Without --trace: of the gaps; 1 (default) is Poisson.", rich_help_panel=PANEL),
    ] = None

    def check(self) -> None:
        """Raises: ConfigError: an option that cannot be, or that nothing would read beside the others."""
        if self.rate is not None and not 0 < self.rate < inf:
            raise ConfigError(f"--rate {self.rate:g} must be above 0 requests/s, for example 10")
        if self.gap_cv is not None and not 0 <= self.gap_cv < inf:
            raise ConfigError(f"--gap-cv {self.gap_cv:g} must be 0 or more; 1 is Poisson")
        if self.trace is not None:
            synthetic = {"--input-len": self.input_len, "--output-len": self.output_len, "--gap-cv": self.gap_cv}
            refuse_synthetic(synthetic)
            return
        if self.rate is None:
            raise ConfigError("--rate is needed without --trace; give requests/s, for example --rate 10")
        if self.limit is not None:
            raise ConfigError(f"--limit {self.limit} counts rows of --trace; give --trace too, or leave it out")
        if self.clip:
            raise ConfigError("--clip cuts requests of --trace; give --trace too, or leave it out: others always fit")


def refuse_synthetic(options: dict[str, float | None]) -> None:
    """Beside a trace. Raises: ConfigError: one of them was given."""
    for flag, value in options.items():
        if value is not None:
            raise ConfigError(f"{flag} {value:g} is for synthetic requests, --trace has its own; leave one of them out")
