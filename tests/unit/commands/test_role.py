"""`baton role`: what is asked wrongly is refused before anybody is asked, and what workers do is shown."""

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from baton.errors import InvalidRequestError
from cluster.cli import build
from cluster.commands.role import role_table
from cluster.fleet.role_keeper import WorkerRole
from cluster.fleet.tick import WorkerPhase
from workers.role_rules import RoleChanged
from workers.spec import Role


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["decode-1"], "role: what shall decode-1 be? Give prefill, decode, mixed, or --reset for its pool's"),
        (["decode-1", "sing"], "role: 'sing' is none; give prefill, decode, mixed"),
        (["decode-1", "draft"], "role: 'draft' is none; give prefill, decode, mixed"),
        (["--reset"], "--reset: give the worker, and no role: baton role decode-1 --reset"),
        (["decode-1", "mixed", "--reset"], "--reset: give the worker, and no role: baton role decode-1 --reset"),
    ],
)
def test_what_is_asked_wrongly_is_named(words: list[str], says: str) -> None:
    found = CliRunner().invoke(build(["role", *words]), ["role", *words])
    assert isinstance(found.exception, InvalidRequestError)
    assert found.exception.message == says


def test_workers_are_listed_with_their_pool_s_role_and_their_own() -> None:
    console = Console(file=io.StringIO(), width=80)
    one = WorkerRole(worker_id="decode-1", pool=Role.DECODE, role=Role.PREFILL, phase=WorkerPhase.READY)
    console.print(role_table([one]))
    assert console.file.getvalue().splitlines()[1].split() == ["decode-1", "decode", "prefill", "ready"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (RoleChanged(role=Role.MIXED, was=Role.MIXED), "is mixed already"),
        (RoleChanged(role=Role.DECODE, was=Role.PREFILL, took_s=0.123), "is decode now, was prefill, after 0.12 s"),
        (
            RoleChanged(role=Role.PREFILL, was=Role.DECODE, num_moved=1, took_s=1.0),
            "is prefill now, was decode, after 1.00 s; 1 answer goes on elsewhere",
        ),
    ],
)
def test_what_became_of_it_is_said_in_words(changed: RoleChanged, says: str) -> None:
    assert changed.text == says
