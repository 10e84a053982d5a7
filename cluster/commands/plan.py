"""`baton plan`: options in, a table, a config and a picture out; the work is `cluster.planner`'s."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.endpoint import one_line_errors
from cluster.commands.files import check_picture, check_writable

if TYPE_CHECKING:
    from cluster.commands.plan_inputs import Inputs
    from cluster.planner.planning import Answer

_COSTS, _MACHINES, _LOAD = "Costs (one of)", "Machines", "Load: a trace, or synthetic"
_SLO, _SEARCH, _OUTPUT = "SLO", "Search", "Output"


def command(
    model: Annotated[str, typer.Option(help="A bundled or known name, a folder, or a Hub id.")],
    hardware: Annotated[
        str | None, typer.Option(help="A device by its data sheet: h200, a100-80g, ...", rich_help_panel=_COSTS)
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="What `baton profile` measured.", rich_help_panel=_COSTS)] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, all alike.", rich_help_panel=_MACHINES)] = 1,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="Devices of one (default: 8; with --profile: workers).", rich_help_panel=_MACHINES),
    ] = None,
    kv_memory: Annotated[
        str, typer.Option(help="With --profile: of a worker, for KV.", rich_help_panel=_MACHINES)
    ] = "1GiB",
    price: Annotated[
        float | None, typer.Option(min=0.0, help="US$ per device and hour, for the cost.", rich_help_panel=_MACHINES)
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Azure .csv or Mooncake .jsonl.", rich_help_panel=_LOAD)] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Rows read of --trace.", rich_help_panel=_LOAD)] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Cut requests that exceed the context.", rich_help_panel=_LOAD)
    ] = False,
    rate: Annotated[
        float | None, typer.Option(help="Requests/s (default: the trace's own).", rich_help_panel=_LOAD)
    ] = None,
    input_len: Annotated[
        int | None,
        typer.Option(min=1, help="Without --trace: mean prompt tokens (default: 512).", rich_help_panel=_LOAD),
    ] = None,
    output_len: Annotated[
        int | None,
        typer.Option(min=1, help="Without --trace: mean output tokens (default: 128).", rich_help_panel=_LOAD),
    ] = None,
    gap_cv: Annotated[
        float | None, typer.Option(min=0.0, help="Without --trace: of gaps; 1 is Poisson.", rich_help_panel=_LOAD)
    ] = None,
    slo_ttft: Annotated[float, typer.Option(help="ms", rich_help_panel=_SLO)] = 500.0,
    slo_tpot: Annotated[float, typer.Option(help="ms", rich_help_panel=_SLO)] = 50.0,
    attainment: Annotated[float, typer.Option(help="Share of requests that meet both.", rich_help_panel=_SLO)] = 0.9,
    allow_pp: Annotated[
        bool, typer.Option("--allow-pp", help="Pipelines too; not runnable yet.", rich_help_panel=_SEARCH)
    ] = False,
    runnable_only: Annotated[
        bool, typer.Option("--runnable-only", help="Only what this version starts.", rich_help_panel=_SEARCH)
    ] = False,
    draft: Annotated[str | None, typer.Option(help="A draft model to try.", rich_help_panel=_SEARCH)] = None,
    draft_acceptance: Annotated[
        float | None, typer.Option(help="Of its tokens, measured.", rich_help_panel=_SEARCH)
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Simulations at once.", rich_help_panel=_SEARCH)] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.", rich_help_panel=_SEARCH)] = 0,
    out: Annotated[Path | None, typer.Option(help="The best plan, for `baton up`.", rich_help_panel=_OUTPUT)] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture, by suffix .png, .svg, .pdf.", rich_help_panel=_OUTPUT)
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="The table as data.", rich_help_panel=_OUTPUT)
    ] = None,
) -> None:
    """How many prefill and decode workers hold an SLO for the fewest devices, and is it worth having two pools?

    baton plan --model meta-llama/Llama-3.1-8B --hardware h200 --nodes 4 --trace conv.csv --rate 40 --out plan.yaml

    baton plan --model demo --profile profile.json --gpus-per-node 2 --rate 5 --input-len 200 --output-len 60
    """
    with one_line_errors():
        from cluster.commands.plan_inputs import Asked, read_inputs

        for path, flag in ((out, "--out"), (plot, "--plot"), (json_path, "--json")):
            check_writable(path, flag)
        check_picture(plot, "--plot")
        inputs = read_inputs(
            Asked(
                model=model,
                hardware=hardware,
                profile=profile,
                kv_memory=kv_memory,
                nodes=nodes,
                gpus_per_node=gpus_per_node,
                price=price,
                trace=trace,
                limit=limit,
                clip=clip,
                rate=rate,
                input_len=input_len,
                output_len=output_len,
                gap_cv=gap_cv,
                slo_ttft_ms=slo_ttft,
                slo_tpot_ms=slo_tpot,
                attainment=attainment,
                allow_pp=allow_pp,
                runnable_only=runnable_only,
                draft=draft,
                draft_acceptance=draft_acceptance,
                seed=seed,
            )
        )
        _show(inputs, _answered(inputs, jobs), model, out=out, plot=plot, json_path=json_path)


def _answered(inputs: "Inputs", jobs: int) -> "Answer":
    """With a line that says what is under way: moving on a terminal, one per change elsewhere."""
    from rich.console import Console

    from cluster.planner.planning import answer

    console = Console(stderr=True, highlight=False)
    for text in inputs.notes:
        console.print(f"note: {text}")
    with _workers(jobs) as run:
        if not console.is_terminal:
            return answer(inputs.question, inputs.options, run=run, note=console.print)
        with console.status("looking") as spinner:
            return answer(inputs.question, inputs.options, run=run, note=spinner.update)


@contextmanager
def _workers(jobs: int) -> Iterator[Any]:
    """`map`, or that of so many processes."""
    if jobs == 1:
        yield map
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:

        def run(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
            return pool.map(function, items)

        try:
            yield run
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _show(
    inputs: "Inputs", answer: "Answer", model: str, *, out: Path | None, plot: Path | None, json_path: Path | None
) -> None:
    from rich.console import Console

    from cluster.commands.plan_file import plan_text
    from cluster.commands.plan_table import plans_table, sentences
    from cluster.planner.plan_report import as_data, comments

    question = inputs.question
    console = Console(highlight=False)
    console.print(inputs.about, soft_wrap=True)
    console.print(plans_table(question, answer))
    for line in sentences(question, answer):
        console.print(line, soft_wrap=True)
    if out is not None:
        head = comments(question, answer, command=_command_line(), about=inputs.about)
        text = plan_text(
            question, answer.best.layout, head, model=model, device=inputs.device, transport=inputs.transport
        )
        out.write_text(text, encoding="utf-8")
    if json_path is not None:
        json_path.write_text(json.dumps(as_data(question, answer), indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from cluster.commands.plan_picture import draw

        draw(question, answer, plot, title=inputs.about)


def _command_line() -> str:
    return shlex.join(["baton", *sys.argv[1:]])
