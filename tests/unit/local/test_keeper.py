"""A kept cluster follows its file, and tells a supervisor how it is."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from baton.errors import ConfigError, UnavailableError
from cluster.config.load import loads
from cluster.config.schema import BatonConfig
from cluster.fleet.client import ControllerClient
from cluster.fleet.plan import NeedsDownError
from cluster.ingress.tls_environment import TLS_VARIABLE
from cluster.local import kept_cluster, ray_node
from cluster.local.bring_up import serve_env
from cluster.local.keeper import LOST_S, RETRY_S, Keeper, Marks, wait_for
from cluster.local.kept_cluster import KeptCluster


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


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Mapping[str, str]]:
    """What processes that come of each connection have in their environment; Ray is there and empty."""
    made: list[Mapping[str, str]] = []
    monkeypatch.setenv("BATON_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr(ray_node, "prepare", lambda cluster, env: None)
    monkeypatch.setattr(ray_node, "connect", lambda cluster, *, namespace, actors_env: made.append(actors_env))
    monkeypatch.setattr(ray_node, "disconnect", lambda: None)
    monkeypatch.setattr(ControllerClient, "find", lambda: None)
    monkeypatch.setattr(kept_cluster, "bring_up", lambda config, report, warn: None)
    return made


def test_what_is_started_has_the_doors_and_limits_of_its_config(connections: list[Mapping[str, str]]) -> None:
    kept = KeptCluster(lambda config: config, lambda text: None, lambda text: None)
    plain = loads("http: {host: 0.0.0.0}")
    guarded = loads("http: {host: 0.0.0.0}\ntls: {certificate: /c, key: /k}\nlimits: {max_body: 1KiB}")
    for config in (plain, guarded):
        kept.up(config)
        assert connections[-1] == serve_env(config, "")
    assert '"/c"' in connections[-1][TLS_VARIABLE]
    assert connections[0] != connections[1]


def test_where_the_model_is_left_to_us_a_cluster_that_runs_keeps_its_own(
    connections: list[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(kept_cluster, "bring_up", lambda config, report, warn: given.append(config.model))
    kept = KeptCluster(lambda config: replace(config, model="smollm2"), lambda text: None, lambda text: None)
    kept.up(BatonConfig())
    monkeypatch.setattr(ControllerClient, "find", lambda: SimpleNamespace(check_owner=lambda owner: None))
    kept.up(BatonConfig())
    assert given == ["smollm2", "auto"]
