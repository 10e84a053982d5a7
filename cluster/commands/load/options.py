"""The options that say which requests come: a trace's or made-up ones. `arrivals` reads and makes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError
from cluster.commands.flag_checks import check_above_zero, check_least, check_most, check_unread
from cluster.commands.load.mix_option import FORM, read_mix

PANEL = "Load: a trace, or synthetic"
INPUT_LEN, OUTPUT_LEN = 512, 128  # tokens, where not given
MAX_RATE, MAX_TOKENS, MAX_GAP_CV = 1e6, 10**8, 100  # beyond any cluster, context and burst: typing errors
OF_SYNTHETIC = "it is for synthetic requests, --trace has its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalOptions:
    """As given; None where not."""

    trace: Annotated[Path | None, typer.Option(help="Azure .csv or Mooncake .jsonl.", rich_help_panel=PANEL)] = None
    limit: Annotated[int | None, typer.Option(help="Rows read of the trace.", rich_help_panel=PANEL)] = None
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
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar=FORM,
            help="Instead of the two: one of several kinds of requests, by weight and means; repeat it.",
            rich_help_panel=PANEL,
        ),
    ] = None
    lengths_of: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="Instead of the two: drawn together from its rows.", rich_help_panel=PANEL),
    ] = None
    shared_prefix: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="Without --trace: that prompts have in common, before their own.",
            rich_help_panel=PANEL,
        ),
    ] = None
    prefix_groups: Annotated[
        int | None,
        typer.Option(help="With --shared-prefix: how many different ones (default: 1).", rich_help_panel=PANEL),
    ] = None
    gap_cv: Annotated[
        float | None,
        typer.Option(help="Without --trace: of the gaps; 1 (default) is Poisson.", rich_help_panel=PANEL),
    ] = None

    @property
    def files(self) -> dict[str, Path | None]:
        """Those that are read, by flag."""
        return {"--trace": self.trace, "--lengths-of": self.lengths_of}

    def check(self) -> None:
        """Raises: ConfigError: an option that cannot be, or that nothing would read beside the others."""
        check_above_zero("requests/s", {"--rate": self.rate})
        means = {"--input-len": self.input_len, "--output-len": self.output_len}
        prefixes = {"--shared-prefix": self.shared_prefix, "--prefix-groups": self.prefix_groups}
        check_least(1, {"--limit": self.limit, **means, **prefixes})
        check_least(0, {"--gap-cv": self.gap_cv})
        check_most({"--rate": self.rate}, MAX_RATE)
        check_most({**means, **prefixes}, MAX_TOKENS)
        check_most({"--gap-cv": self.gap_cv}, MAX_GAP_CV)
        kinds = {"--mix": " --mix ".join(self.mix) if self.mix else None}
        if self.trace is not None:
            made_up = {**means, **kinds, "--lengths-of": self.lengths_of, **prefixes, "--gap-cv": self.gap_cv}
            check_unread(made_up, OF_SYNTHETIC)
            return
        if self.rate is None:
            raise ConfigError("--rate is needed without --trace; give requests/s, for example --rate 10")
        if self.clip:
            raise ConfigError("--clip is about --trace; give --trace too, or leave it out")
        if self.lengths_of is not None:
            check_unread({**means, **kinds}, "--lengths-of has its own lengths")
        elif self.limit is not None:
            raise ConfigError(f"--limit {self.limit} is about --trace or --lengths-of; give one too, or leave it out")
        if self.mix:
            read_mix(self.mix)
            check_unread(means, "--mix has its own lengths")
        if self.prefix_groups is not None and self.shared_prefix is None:
            raise ConfigError(
                f"--prefix-groups {self.prefix_groups} is about --shared-prefix; give it too, or leave both out"
            )
