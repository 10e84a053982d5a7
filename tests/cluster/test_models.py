"""A model version's life on a real cluster, under load: beside the old one, weighed, switched to, alone."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.test_fleet_cli import Baton
from workers.model.registry import resolve_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BODY = {"prompt": [5, 60, 700], "max_tokens": 30, "temperature": 0}
SHARED = "{load_format: fake, fake_step_s: 0.002, engine: {memory: 16MiB}, http: {port: 0}, grpc: {port: 0}, "
OLD = "model: demo, served_name: chat, pools: {mixed: {workers: 1}}"


class Load:
    """Clients that never stop asking for `chat`; what each answer was."""

    def __init__(self, url: str, num_clients: int = 3) -> None:
        self._url = url
        self.texts: list[str] = []
        self.failures: list[str] = []
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._ending.is_set():
                try:
                    self.texts.append(text_of(client, "chat"))
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(repr(error))

    def next_texts(self, count: int) -> set[str]:
        """Of calls that begin from now on."""
        seen = len(self.texts) + len(self._threads)
        wait_for(lambda: len(self.texts) >= seen + count or self.failures)
        assert self.failures == []
        return set(self.texts[seen:])


def text_of(client: httpx.Client, model: str) -> str:
    answer = client.post("/v1/completions", json=BODY | {"model": model})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def wait_for(is_so: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """It writes other tokens."""
    folder = Path(shutil.copytree(resolve_model("demo"), tmp_path / "other"))
    told: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"vocab_size": told["vocab_size"] // 2}))
    return folder


@pytest.fixture
def baton(tmp_path: Path) -> Iterator[Baton]:
    one = Baton(tmp_path)
    yield one
    one("down", "--drain-timeout-s", "0")


def test_a_version_is_put_beside_weighed_switched_to_and_left_alone(baton: Baton, other_model: Path) -> None:
    def up(text: str) -> dict[str, Any]:
        baton.config.write_text(f"{SHARED}{text}}}")
        baton("up", str(baton.config))
        return baton.status()

    new = f"model: {other_model}, served_name: chat, pools: {{mixed: {{workers: 1}}}}"
    status = up(OLD)
    incarnation = status["workers"][0]["incarnation"]
    with httpx.Client(base_url=status["http"], timeout=60) as client, Load(status["http"]) as load:
        before = text_of(client, "chat")
        status = up(f"models: {{v1: {{{OLD}}}, v2: {{{new}, weight: 0}}}}")
        assert [worker["worker_id"] for worker in status["workers"]] == ["mixed-0", "v2.mixed-0"]
        assert status["workers"][0]["incarnation"] == incarnation, "the old version was started again"
        after = text_of(client, "chat@v2")
        assert after != before
        assert load.next_texts(10) == {before}

        baton("weights", "chat", "v1=50", "v2=50")
        wait_for(lambda: load.next_texts(20) == {before, after})
        assert [model["share"] for model in baton.status()["models"]] == [0.5, 0.5]
        baton("switch", "chat", "v2")
        wait_for(lambda: load.next_texts(10) == {after})
        baton("switch", "chat", "v1")
        wait_for(lambda: load.next_texts(10) == {before})
        assert "weight 0 was set by `baton weights`" not in baton("weights", "chat", "--reset")

        status = up(f"models: {{v2: {{{new}}}, tales: {{model: demo, pools: {{mixed: {{workers: 1}}}}}}}}")
        assert [worker["worker_id"] for worker in status["workers"]] == ["v2.mixed-0", "tales.mixed-0"]
        assert load.next_texts(10) == {after}
        gone = client.post("/v1/completions", json=BODY | {"model": "chat@v1"})
        assert gone.status_code == 404
        assert 'this server serves "chat", "tales", "chat@v2"' in gone.json()["error"]["message"]
        assert text_of(client, "tales") == before
        assert load.failures == []
        assert set(load.texts) == {before, after}
