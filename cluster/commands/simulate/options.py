"""The options that `baton simulate` alone has beside costs and load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.flag_checks import check_least, check_most, check_unread
from cluster.commands.load.options import OF_SYNTHETIC, ArrivalOptions
from cluster.commands.load.options import PANEL as LOAD
from cluster.contracts.draft_chances import DraftChances

NUM_REQUESTS, MAX_REQUESTS = 300, 10_000_000
_RUN, _OUTPUT = "Run", "Output"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    num_requests: Annotated[
        int | None, typer.Option(help=f"Without --trace (default: {NUM_REQUESTS}).", rich_help_panel=LOAD)
    ] = None
    faults: Annotated[
        str | None,
        typer.Option(
            help="E.g. kill_decode@30s, slow_link:prefill-0@9s*0.1/5s, role_prefill:decode-1@1min.",
            rich_help_panel=_RUN,
        ),
    ] = None
    draft_acceptance: Annotated[
        str | None,
        typer.Option(
            help="Of draft tokens, the share that is right if those before are; or one by place: 0.8,0.7.",
            rich_help_panel=_RUN,
        ),
    ] = None
    autopilot: Annotated[
        bool,
        typer.Option(
            "--autopilot",
            help="The autopilot acts, within the file's planner bounds; it does too where planner.mode is act.",
            rich_help_panel=_RUN,
        ),
    ] = False
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", rich_help_panel=_RUN)] = 0

    @property
    def draft_chances(self) -> DraftChances | None:
        text = self.draft_acceptance
        return DraftChances.read(text, "--draft-acceptance") if text is not None else None

    def check(self, load: ArrivalOptions) -> None:
        """Raises: ConfigError: an option that nothing would read beside `load`."""
        check_least(1, {"--num-requests": self.num_requests})
        check_most({"--num-requests": self.num_requests}, MAX_REQUESTS)
        check_least(0, {"--seed": self.seed})
        _ = self.draft_chances
        if load.trace is not None:
            check_unread({"--num-requests": self.num_requests}, OF_SYNTHETIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOutput:
    out: Annotated[Path | None, typer.Option(help="JSON with a record per request.", rich_help_panel=_OUTPUT)] = None
    timeline: Annotated[
        Path | None, typer.Option(help="Picture of workers and requests: .png, .svg, .pdf.", rich_help_panel=_OUTPUT)
    ] = None
