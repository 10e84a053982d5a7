"""A worker's own /metrics: who may read it, and what it says."""

import socket
from collections.abc import Iterator

import httpx
import pytest

from baton.v1.worker_pb2 import ROLE_DECODE, WorkerState
from workers.telemetry.page import MAX_CONNECTIONS, MetricsPage
from workers.telemetry.token import metrics_token

TOKEN = metrics_token("secret")


def state() -> WorkerState:
    return WorkerState(worker_id="decode-0", role=ROLE_DECODE, served_name="demo", num_free_blocks=3)


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    page = MetricsPage(host="127.0.0.1", token=TOKEN, state=state)
    yield page
    page.close()


def get(page: MetricsPage, path: str = "/metrics", token: str = TOKEN) -> httpx.Response:
    return httpx.get(f"http://{page.address}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=10)


def test_it_tells_the_workers_metrics_and_its_processs(page: MetricsPage) -> None:
    told = get(page)
    assert told.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'baton_worker_blocks{model="demo",role="decode",state="free",worker="decode-0"} 3.0' in told.text
    assert "process_resident_memory_bytes" in told.text


@pytest.mark.parametrize("token", ["x", "secret", TOKEN[:-1], TOKEN + "0", "ü"])
def test_whoever_does_not_show_the_token_reads_nothing(page: MetricsPage, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    told = httpx.get(f"http://{page.address}/metrics", headers=headers, timeout=10)
    assert (told.status_code, told.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "baton" not in told.text


def test_the_token_does_not_tell_the_secret() -> None:
    assert "secret" not in TOKEN
    assert metrics_token("secret") == TOKEN != metrics_token("secret2")


def test_without_a_token_anybody_may_read() -> None:
    page = MetricsPage(host="127.0.0.1", token=None, state=state)
    assert httpx.get(f"http://{page.address}/metrics", timeout=10).status_code == 200
    page.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{page.address}/metrics", timeout=10)


def test_other_paths_are_not_there(page: MetricsPage) -> None:
    assert get(page, "/").status_code == 404


def test_connections_that_say_nothing_do_not_pile_up(page: MetricsPage) -> None:
    host, _, port = page.address.partition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(MAX_CONNECTIONS)]
    turned_away = socket.create_connection((host, int(port)))
    assert turned_away.recv(1) == b""  # at once
    for connection in (*silent, turned_away):
        connection.close()
