"""`baton plan`: options in, a table, a config and a picture out; the work is `cluster.planner`'s."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.cost_options import CostOptions
from cluster.commands.files import check_outputs, check_picture, tell_written, writing
from cluster.commands.load.options import ArrivalOptions
from cluster.commands.option_groups import grouped
from cluster.commands.plan.options import MachineOptions, PlanOutput, SearchOptions, SLOOptions

if TYPE_CHECKING:
    from cluster.commands.plan.inputs import PlanInputs
    from cluster.planner.search.planning import PlanAnswer


@grouped
def command(
    model: Annotated[
        str, typer.Option(help="A bundled or known name, a folder or its config.json, a GGUF file, or a Hub id.")
    ],
    costs: CostOptions,
    machines: MachineOptions,
    load: ArrivalOptions,
    slo: SLOOptions,
    search: SearchOptions,
    output: PlanOutput,
) -> None:
    """How many prefill and decode workers hold an SLO for the fewest devices, and is it worth having two pools?

    baton plan --model meta-llama/Llama-3.1-8B --hardware h200 --nodes 4 --trace conv.csv --rate 40 --out plan.yaml

    baton plan --model demo --profile profile.json --gpus-per-node 2 --rate 5 --input-len 200 --output-len 60
    """
    from cluster.commands.plan.inputs import Asked, read_inputs

    outputs = {"--out": output.out, "--plot": output.plot, "--json": output.json_path}
    check_outputs(outputs, inputs={"--profile": costs.profile, **load.files})
    check_picture(output.plot, "--plot")
    inputs = read_inputs(Asked(model=model, costs=costs, machines=machines, load=load, slo=slo, search=search))
    _show(inputs, _answered(inputs, search.jobs), model, output)


def _answered(inputs: "PlanInputs", jobs: int) -> "PlanAnswer":
    """With a line that says what is under way."""
    from rich.console import Console

    from cluster.commands.plan.progress import shown_trials
    from cluster.planner.search.planning import answer

    console = Console(stderr=True, highlight=False)
    for text in inputs.notes:
        console.print(f"note: {text}")
    with _workers(jobs) as run, shown_trials(console) as trials:
        return answer(inputs.question, inputs.options, run=trials.counted(run), note=trials.note)


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


def _show(inputs: "PlanInputs", answer: "PlanAnswer", model: str, output: PlanOutput) -> None:
    from rich.console import Console

    from cluster.commands.plan.file import plan_text
    from cluster.commands.plan.table import headline, plans_tables, sentences
    from cluster.planner.search.report import as_data, comments

    question = inputs.question
    console = Console(highlight=False)
    for line in (inputs.about, headline(question)):
        console.print(line, soft_wrap=not console.is_terminal)
    console.print(*plans_tables(question, answer, width=console.width), sep="\n")
    for line in sentences(question, answer):
        console.print(line, soft_wrap=not console.is_terminal)
    if output.out is not None:
        head = comments(question, answer, command=_command_line(), about=inputs.about)
        text = plan_text(
            question,
            answer.best.layout,
            head,
            model=model,
            device=inputs.device,
            transport=inputs.transport,
            kv_dtype=inputs.kv_dtype,
            draft=inputs.draft,
        )
        with writing(output.out, "--out"):
            output.out.write_text(text, encoding="utf-8")
    if output.json_path is not None:
        with writing(output.json_path, "--json"):
            output.json_path.write_text(json.dumps(as_data(question, answer), indent=1) + "\n", encoding="utf-8")
    if output.plot is not None:
        from cluster.commands.plan.picture import draw

        with writing(output.plot, "--plot"):
            draw(question, answer, output.plot, title=inputs.about)
    tell_written((output.out, output.json_path, output.plot))


def _command_line() -> str:
    return shlex.join(["baton", *sys.argv[1:]])
