"""The options that `baton simulate` alone has beside costs and load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.load_options import PANEL as LOAD
from cluster.commands.load_options import LoadOptions, refuse_synthetic

NUM_REQUESTS = 300
_RUN, _OUTPUT = "Run", "Output"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    num_requests: Annotated[
        int | None, typer.Option(min=1, help=f"Without --trace (default: {NUM_REQUESTS}).", rich_help_panel=LOAD)
    ] = None
    faults: Annotated[
        str, typer.Option(help="E.g. kill_decode@30s, slow_link:prefill-0@9s*0.1/5s.", rich_help_panel=_RUN)
    ] = ""
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.", rich_help_panel=_RUN)] = 0

    def check(self, load: LoadOptions) -> None:
        """Raises: ConfigError: an option that nothing would read beside `load`."""
        if load.trace is not None:
            refuse_synthetic({"--num-requests": self.num_requests})


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOutput:
    out: Annotated[Path | None, typer.Option(help="JSON with a record per request.", rich_help_panel=_OUTPUT)] = None
    timeline: Annotated[
        Path | None, typer.Option(help="Picture of workers and requests: .png, .svg, .pdf.", rich_help_panel=_OUTPUT)
    ] = None
