"""`baton up`, `status`, `serve` and `down` as a user runs them: real processes, a home of their own, the fake model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from workers.model.registry import resolve_model

CONFIG = """
load_format: fake
generation_defaults: neutral
http: {port: 0}
grpc: {port: 0}
pools: {prefill: {workers: 1}, decode: {workers: 1}}
"""


class Baton:
    """The command, in one home."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "cluster.yaml"
        self.config.write_text(CONFIG)
        self.home = folder / "home"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BATON_"))}
        self.env |= {"BATON_HOME": str(self.home)}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "cluster.cli", *arguments]
        return subprocess.Popen(command, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it printed; its last words where it fails as expected."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=150)
        assert process.returncode == code, err
        assert "Traceback" not in err
        return out if code == 0 else err

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self("status", "--json"))
        return status

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.home / "cluster.json").read_text())
        return state


def served_model(url: str) -> dict[str, Any]:
    """`created` is when the ingress started."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
        model: dict[str, Any] = json.load(answer)["data"][0]
    return model


def of_session(keeper_pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == keeper_pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


@pytest.fixture
def baton(tmp_path: Path) -> Iterator[Baton]:
    one = Baton(tmp_path)
    yield one
    one("down", "--drain-timeout-s", "0")


@pytest.mark.timeout(400)
def test_a_cluster_comes_up_is_changed_while_it_runs_and_leaves_nothing(baton: Baton) -> None:
    said = baton("up", str(baton.config), "--timings")
    status = baton.status()
    assert status["ready"]
    assert status["http"] in said
    assert [worker["role"] for worker in status["workers"]] == ["prefill", "decode"]
    assert (baton.home / "secret").stat().st_mode & 0o777 == 0o600
    model = served_model(status["http"])
    assert model["id"] == "demo"
    assert model["generation_defaults"]["temperature"] == 1

    baton("up", str(baton.config), "--set", "pools.decode.workers=2")
    changed = baton.status()
    assert [pool["num_ready"] for pool in changed["pools"]] == [1, 2]
    assert changed["http"] == status["http"]
    assert changed["workers"][0]["incarnation"] == status["workers"][0]["incarnation"]
    assert served_model(status["http"]) == model, "another ingress, which cut the streams of the first"
    refused = baton("up", str(baton.config), "--set", "http.host=0.0.0.0", code=2)
    assert "http.host: '127.0.0.1' cannot become '0.0.0.0' while the cluster runs" in refused
    assert "decode-1" in baton("status")

    keeper_pid = baton.state()["keeper_pid"]
    folder = Path(baton.state()["folder"])
    assert of_session(keeper_pid)
    baton("down")
    assert of_session(keeper_pid) == []
    assert not folder.exists()
    assert "no cluster runs" in baton("status", code=1)
    assert "nothing runs here" in baton("down")


def wait_for_file(path: Path, key: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if state.get(key):
            return state
        time.sleep(0.05)
    raise AssertionError(f"{path} never got {key}")


def test_down_clears_away_an_up_that_was_killed_half_way(baton: Baton) -> None:
    process = baton.start("up", str(baton.config))
    state = wait_for_file(baton.home / "cluster.json", "address")
    process.kill()
    process.communicate()
    baton("down", "--drain-timeout-s", "0")
    assert of_session(state["keeper_pid"]) == []
    assert not Path(state["folder"]).exists()


@pytest.mark.slow
def test_serve_beside_an_up_that_is_at_work_is_refused_and_ends_nothing(baton: Baton) -> None:
    process = baton.start("up", str(baton.config))
    wait_for_file(baton.home / "cluster.json", "keeper_pid")
    assert "another `baton up` or `down` is at work" in baton("serve", str(baton.config), code=2)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert baton.status()["ready"]


@pytest.mark.slow
def test_a_start_that_fails_ends_what_it_started(baton: Baton, tmp_path: Path) -> None:
    model = Path(shutil.copytree(resolve_model("demo"), tmp_path / "model"))
    (model / "config.json").write_text('{"model_type": "unheard-of"}')  # only workers know the architectures
    process = baton.start("up", "--set", f"model={tmp_path / 'model'}", "--set", "http.port=0", "--set", "grpc.port=0")
    state = wait_for_file(baton.home / "cluster.json", "keeper_pid")
    _, err = process.communicate(timeout=150)
    assert process.returncode in (1, 2)
    last = err.strip().splitlines()[-1]
    assert last.startswith(("error: prefill-0 cannot start: ", "error: decode-0 cannot start: "))
    assert f"model: {model}/config.json cannot be read: " in last
    assert of_session(state["keeper_pid"]) == []
    assert not (baton.home / "cluster.json").exists()


def test_a_model_without_a_tokenizer_is_refused_by_name(baton: Baton, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    err = baton("up", str(baton.config), "--set", f"model={tmp_path / 'model'}", code=2)
    assert err.strip().splitlines()[-1].startswith(f"error: model: {tmp_path / 'model'} has no tokenizer.json; use a")
    assert not (baton.home / "cluster.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "signals",
    [
        pytest.param((signal.SIGINT,), id="ctrl-c"),
        pytest.param((signal.SIGINT, signal.SIGINT, signal.SIGINT), id="ctrl-c-three-times"),
        pytest.param((signal.SIGTERM,), id="sigterm"),
    ],
)
def test_a_signal_ends_a_cluster_in_the_foreground(baton: Baton, signals: tuple[signal.Signals, ...]) -> None:
    process = baton.start("serve", str(baton.config))
    state = wait_for_file(baton.home / "cluster.json", "http")
    folder = Path(state["folder"])
    assert folder.stat().st_mode & 0o777 == 0o700, "others could put programs in there"
    time.sleep(2.0)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.5)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "SIGTERM received" not in err, "Ray's handler, which aborts"
    assert of_session(state["keeper_pid"]) == []
    assert not (baton.home / "cluster.json").exists()
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_down_in_another_terminal_ends_a_cluster_in_the_foreground(baton: Baton) -> None:
    process = baton.start("serve", str(baton.config))
    state = wait_for_file(baton.home / "cluster.json", "http")
    baton("down")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.strip().splitlines()[-1] == "ended by `baton down`"
    assert of_session(state["keeper_pid"]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("up", "--set", "http.prot=1"), "error: http.prot: unknown key; did you mean `port`?"),
        (("up", "--set", "http.port"), "error: --set http.port: is not KEY=VALUE"),
        (("up", "--set", "model=/nowhere"), "error: model: '/nowhere' is no folder"),
        (("up", "--set", "pools.decode.cores=[[4096]]"), "error: pools.decode.cores: 4096 is no core of this machine"),
        (("up", "no.yaml"), "error: no.yaml: cannot be read"),
        (("up", "--set", "http.host=192.0.2.77"), "error: http.host: '192.0.2.77' is no address of this machine"),
    ],
)
def test_bad_input_is_one_line_with_the_fix_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    err = Baton(tmp_path)(*arguments, code=2)
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_bad_default_of_the_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "generation_config.json").write_text('{"temperature": -1}')
    err = Baton(tmp_path)("up", "--set", f"model={model}", code=2)
    assert err.strip() == (
        f"error: model: {model}/generation_config.json: temperature is -1; it must be 0 (greedy) or more. "
        "Correct it, or set generation_defaults: neutral"
    )


def test_help_names_every_command_without_importing_ray_or_torch(tmp_path: Path) -> None:
    said = Baton(tmp_path)("--help")
    assert all(name in said for name in ("up", "serve", "status", "down", "generate", "chat", "bench", "doctor"))
    code = "import sys, cluster.cli; sys.argv = ['baton', '--help']\ntry: cluster.cli.main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'ray', 'torch', 'yaml', 'grpc'} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().splitlines()[-1] == "[]"


def test_version_and_an_unknown_command_end_at_once(tmp_path: Path) -> None:
    assert Baton(tmp_path)("--version").count(".") == 2
    assert "No such command" in Baton(tmp_path)("serf", code=2)


def test_doctor_names_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    process = Baton(tmp_path).start("doctor", "--set", "model=/nowhere", "--set", "device=cuda", "--set", "http.port=0")
    out, err = process.communicate(timeout=150)
    assert "Traceback" not in err
    assert process.returncode == 1
    assert "/nowhere" in out
    assert "give a bundled name" in " ".join(out.split())
