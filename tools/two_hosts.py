"""Two hosts on one machine: network namespaces joined by a cable that can be cut, a Ray node of the user's in each.

The first host holds Ray's head, and has a second cable to the namespace of whoever made them.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

HEAD, OTHER, HEAD_FROM_HERE = "10.213.76.1", "10.213.76.2", "10.213.77.1"
HERE = "10.213.77.2"
PORT = 6379


def missing() -> str:
    """What keeps this machine from having hosts; empty: nothing."""
    if shutil.which("ip") is None:
        return "`ip` (iproute2) is not installed"
    name = f"bt-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"`ip netns` is not permitted: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Hosts:
    """Between `start` and `end`; processes started in a host end with it."""

    def __init__(self) -> None:
        self.head = f"bt{os.getpid()}a"
        self.other = f"bt{os.getpid()}b"
        self.folder = Path(tempfile.mkdtemp(prefix="bh-"))
        (self.folder / "token").write_text("0123456789abcdef" * 4)
        self.env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    @property
    def address(self) -> dict[str, str]:
        """Environment of `baton` commands on the head's host."""
        return self.env | {"RAY_ADDRESS": f"{HEAD}:{PORT}"}

    def prefix(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", host]

    def start(self) -> None:
        for host in (self.head, self.other):
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
        _ip("link", "add", "eth0", "netns", self.head, "type", "veth", "peer", "name", "eth0", "netns", self.other)
        _ip("link", "add", "eth1", "netns", self.head, "type", "veth", "peer", "name", self.head)
        for host, device, address in (
            (self.head, "eth0", HEAD),
            (self.other, "eth0", OTHER),
            (self.head, "eth1", HEAD_FROM_HERE),
        ):
            _ip("-n", host, "address", "add", f"{address}/24", "dev", device)
            _ip("-n", host, "link", "set", device, "up")
        for host in (self.head, self.other):  # Ray takes the address of this route for a process's own
            _ip("-n", host, "route", "add", "default", "dev", "eth0")
        _ip("address", "add", f"{HERE}/24", "dev", self.head)
        _ip("link", "set", self.head, "up")
        head = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self.folder}/r"]
        self._ray(self.head, *head, f"--node-ip-address={HEAD}")
        self._ray(self.other, f"--address={HEAD}:{PORT}", f"--node-ip-address={OTHER}")

    def cut(self) -> None:
        """The other host hears and says nothing from now on; nobody is told."""
        _ip("-n", self.other, "link", "set", "eth0", "down")

    def mend(self) -> None:
        _ip("-n", self.other, "link", "set", "eth0", "up")

    def python(self, host: str, code: str) -> str:
        """What a program prints that runs there."""
        command = [*self.prefix(host), sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def processes(self, host: str) -> list[psutil.Process]:
        listed = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout
        found = []
        for pid in map(int, listed.split()):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def end(self) -> None:
        for host in (self.head, self.other):
            while processes := self.processes(host):  # one may have been forked between the look and the kill
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(processes, timeout=5)
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.head], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ray(self, host: str, *options: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus=8", "--disable-usage-stats"]
        subprocess.run(
            [*self.prefix(host), *command, "--object-store-memory=100000000", *options],
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | self.env,
            stdout=(self.folder / "ray.log").open("ab"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=True,
        )


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
