import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from baton.errors import ConfigError
from cluster.host import state
from cluster.host.state import ClusterState


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATON_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_what_is_written_is_read_and_removed(home: Path) -> None:
    assert state.read() is None
    cluster = ClusterState(cluster_id="1", address="127.0.0.1:1", keeper_pid=2, http="http://127.0.0.1:3")
    state.write(cluster)
    assert state.read() == cluster
    assert home.stat().st_mode & 0o777 == 0o700
    state.remove()
    assert state.read() is None


def test_the_secret_is_made_once_and_is_its_owners_alone(home: Path) -> None:
    first = state.cluster_secret()
    assert len(first) == 64
    assert state.cluster_secret() == first
    assert (home / "secret").stat().st_mode & 0o777 == 0o600
    assert state.ray_token_path().read_text() != first


def test_what_prometheus_shows_is_its_owners_alone_and_follows_the_secret(home: Path) -> None:
    path = state.metrics_token_path()
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert state.cluster_secret() not in first
    assert state.metrics_token_path().read_text() == first
    (home / "secret").write_text("another")
    assert state.metrics_token_path().read_text() != first


def test_many_at_once_make_one_secret(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: state.cluster_secret(), range(8)))
    assert len(set(made)) == 1
    assert len(made[0]) == 64


def test_an_empty_secret_is_refused(home: Path) -> None:
    home.mkdir()
    (home / "secret").write_text("\n")
    with pytest.raises(ConfigError, match="secret is empty; run `baton down`, remove the file"):
        state.cluster_secret()


def test_a_broken_state_file_is_named_with_the_fix(home: Path) -> None:
    home.mkdir()
    (home / "cluster.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cluster\.json cannot be read .*; remove it when no cluster runs"):
        state.read()


def test_two_ups_at_once_are_refused() -> None:
    with state.lock(), pytest.raises(ConfigError, match="another `baton up` or `down` is at work"), state.lock():
        pass


def test_a_lock_that_may_be_waited_for_is_had_once_it_is_free() -> None:
    has_begun = threading.Event()

    def hold() -> None:
        with state.lock():
            has_begun.set()
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    has_begun.wait()
    with pytest.raises(ConfigError), state.lock():
        pass
    with state.lock(wait_s=30.0):
        holder.join(5.0)
        assert not holder.is_alive()
