"""The options that `baton plan` alone has, beside costs and load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError
from cluster.commands.cost_options import CostOptions
from cluster.commands.flag_checks import check_above_zero, check_least, check_most, check_unread
from cluster.contracts.draft_chances import DraftChances
from workers.spec import KV_DTYPES

MAX_NODES, MAX_PER_NODE = 100_000, 1024
KV_MEMORY = "1GiB"  # engine.memory of a config that does not say it
_MACHINES, _SLO, _SEARCH, _OUTPUT = "Machines", "SLO", "Search", "Output"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    nodes: Annotated[int, typer.Option(help="Machines, all alike.", rich_help_panel=_MACHINES)] = 1
    gpus_per_node: Annotated[
        int | None,
        typer.Option(help="Devices of one (default: 8; with --profile: ranks).", rich_help_panel=_MACHINES),
    ] = None
    kv_memory: Annotated[
        str | None,
        typer.Option(
            help=f"With --profile: of each rank, for KV and states (default: {KV_MEMORY}).", rich_help_panel=_MACHINES
        ),
    ] = None
    kv_dtype: Annotated[
        str | None,
        typer.Option(help="With --hardware: kv.dtype of the plan, auto or fp8.", rich_help_panel=_MACHINES),
    ] = None
    price: Annotated[
        float | None, typer.Option(help="US$ per device and hour, for the cost.", rich_help_panel=_MACHINES)
    ] = None

    def check(self, costs: CostOptions) -> None:
        """Raises: ConfigError: a number that cannot be, or an option that nothing would read beside `costs`."""
        check_least(1, {"--nodes": self.nodes, "--gpus-per-node": self.gpus_per_node})
        check_least(0, {"--price": self.price})
        check_most({"--nodes": self.nodes}, MAX_NODES)
        check_most({"--gpus-per-node": self.gpus_per_node}, MAX_PER_NODE)
        if self.kv_dtype is not None:
            self._check_kv_dtype(costs)
        if costs.profile is None:
            check_unread({"--kv-memory": self.kv_memory}, "--hardware has its own memory, this is for --profile")
        elif self.gpus_per_node is None:
            raise ConfigError(
                "--gpus-per-node is needed with --profile: how many workers one machine holds, for example 2"
            )

    def _check_kv_dtype(self, costs: CostOptions) -> None:
        if self.kv_dtype not in KV_DTYPES:
            raise ConfigError(f"--kv-dtype {self.kv_dtype} is unknown; choose one of {', '.join(KV_DTYPES)}")
        if costs.profile is not None:
            check_unread({"--kv-dtype": self.kv_dtype}, "--profile says what its workers had")


@dataclass(frozen=True, slots=True, kw_only=True)
class SLOOptions:
    slo_ttft: Annotated[float, typer.Option(help="ms", rich_help_panel=_SLO)] = 500.0
    slo_tpot: Annotated[float, typer.Option(help="ms", rich_help_panel=_SLO)] = 50.0
    attainment: Annotated[float, typer.Option(help="Share of requests that meet both.", rich_help_panel=_SLO)] = 0.9

    def check(self) -> None:
        """Raises: ConfigError: a limit or share that cannot be."""
        check_above_zero("ms", {"--slo-ttft": self.slo_ttft, "--slo-tpot": self.slo_tpot})
        if not 0 < self.attainment <= 1:
            raise ConfigError(f"--attainment {self.attainment:g} must be a share above 0 and up to 1, for example 0.9")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    allow_pp: Annotated[
        bool, typer.Option("--allow-pp", help="Pipelines too, with --hypothetical.", rich_help_panel=_SEARCH)
    ] = False
    hypothetical: Annotated[
        bool,
        typer.Option("--hypothetical", help="Workers that this version does not start, too.", rich_help_panel=_SEARCH),
    ] = False
    draft: Annotated[
        str | None,
        typer.Option(help="A draft model: does a draft worker for each decode worker pay?", rich_help_panel=_SEARCH),
    ] = None
    draft_acceptance: Annotated[
        str | None,
        typer.Option(
            help="Share of its tokens that are right if those before are; or one by place: 0.8,0.7.",
            rich_help_panel=_SEARCH,
        ),
    ] = None
    jobs: Annotated[int, typer.Option(help="Simulations at once.", rich_help_panel=_SEARCH)] = 2
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.", rich_help_panel=_SEARCH)] = 0

    def check(self, costs: CostOptions) -> None:
        """Raises: ConfigError: options that contradict each other, or that nothing would read beside `costs`."""
        check_least(1, {"--jobs": self.jobs})
        check_least(0, {"--seed": self.seed})
        is_told = self.draft_acceptance is not None
        if (self.draft is None and is_told) or (self.draft is not None and not is_told and costs.profile is None):
            raise ConfigError("--draft MODEL and --draft-acceptance SHARE go together; give both or neither")
        if self.draft_acceptance is not None:
            DraftChances.read(self.draft_acceptance, "--draft-acceptance")
        more = {"--allow-pp": self.allow_pp}
        if not self.hypothetical:
            check_unread(more, "this version starts no such workers; add --hypothetical to plan with them")
        if costs.profile is not None:
            check_unread(more, "--profile holds no costs of such workers, --hardware does")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOutput:
    out: Annotated[Path | None, typer.Option(help="The best plan, for `baton up`.", rich_help_panel=_OUTPUT)] = None
    plot: Annotated[Path | None, typer.Option(help="Picture, by suffix .png, .svg, .pdf.", rich_help_panel=_OUTPUT)] = (
        None
    )
    json_path: Annotated[Path | None, typer.Option("--json", help="The table as data.", rich_help_panel=_OUTPUT)] = None
