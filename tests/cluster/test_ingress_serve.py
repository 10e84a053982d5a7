"""The ingress as a real Ray Serve application, over HTTP and gRPC, with a worker that computes nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Serve reads its environment once per process, so each mode runs in a process of its own.
SCRIPT = Path(__file__).with_name("ingress_probe.py")


@pytest.mark.slow
@pytest.mark.parametrize("proxy", ["haproxy", "python"])
def test_the_application_answers_over_both_protocols_on_loopback_alone(proxy: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, str(SCRIPT), proxy, str(output)]
        started_s = time.monotonic()
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log, timeout=150
        )
    assert done.returncode == 0, (tmp_path / "log").read_text()[-4000:]
    result = json.loads(output.read_text())
    assert result["health"] == [200, {"status": "ok"}]
    assert result["models"] == ["demo"]
    assert result["completion"]["usage"]["completion_tokens"] == 5
    assert result["completion"]["choices"][0]["finish_reason"] == "length"
    assert result["streamed"] == result["completion"]["choices"][0]["text"] == result["grpc"]
    assert result["http_error"] == [400, "temperature"]
    assert result["unknown_model"] == [404, "model_not_found"]
    assert result["grpc_error"][0] == "INVALID_ARGUMENT"
    assert result["grpc_error"][1].startswith("temperature is -1; it must be 0 (greedy) or more")
    assert result["grpc_health"] == [1, 1, "NOT_FOUND"]
    assert {"baton.v1.Inference", "grpc.health.v1.Health"} <= set(result["reflection"])
    assert result["concurrent"] == [8] * 150
    assert result["seconds_to_free"] < 1.0
    assert result["seconds_to_free_many"] < 2.0
    assert result["port_taken"].startswith("http.port: ")
    assert result["open_ports"] == []
    assert time.monotonic() - started_s < 150
