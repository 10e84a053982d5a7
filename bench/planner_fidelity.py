"""Predicted beside measured: how far the simulator and the search are from real systems.

    python -m bench.planner_fidelity                           # all three parts, half an hour
    python -m bench.planner_fidelity --quick                   # distserve, and two set-ups of this machine, once
    python -m bench.planner_fidelity --part distserve --fit    # finds the systems' constants again, on half of the runs
    python -m bench.planner_fidelity --part distserve --spread # and how much hangs on the last digit of each
    python -m bench.planner_fidelity --part placements         # DistServe's placements, by this project's search
    python -m bench.planner_fidelity --part own --set-ups 3 --repeats 2   # this machine: profiled, run, simulated

The first two need the published runs (`distserve_ground_truth`), and are skipped by name without them.
"""

import dataclasses
import enum
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Self

import typer
from rich.console import Console

from baton.errors import ConfigError
from bench.fidelity.compare import Comparison
from bench.fidelity.distserve_replay import comparison_table, fit_constants, replay, runs_of, verdicts
from bench.fidelity.distserve_runs import find_folder, read_runs
from bench.fidelity.distserve_systems import CONSTANTS, FITTED_RUNS, Published
from bench.fidelity.own_cluster import compare, own_table, own_verdict
from bench.fidelity.placements import judge, placement_table
from bench.fidelity.published_cases import cases
from bench.fidelity.published_costs import PublishedCosts
from bench.fidelity.real_runs import set_ups
from bench.fidelity.robustness import neighbourhood, split_line, splits, spread_line
from bench.machine import Quick, announce

TABLES = {  # title -> keys of the constants, and at most so many points of mean absolute error of attainment
    "vLLM of 2024, co-located, one set of constants for both servers": (("vllm",), 5.0),
    "vLLM of 2024, co-located, each server by its own": (("vllm-early", "vllm-late"), 5.0),
    "DistServe, disaggregated": (("distserve",), 3.0),
}
NUM_DRAWS = 20


class Part(enum.StrEnum):
    ALL = "all"
    DISTSERVE = "distserve"
    PLACEMENTS = "placements"
    OWN = "own"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Of the part on this machine."""

    num_set_ups: int | None
    repeats: int
    seconds: float
    is_quick: bool

    @classmethod
    def of(cls, num_set_ups: int | None, repeats: int | None, seconds: float | None, *, quick: bool) -> Self:
        return cls(
            num_set_ups=num_set_ups or (2 if quick else None),
            repeats=repeats or (1 if quick else 3),
            seconds=seconds or (5.0 if quick else 20.0),
            is_quick=quick,
        )

    @property
    def about_s(self) -> float:
        profile_s, run_s = (35.0 if self.is_quick else 100.0), self.seconds + 15
        return self.repeats * (profile_s + run_s * len(set_ups()[: self.num_set_ups]))


def _about_s(part: Part, effort: Effort, *, slow: bool, split: bool, quick: bool) -> float:
    parts_s = {Part.DISTSERVE: 25.0 + 300 * slow + 600 * split, Part.PLACEMENTS: 0.0 if quick else 400.0}
    parts_s[Part.OWN] = effort.about_s
    return sum(parts_s.values()) if part is Part.ALL else parts_s[part]


def main(
    part: Annotated[Part, typer.Option(help="What to compare.")] = Part.ALL,
    data: Annotated[Path | None, typer.Option(help="Folder of the published runs (see SOURCE.md there).")] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="distserve: find the constants again, which takes minutes.")
    ] = False,
    spread: Annotated[
        bool, typer.Option("--spread", help="distserve: the errors with every cost moved by up to 3 %, too.")
    ] = False,
    split: Annotated[
        bool, typer.Option("--splits", help="distserve: fit vLLM's one set on each two runs, too; takes 10 minutes.")
    ] = False,
    num_set_ups: Annotated[
        int | None, typer.Option("--set-ups", min=1, help="own: the first so many; all, or 2 by --quick.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="own: profiles, and real runs of each set-up; 3, or 1 by --quick.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="own: how long requests arrive in a run; 20, or 5 by --quick.")
    ] = None,
    quick: Quick = False,
    profile: Annotated[
        Path | None, typer.Option(help="own: of this machine; without it one is measured before each round.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write all comparisons here.")] = None,
) -> None:
    console = Console(width=170, highlight=False)
    effort = Effort.of(num_set_ups, repeats, seconds, quick=quick)
    if quick and part is Part.PLACEMENTS:
        raise typer.BadParameter("placements has no short form; leave out --quick", param_hint="--quick")
    announce("bench.planner_fidelity", about_s=_about_s(part, effort, slow=fit or spread, split=split, quick=quick))
    results: dict[str, Any] = {}
    try:
        if part in (Part.ALL, Part.DISTSERVE, Part.PLACEMENTS):
            folder = find_folder(data)
            if folder is None:
                console.print("skipped distserve and placements: no distserve_ground_truth here; name it by --data")
            else:
                if part is not Part.PLACEMENTS:
                    results["distserve"] = distserve_part(console, folder, fit=fit, spread=spread, split=split)
                if part is not Part.DISTSERVE and not quick:
                    results["placements"] = placements_part(console, folder)
        if part in (Part.ALL, Part.OWN):
            results["own"] = own_part(console, effort, profile)
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if out is not None:
        out.write_text(json.dumps(results, indent=1, default=str))


def distserve_part(console: Console, folder: Path, *, fit: bool, spread: bool, split: bool) -> list[dict[str, Any]]:
    """The published runs: tables and verdicts."""
    all_runs, published = read_runs(folder), Published.read(folder)
    found: list[dict[str, Any]] = []
    for title, (keys, max_points) in TABLES.items():
        some: list[Comparison] = []
        for key in keys:
            runs = runs_of(key, all_runs)
            fitted = [run for run in runs if run.name in FITTED_RUNS]
            constants = fit_constants(fitted, published, CONSTANTS[key]) if fit and fitted else CONSTANTS[key]
            console.print(f"{key}: {constants}")
            if spread and runs:
                console.print(spread_line(neighbourhood(runs, published, constants, num_draws=NUM_DRAWS, seed=0)))
            if split and key == "vllm":
                for one in splits(runs, published, constants, num_fitted=2):
                    console.print(split_line(one))
            some += [replay(run, published, constants) for run in runs]
        if some:
            console.print(comparison_table(title, some))
            for line in verdicts(" and ".join(keys), some, max_points):
                console.print(line)
        found += [{"constants": " and ".join(keys), **dataclasses.asdict(one)} for one in some]
    return found


def placements_part(console: Console, folder: Path) -> list[dict[str, Any]]:
    published = Published.read(folder)
    longest = max(read_runs(folder), key=lambda run: len(run.arrivals))
    judged = []
    for case in cases(longest.arrivals, folder.parent):
        console.print(f"searching: {case.name}")
        judged.append(judge(case, PublishedCosts.of(case.model, published)))
    console.print(placement_table(judged))
    return [
        {
            "case": verdict.case.name,
            "published": str(verdict.published),
            "questions": {
                question: {"best": str(answer.unit), "per_gpu": answer.goodput, "share": answer.share}
                for question, answer in verdict.answers.items()
            },
        }
        for verdict in judged
    ]


def own_part(console: Console, effort: Effort, profile: Path | None) -> list[dict[str, Any]]:
    chosen = set_ups(seconds=effort.seconds)[: effort.num_set_ups]
    with tempfile.TemporaryDirectory() as folder:

        def profiled(number: int) -> Path:
            if profile is not None:
                return profile
            path = Path(folder) / f"profile-{number}.json"
            console.print("profiling this machine")
            command = [sys.executable, "-m", "cluster.cli", "profile", "--out", str(path)]
            command += ["--quick"] if effort.is_quick else []
            if subprocess.run(command, check=False).returncode:
                raise ConfigError("baton profile failed, see above; give a profile of this machine by --profile")
            return path

        comparisons = compare(chosen, profiled, repeats=effort.repeats, note=console.print)
    console.print(own_table(comparisons))
    console.print(own_verdict(comparisons))
    return [dataclasses.asdict(comparison) for comparison in comparisons]


if __name__ == "__main__":
    typer.run(main)
