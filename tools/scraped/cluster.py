"""A small cluster to be scraped: the demo model, a prefill, a decode and a draft worker, keys, ports from the OS."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 300
CONFIG = {
    "model": "demo",
    "dtype": "float32",
    "pools": {
        "prefill": {"workers": 1},
        "decode": {"workers": 1},
        "draft": {"workers": 1, "model": "demo-draft"},
    },
    "engine": {"memory": "64MiB", "max_batched_tokens": 64, "max_sequences": 16},
    "speculation": {"method": "auto", "max_tokens": 4},
    "router": {"disaggregate_over_tokens": 32},
    "slo": {"ttft_ms": 1500, "tpot_ms": 150, "attainment": 0.9},
    "http": {"port": 0},
    "grpc": {"port": 0},
    "metrics": {"vllm_names": True},
}


class ScrapedCluster:
    """`home` is its BATON_HOME; `key` an API key that it takes."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="bm-"))
        keys = self.home / "keys.yaml"
        self.key = self._baton("key", "create", "load", "--file", str(keys)).stdout.split()[0]
        config = self.home / "cluster.yaml"
        config.write_text(yaml.safe_dump({**CONFIG, "auth": {"keys_file": str(keys)}}))
        try:
            self._baton("up", str(config))
        except BaseException:
            self.close()
            raise
        self.http: str = json.loads((self.home / "cluster.json").read_text())["http"]
        self.token_file = self.home / "metrics_token"

    def close(self) -> None:
        self._baton("down")
        shutil.rmtree(self.home, ignore_errors=True)

    def _baton(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            env={**env, "BATON_HOME": str(self.home), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"baton {arguments[0]}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done
