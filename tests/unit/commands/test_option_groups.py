"""Options that are declared as dataclasses: what typer makes of them, and that two commands show them alike."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from cluster.cli import build
from cluster.commands.cost_options import CostOptions
from cluster.commands.load.options import ArrivalOptions
from cluster.commands.option_groups import grouped


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    width: Annotated[int, typer.Option(min=1, help="In m.")]
    height: Annotated[float | None, typer.Option(help="In m too.")] = None


def test_a_dataclass_comes_whole_and_other_parameters_beside_it() -> None:
    came: list[Any] = []

    @grouped
    def command(size: Size, name: Annotated[str, typer.Argument()] = "door", deep: bool = False) -> None:
        """Says it."""
        came.append((size, name, deep))

    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["--width", "3", "gate", "--deep"]).exit_code == 0
    assert CliRunner().invoke(app, ["--width", "3", "--height", "0.5"]).exit_code == 0
    assert came == [(Size(width=3), "gate", True), (Size(width=3, height=0.5), "door", False)]
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert "Says it." in help_text
    assert "In m too." in help_text
    refused = CliRunner().invoke(app, ["--width", "0"])
    assert refused.exit_code == 2
    assert "--width" in refused.output


@pytest.mark.parametrize("group", [CostOptions, ArrivalOptions])
def test_plan_and_simulate_show_the_same_costs_and_load(group: Any) -> None:
    shown: list[list[Any]] = []
    for name in ("plan", "simulate"):
        app: Any = typer.main.get_command(build([name]))
        options = {option.name: option for option in app.commands[name].params}
        told = [options[each.name] for each in fields(group)]
        shown.append([(one.opts, one.help, one.rich_help_panel, one.default) for one in told])
    assert shown[0] == shown[1]
