"""`baton profile`: options in, a file and a picture out; the measuring is `cluster.profiling`'s."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.fetching import resolve_config_shown
from cluster.commands.files import check_outputs, check_picture, writing
from cluster.commands.options import ModelEntry, Overrides, load_one_model

if TYPE_CHECKING:
    from cluster.profiling.measure import MeasureProgress
    from cluster.profiling.profile import Taken


def command(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CLUSTER.YAML", help="For model, engine, dtype, pools and cores; default: as `up`."),
    ] = None,
    overrides: Overrides = None,
    entry: ModelEntry = None,
    model: Annotated[str | None, typer.Option(help="Instead of the file's model.")] = None,
    out: Annotated[Path, typer.Option(help="Where the profile goes.")] = Path("profile.json"),
    plot: Annotated[Path | None, typer.Option(help="Picture of the fits: .png, .svg, .pdf.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer points and rounds, the file's KV transport alone.")
    ] = False,
) -> None:
    """Measure this machine: what prefill, decode, KV transfer and drafts take, for `baton plan` and `baton simulate`.

    Runs real workers of the model, pinned as `baton up` pins them, and ends them. Best on a quiet machine.

    baton profile --model demo --out profile.json --plot fits.png

    baton profile cluster.yaml --quick
    """
    from rich.console import Console

    from cluster.profiling.profile import take_profile

    check_outputs({"--out": out, "--plot": plot}, inputs={"CLUSTER.YAML": config})
    check_picture(plot, "--plot")
    loaded = resolve_config_shown(load_one_model(config, overrides, entry=entry, model=model))
    console = Console(highlight=False, soft_wrap=True)
    with _progress(console) as progress:
        taken = take_profile(loaded, quick=quick, progress=progress)
    with writing(out, "--out"):
        out.write_text(taken.profile.to_text(), encoding="utf-8")
    if plot is not None:
        from cluster.profiling.picture import draw

        draw(taken.profile, taken.measured.steps, taken.measured.transfers, plot)
    _print(console, taken, out)


@contextmanager
def _progress(console: Any) -> Iterator["MeasureProgress"]:
    """A bar per phase; a phase that ends early, because time was over, ends with what it has."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as ProgressBars

    from cluster.profiling.measure import MeasureProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ProgressBars(*columns, console=console, transient=True, refresh_per_second=4) as bar:

        def phase(name: str, num_parts: int) -> None:
            for task_id in bar.task_ids:
                bar.stop_task(task_id)
            bar.add_task(name, total=num_parts)

        yield MeasureProgress(phase=phase, advance=lambda: bar.advance(bar.task_ids[-1]))


def _print(console: Any, taken: "Taken", out: Path) -> None:
    from rich.table import Table

    profile, measured = taken.profile, taken.measured
    console.print(f"{profile.model} ({profile.dtype}) on {profile.machine}, {profile.num_cores} per rank")
    if len(profile.latencies) > 1:
        console.print(f"workers of degree {', '.join(profile.latencies)}; all but the steps is of the first")
    table = Table(title="fits, off from the measured steps by", title_justify="left")
    table.add_column("steps")
    for name in ("points", "median", "p90"):
        table.add_column(name, justify="right")
    for kind, error in profile.errors.items():
        table.add_row(kind, str(error.num_points), f"{error.median:.1%}", f"{error.p90:.1%}")
    console.print(table)
    for name, path in profile.transfers.items():
        console.print(f"KV over {name}: {path.latency_s * 1e3:.2f} ms + {path.bandwidth / 1e9:.2f} GB/s")
    console.print(
        f"to the worker {profile.to_worker_s * 1e3:.2f} ms, back {profile.to_client_s * 1e3:.2f} ms; "
        f"a hand-over adds {profile.handover_s * 1e3:.2f} ms to a prompt's step, {profile.receive_s * 1e3:.2f} ms to "
        f"decode; workers started in {profile.start_s:.1f} s; medians of up to {measured.num_rounds} rounds"
    )
    shares = profile.contention
    if shares.workers_per_machine > 1:
        console.print(
            f"slower beside another worker at work: prompts by {shares.prompts:.0%}, decodes by {shares.decodes:.0%}"
        )
    for name, chances in profile.acceptance.items():
        by_place = " ".join(f"{chance:.2f}" for chance in chances.by_place)
        console.print(f"tokens that {name} drafts are right, if those before are, by place: {by_place}")
    if not profile.transfers:
        console.print(
            "note: no KV transfers, as the config has no prefill workers: `baton plan` will plan one pool alone"
        )
    for note in taken.notes:
        console.print(f"note: {note}")
    console.print(f"written to {out}")
