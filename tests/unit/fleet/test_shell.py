"""The actor around a worker: what keeps it from starting reaches the controller, whatever it was."""

from types import SimpleNamespace

import pytest

from baton.errors import ConfigError, UnavailableError
from cluster.fleet.shell import WorkerShell
from workers.spec import Role, WorkerSpec


class Unsendable(Exception):
    def __init__(self, *, cause: str) -> None:
        super().__init__(cause)


def make_failing(spec: WorkerSpec, incarnation: str) -> SimpleNamespace:
    async def start() -> str:
        raise Unsendable(cause="no such thing") if spec.model_name else ConfigError("model: wrong; give another")

    return SimpleNamespace(start=start)


def make_shell(model_name: str) -> WorkerShell:
    spec = WorkerSpec(
        worker_id="mixed-0",
        role=Role.MIXED,
        model="/",
        model_name=model_name,
        served_name="m",
        dtype="float32",
        device="cpu",
    )
    return WorkerShell("tests.unit.fleet.test_shell:make_failing", spec, "i")


async def test_an_error_of_a_library_is_told_in_words_that_can_be_sent() -> None:
    with pytest.raises(UnavailableError, match="the worker cannot start: Unsendable: no such thing") as caught:
        await make_shell("demo").start()
    assert caught.value.__cause__ is None


async def test_an_error_of_ours_stays_what_it_is() -> None:
    with pytest.raises(ConfigError, match="give another"):
        await make_shell("").start()
