"""A minute's soak of a small cluster, as `make soak` runs it: all answers right, nothing left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
CONFIG = """
model: demo
dtype: float32
pools: {prefill: {workers: 1}, decode: {workers: 1}}
engine: {memory: 24MiB, max_batched_tokens: 128}
kv: {lease_s: 5}
router: {disaggregate_over_tokens: 32, max_retries: 6, request_timeout_s: 120}
http: {replicas: 2}
"""


def test_a_minute_of_load_under_trouble_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text(CONFIG)
    options = ["--minutes", "1", "--asks", "20", "--every", "8", "--config", str(config), "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tools.soak", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"]
    assert report["counts"]["ok"] > 20
    assert len(report["happenings"]) >= 2
    assert (tmp_path / "resources.png").is_file()
