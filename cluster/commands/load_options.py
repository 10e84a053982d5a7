"""The options that say which requests come: a trace's or made-up ones. `arrivals` reads and makes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError
from cluster.commands.flag_checks import check_above_zero, check_least, check_unread

PANEL = "Load: a trace, or synthetic"
INPUT_LEN, OUTPUT_LEN = 512, 128  # tokens, where not given
OF_SYNTHETIC = "it is for synthetic requests, --trace has its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """As given; None where not."""

    trace: Annotated[Path | None, typer.Option(help="Azure .csv or Mooncake .jsonl.", rich_help_panel=PANEL)] = None
    limit: Annotated[int | None, typer.Option(help="Rows read of --trace.", rich_help_panel=PANEL)] = None
    clip: Annotated[
        bool, typer.Option("--clip", help="Cut requests of --trace that exceed the context.", rich_help_panel=PANEL)
    ] = False
    rate: Annotated[
        float | None, typer.Option(help="Requests/s (default: the trace's own).", rich_help_panel=PANEL)
    ] = None
    input_len: Annotated[
        int | None,
        typer.Option(help=f"Without --trace: mean prompt tokens (default: {INPUT_LEN}).", rich_help_panel=PANEL),
    ] = None
    output_len: Annotated[
        int | None,
        typer.Option(help=f"Without --trace: mean output tokens (default: {OUTPUT_LEN}).", rich_help_panel=PANEL),
    ] = None
    gap_cv: Annotated[
        float | None,
        typer.Option(help="Without --trace: of the gaps; 1 (default) is Poisson.", rich_help_panel=PANEL),
    ] = None

    def check(self) -> None:
        """Raises: ConfigError: an option that cannot be, or that nothing would read beside the others."""
        check_above_zero("requests/s", {"--rate": self.rate})
        check_least(1, {"--limit": self.limit, "--input-len": self.input_len, "--output-len": self.output_len})
        check_least(0, {"--gap-cv": self.gap_cv})
        if self.trace is not None:
            made_up = {"--input-len": self.input_len, "--output-len": self.output_len, "--gap-cv": self.gap_cv}
            check_unread(made_up, OF_SYNTHETIC)
            return
        if self.rate is None:
            raise ConfigError("--rate is needed without --trace; give requests/s, for example --rate 10")
        if self.limit is not None or self.clip:
            flag = "--clip" if self.limit is None else f"--limit {self.limit}"
            raise ConfigError(f"{flag} is about --trace; give --trace too, or leave it out")
