"""The options that `baton plan` alone has, beside costs and load."""

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError

_MACHINES, _SLO, _SEARCH, _OUTPUT = "Machines", "SLO", "Search", "Output"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    nodes: Annotated[int, typer.Option(min=1, help="Machines, all alike.", rich_help_panel=_MACHINES)] = 1
    gpus_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="Devices of one (default: 8; with --profile: workers).", rich_help_panel=_MACHINES),
    ] = None
    kv_memory: Annotated[str, typer.Option(help="With --profile: of a worker, for KV.", rich_help_panel=_MACHINES)] = (
        "1GiB"
    )
    price: Annotated[
        float | None, typer.Option(min=0.0, help="US$ per device and hour, for the cost.", rich_help_panel=_MACHINES)
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SLOOptions:
    slo_ttft: Annotated[float, typer.Option(help="ms", rich_help_panel=_SLO)] = 500.0
    slo_tpot: Annotated[float, typer.Option(help="ms", rich_help_panel=_SLO)] = 50.0
    attainment: Annotated[float, typer.Option(help="Share of requests that meet both.", rich_help_panel=_SLO)] = 0.9

    def check(self) -> None:
        """Raises: ConfigError: a limit or share that cannot be."""
        for flag, limit_ms in (("--slo-ttft", self.slo_ttft), ("--slo-tpot", self.slo_tpot)):
            if not 0 < limit_ms < inf:
                raise ConfigError(f"{flag} {limit_ms:g} must be above 0 ms, for example 200")
        if not 0 < self.attainment <= 1:
            raise ConfigError(f"--attainment {self.attainment:g} must be a share above 0 and up to 1, for example 0.9")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    allow_pp: Annotated[
        bool, typer.Option("--allow-pp", help="Pipelines too; not runnable yet.", rich_help_panel=_SEARCH)
    ] = False
    runnable_only: Annotated[
        bool, typer.Option("--runnable-only", help="Only what this version starts.", rich_help_panel=_SEARCH)
    ] = False
    draft: Annotated[str | None, typer.Option(help="A draft model to try.", rich_help_panel=_SEARCH)] = None
    draft_acceptance: Annotated[
        float | None, typer.Option(help="Of its tokens, measured.", rich_help_panel=_SEARCH)
    ] = None
    jobs: Annotated[int, typer.Option(min=1, help="Simulations at once.", rich_help_panel=_SEARCH)] = 2
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.", rich_help_panel=_SEARCH)] = 0

    def check(self) -> None:
        """Raises: ConfigError: options that contradict each other."""
        if (self.draft is None) is not (self.draft_acceptance is None):
            raise ConfigError("--draft MODEL and --draft-acceptance SHARE go together; give both or neither")
        if self.draft_acceptance is not None and not 0 <= self.draft_acceptance <= 1:
            raise ConfigError(
                f"--draft-acceptance {self.draft_acceptance:g} must be a share in [0, 1], for example 0.7"
            )
        if self.draft is not None and self.runnable_only:
            raise ConfigError(f"--draft {self.draft}: this version starts no draft workers; leave out --runnable-only")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOutput:
    out: Annotated[Path | None, typer.Option(help="The best plan, for `baton up`.", rich_help_panel=_OUTPUT)] = None
    plot: Annotated[Path | None, typer.Option(help="Picture, by suffix .png, .svg, .pdf.", rich_help_panel=_OUTPUT)] = (
        None
    )
    json_path: Annotated[Path | None, typer.Option("--json", help="The table as data.", rich_help_panel=_OUTPUT)] = None
