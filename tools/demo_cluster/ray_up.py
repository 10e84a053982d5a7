"""`ray up` of deploy/ray/local.yaml onto the hosts of this machine, and Baton on what it starts."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tools.demo_cluster.hosts import HOME, NETWORK, ROOT, Hosts

LAPTOP, HEAD, PREFILL, DECODES = "laptop", "head", "prefill", ("decode-a", "decode-b")
NAMES = (HEAD, PREFILL, *DECODES, LAPTOP)
BIN = str(Path(sys.executable).parent)
RAY_PORT, HTTP_PORT, GRPC_PORT = 6379, 8000, 9000
JOIN_TIMEOUT_S = 240.0
SMALL = "--num-cpus=8 --object-store-memory=100000000"  # four Ray nodes share this machine
MODEL = {
    "model": "demo",
    "device": "cpu",
    "dtype": "float32",
    "engine": {"memory": "128MiB", "max_batched_tokens": 256},
    "router": {"disaggregate_over_tokens": 32, "max_retries": 6, "request_timeout_s": 120},
}


class Cluster:
    """Between `up` and `down`, as a user at the laptop has it."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.folder = hosts.folder / LAPTOP / "deploy"  # of the laptop's home
        self.http = f"http://{hosts.address(HEAD)}:{HTTP_PORT}"
        self.grpc = f"{hosts.address(HEAD)}:{GRPC_PORT}"

    @property
    def env(self) -> dict[str, str]:
        """Of every shell on every host: where Ray and Baton are, and Ray's token."""
        return {
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
            "BATON_CACHE": str(self.hosts.folder / "cache"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": f"{HOME}/baton/auth_token",
            "RAY_ADDRESS": f"{self.hosts.address(HEAD)}:{RAY_PORT}",
        }

    def write(self) -> None:
        """The YAML files, with this machine's addresses and Python in the place of the user's."""
        self.folder.mkdir()
        text = (ROOT / "deploy/ray/local.yaml").read_text().replace("10.0.0.", NETWORK)
        tree = yaml.safe_load(text.replace("ray start", f"ray start {SMALL}"))
        tree["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
        del tree["file_mounts"]["~/baton/dist"]
        exports = " ".join(f"{name}={value}" for name, value in self.env.items())
        tree["setup_commands"] = ["chmod 600 ~/baton/auth_token", f"echo 'export {exports}' > ~/.bashrc"]
        (self.folder / "local.yaml").write_text(yaml.safe_dump(tree, width=1000))
        cluster = yaml.safe_load((ROOT / "deploy/ray/cluster.yaml").read_text())
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump(cluster | MODEL))

    def up(self) -> str:
        """`ray up`; returns what it said."""
        self.ray("get-auth-token", "--generate")
        return self.ray("up", "--yes", "--no-config-cache", "local.yaml")

    def wait_for_nodes(self) -> list[dict[str, Any]]:
        """Until every host is a node of the Ray cluster."""
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        while len(nodes := self.nodes()) < len(NAMES) - 1:
            if time.monotonic() > deadline:
                said = self.on_head("tail -n 40 /tmp/ray/session_latest/logs/monitor*")
                raise AssertionError(f"only {[node['address'] for node in nodes]} joined\n{said}")
            time.sleep(2)
        return nodes

    def nodes(self) -> list[dict[str, Any]]:
        code = (
            "import json, logging, ray; ray.init(logging_level=logging.ERROR); print(json.dumps([dict(address="
            "row['NodeManagerAddress'], resources=row['Resources'], labels=row['Labels']) for row in ray.nodes() if "
            "row['Alive']]))"
        )
        said = self.on_head(f'python -c "{code}"')
        (line,) = [line for line in said.splitlines() if line.startswith("[{")] or [said]
        found: list[dict[str, Any]] = json.loads(line)
        return found

    def baton(self, *arguments: str) -> str:
        """On the head."""
        return self.on_head(f"baton {' '.join(arguments)}")

    def workers(self) -> dict[str, dict[str, Any]]:
        return {worker["worker_id"]: worker for worker in self.status()["workers"]}

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.baton("status", "--json"))
        return found

    def on_head(self, command: str) -> str:
        """By SSH from the laptop, as `ray exec` does."""
        ssh = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", f"root@{self.hosts.address(HEAD)}"]
        shell = f"source ~/.bashrc && {command}"
        done = self.hosts.run(LAPTOP, [*ssh, f"bash --login -c {_quoted(shell)}"], check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def ray(self, *arguments: str) -> str:
        return self.on_laptop(f"{BIN}/ray", *arguments)

    def on_laptop(self, *command: str) -> str:
        """In the folder of the YAML files."""
        env = {"PATH": self.env["PATH"], "RAY_USAGE_STATS_ENABLED": "0", "RAY_UP_enable_autoscaler_v2": "0"}
        done = self.hosts.run(LAPTOP, command, env=env, cwd=f"{HOME}/deploy", check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}\n{done.stderr}"
        return done.stdout


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"
