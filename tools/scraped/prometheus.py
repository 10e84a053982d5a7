"""A real Prometheus beside a cluster: started on a port of the OS, asked over its API, ended."""

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

READY_S = 60.0
Series = dict[str, Any]  # of Prometheus's API: metric, value or values


def find_prometheus() -> str | None:
    return shutil.which("prometheus")


class Prometheus:
    """
    Args:
        folder: For its data and log.
        config: Its prometheus.yml.
    """

    def __init__(self, folder: Path, config: Path) -> None:
        binary = find_prometheus()
        assert binary is not None, "prometheus is not installed"
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._log = (folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--query.lookback-delta=1m",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def query(self, expression: str, at_s: float | None = None) -> list[Series]:
        """Of a time since the epoch; None: of now. Raises: HTTPError: it is none."""
        return self._ask("query", query=expression, **({} if at_s is None else {"time": at_s}))

    def range(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        return self._ask("query_range", query=expression, start=start_s, end=end_s, step=step_s)

    def targets(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/api/v1/targets?state=active", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["activeTargets"]
            return found

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        self._log.close()

    def _ask(self, what: str, **values: object) -> list[Series]:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(values)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            result: list[Series] = json.load(answer)["data"]["result"]
            return result

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"prometheus ended; see {self._log.name}"
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(f"prometheus was not ready within {READY_S:g} s; see {self._log.name}")


def numbers(series: Sequence[Series]) -> list[float]:
    return [float(one["value"][1]) for one in series]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
