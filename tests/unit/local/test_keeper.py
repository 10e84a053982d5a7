"""A kept cluster follows its file, and tells a supervisor how it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from baton.errors import ConfigError, UnavailableError
from cluster.config.load import loads
from cluster.config.schema import BatonConfig
from cluster.fleet.plan import NeedsDownError
from cluster.local.keeper import LOST_S, RETRY_S, Keeper, Marks, wait_for


class FakeCluster:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running: BatonConfig | None = None
        self.whole = True
        self.faults: list[Exception] = []

    def up(self, config: BatonConfig) -> None:
        self.calls.append(f"up {config.model}")
        if self.faults:
            raise self.faults.pop(0)
        if self.running is not None and self.running.model != config.model:
            raise NeedsDownError("model: cannot change; run `baton down` first")
        self.running = config

    def down(self) -> None:
        self.calls.append("down")
        self.running = None

    def is_whole(self) -> bool:
        if self.running is None:
            raise UnavailableError("Ray has no controller any more")
        return self.whole


class Kept:
    def __init__(self, home: Path, *, replace: bool = False) -> None:
        self.cluster, self.text, self.said = FakeCluster(), "model: demo\n", list[str]()
        self.home = home
        self.keeper = Keeper(
            self.cluster,
            Marks(home),
            read=lambda: self.text,
            parse=loads,
            replace=replace,
            say=self.said.append,
        )

    def turn(self, now_s: float = 0.0) -> None:
        self.keeper.turn(now_s)

    @property
    def is_ready(self) -> bool:
        return (self.home / "ready").exists()


def test_a_file_is_applied_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for now_s in range(3):
        kept.turn(now_s)
    assert kept.cluster.calls == ["up demo"]
    assert kept.is_ready
    assert (tmp_path / "alive").exists()


def test_a_changed_file_is_applied(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.turn()
    kept.text = "model: demo\npools: {decode: {workers: 2}}\n"
    kept.turn()
    assert kept.cluster.calls == ["up demo", "up demo"]
    assert kept.cluster.running is not None
    assert kept.cluster.running.pools.decode.workers == 2


@pytest.mark.parametrize(
    ("text", "names"),
    [("modle: demo\n", "modle"), ("model: other\n", "model: cannot change")],
    ids=["wrong", "too much"],
)
def test_a_refused_file_is_said_once_and_what_runs_goes_on(tmp_path: Path, text: str, names: str) -> None:
    kept = Kept(tmp_path)
    kept.turn()
    kept.text = text
    kept.turn()
    kept.turn()
    (line,) = kept.said
    assert names in line
    assert "what runs goes on" in line
    assert kept.is_ready


def test_a_change_too_large_starts_it_anew_where_that_is_asked_for(tmp_path: Path) -> None:
    kept = Kept(tmp_path, replace=True)
    kept.turn()
    kept.text = "model: other\n"
    kept.turn()
    assert kept.cluster.calls == ["up demo", "up other", "down", "up other"]
    assert "starting anew" in kept.said[0]


def test_a_failure_is_tried_again_later(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.cluster.faults = [UnavailableError("workers not ready")]
    kept.turn(0.0)
    kept.turn(RETRY_S / 2)
    assert kept.cluster.calls == ["up demo"]
    assert not kept.is_ready
    kept.turn(RETRY_S)
    assert kept.is_ready


def test_it_is_not_ready_while_a_pool_is_not_whole(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.turn()
    kept.cluster.whole = False
    kept.turn()
    assert not kept.is_ready


def test_a_lost_ray_ends_it_but_not_at_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.turn()
    kept.cluster.running = None
    kept.turn(LOST_S)
    assert not kept.is_ready
    with pytest.raises(UnavailableError, match="no controller"):
        kept.turn(LOST_S + 1)


def test_it_waits_for_ray_and_says_so_once(tmp_path: Path) -> None:
    faults: list[Exception] = [UnavailableError("nothing answers"), UnavailableError("nothing answers")]
    said: list[str] = []

    def answers() -> None:
        if faults:
            raise faults.pop()

    slept: list[float] = []
    wait_for(answers, Marks(tmp_path), said.append, slept.append)
    assert said == ["waiting: nothing answers"]
    assert len(slept) == 2


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [({}, "NAME and --config"), ({"name": "smollm2", "config": Path("x")}, "NAME and --config")],
    ids=["neither", "both"],
)
def test_fetch_wants_a_name_or_a_file(kwargs: dict[str, object], names: str) -> None:
    from cluster.commands.fetch import command

    fetch: Callable[..., None] = command
    with pytest.raises(ConfigError, match=names):
        fetch(**kwargs)


def test_fetch_takes_the_models_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.commands.fetch import command

    path = tmp_path / "cluster.yaml"
    path.write_text("model: demo\npools: {draft: {}}\n")
    command(config=path)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["demo", "demo-draft"]
