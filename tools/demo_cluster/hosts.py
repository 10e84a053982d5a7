"""Hosts on one machine: each has its own network, processes, /tmp, home and name, and is entered over SSH alone.

They hang on one switch. Their files are the machine's, but for /tmp, /run, /dev/shm and the home; so the same Python
and the same repository are on all of them. All of it needs root, iproute2, util-linux and OpenSSH's server.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "10.213.80."
HOME = "/srv"  # in a host; a file system of its own
TOOLS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "sshd": "openssh-server",
         "ssh-keygen": "openssh-client", "rsync": "rsync"}  # fmt: skip
START_TIMEOUT_S = 20.0

# In namespaces that are gone with it: what hosts need of the kernel.
TRIAL = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
ip link add bsw type bridge
ip link add one type veth peer name other
tc qdisc replace dev one root tbf rate 1gbit burst 256kb latency 50ms
"""

# What a host does before its SSH server, which is then its first process: when that ends, all others do.
PREPARE = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
for kept in "$REPOSITORY" "$SHARED"; do
  case $kept in /tmp/*) mkdir -p "/mnt$kept"; mount --bind "$kept" "/mnt$kept" ;; esac
done
mount -t tmpfs tmpfs /tmp; chmod 1777 /tmp
for kept in "$REPOSITORY" "$SHARED"; do
  case $kept in /tmp/*) mkdir -p "$kept"; mount --bind "/mnt$kept" "$kept" ;; esac
done
umount -R /mnt
mount -t tmpfs tmpfs /run; mkdir /run/sshd
mount -t tmpfs tmpfs /dev/shm
mount --bind "$SHARED/$NAME" /srv
mount --bind "$SHARED/passwd" /etc/passwd
hostname "$NAME"
exec "$SSHD" -D -e -f "$SHARED/sshd_config" -o ListenAddress="$ADDRESS"
"""


def missing() -> str:
    """What keeps this machine from having hosts; empty: nothing."""
    if os.geteuid() != 0:
        return "namespaces need root"
    for tool, package in TOOLS.items():
        if which(tool) is None:
            return f"`{tool}` is not installed (Debian: apt install {package})"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "sh", "-c", TRIAL],
        env={"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces cannot be had: {tried.stderr.strip()}" if tried.returncode else ""


def which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass(slots=True)
class Host:
    name: str
    address: str
    keeper: subprocess.Popen[bytes] | None = None  # `unshare`, whose only child is the host's first process

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self.keeper is not None
        (first,) = psutil.Process(self.keeper.pid).children()
        return first.pid


class Hosts:
    """Between `start` and `end`; every process in a host ends with it.

    Args:
        names: In the order of their addresses, from .1 on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="baton-hosts-"))
        self.by_name = {name: Host(name, f"{NETWORK}{number}") for number, name in enumerate(names, 1)}
        self._switch = f"bsw{os.getpid()}"

    def start(self) -> None:
        self._write_ssh()
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "switch", "up")
        for host in self.by_name.values():
            self._start(host)
        for host in self.by_name.values():
            self._wait(host)

    def address(self, name: str) -> str:
        return self.by_name[name].address

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 300,
        check: bool = True,
        cwd: str = HOME,
    ) -> subprocess.CompletedProcess[str]:
        """As a user who sits at that host."""
        return subprocess.run(
            self.inside(name, command, cwd=cwd),
            env=self._env(env),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=check,
        )

    def popen(self, name: str, command: Sequence[str], **settings: object) -> "subprocess.Popen[str]":
        """As `run`, in the background, with pipes for what it prints."""
        return subprocess.Popen(
            self.inside(name, command, cwd=HOME), env=self._env(None), stdout=subprocess.PIPE, text=True
        )

    def inside(self, name: str, command: Sequence[str], *, cwd: str) -> list[str]:
        enter = ["nsenter", f"--target={self.by_name[name].pid}", "--all"]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', cwd, *command]

    def limit(self, name: str, rate: str) -> None:
        """Of what the host sends and of what it is sent: e.g. 1gbit."""
        queue = ["root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
        _run("ip", "netns", "exec", self._switch, "tc", "qdisc", "replace", "dev", name, *queue)
        self.run(name, [which("tc") or "tc", "qdisc", "replace", "dev", "eth0", *queue])

    def cut(self, name: str) -> None:
        """The host hears and says nothing from now on; nobody is told."""
        _run("ip", "-n", self._switch, "link", "set", name, "down")

    def mend(self, name: str) -> None:
        _run("ip", "-n", self._switch, "link", "set", name, "up")

    def command_lines(self, name: str) -> list[list[str]]:
        """Of all processes but the host's first; those that have ended and that nobody has asked after are none."""
        first = self.by_name[name].pid
        space = os.readlink(f"/proc/{first}/ns/pid")
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != first and os.readlink(f"/proc/{process.pid}/ns/pid") == space:
                    found.append(process.cmdline())
            except (OSError, psutil.Error):
                continue
        return found

    def end(self) -> None:
        for host in self.by_name.values():
            if host.keeper is not None and host.keeper.poll() is None:
                psutil.Process(host.pid).kill()
                host.keeper.wait(timeout=20)
        subprocess.run(["ip", "netns", "del", self._switch], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, host: Host) -> None:
        (self.folder / host.name).mkdir()
        (self.folder / host.name / ".ssh").mkdir(mode=0o700)
        for name in ("id_ed25519", "id_ed25519.pub"):
            shutil.copy(self.folder / "key" / name, self.folder / host.name / ".ssh" / name)
        given = {
            "REPOSITORY": str(ROOT),
            "SHARED": str(self.folder),
            "NAME": host.name,
            "ADDRESS": host.address,
            "SSHD": which("sshd") or "sshd",
        }
        host.keeper = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child",
             "sh", "-c", f"until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done\n{PREPARE}"],
            env=self._env(given),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / f"{host.name}.log").open("wb"),
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not psutil.Process(host.keeper.pid).children():
            assert time.monotonic() < deadline, (self.folder / f"{host.name}.log").read_text()
            time.sleep(0.02)
        _run("ip", "link", "add", host.name, "netns", self._switch, "type", "veth", "peer", "name", "eth0", "netns",
             str(host.pid))  # fmt: skip
        _run("ip", "-n", self._switch, "link", "set", host.name, "master", "switch", "up")
        enter = ["nsenter", f"--target={host.pid}", "--net", "ip"]
        _run(*enter, "link", "set", "lo", "up")
        _run(*enter, "address", "add", f"{host.address}/24", "dev", "eth0")
        _run(*enter, "link", "set", "eth0", "up")
        _run(*enter, "route", "add", "default", "dev", "eth0")  # Ray takes this route's address for a process's own

    def _wait(self, host: Host) -> None:
        """For its SSH server."""
        deadline = time.monotonic() + START_TIMEOUT_S
        ssh = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=1", f"root@{host.address}", "hostname"]
        while (said := self.run(host.name, ssh, check=False)).stdout.strip() != host.name:
            log = (self.folder / f"{host.name}.log").read_text()
            assert time.monotonic() < deadline, f"no SSH to {host.name}: {said.stderr}\n{log}"
            time.sleep(0.1)

    def _write_ssh(self) -> None:
        keys = self.folder / "key"
        keys.mkdir()
        for name in ("host", "id_ed25519"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name))
        (self.folder / "passwd").write_text(
            f"root:x:0:0:root:{HOME}:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        )
        (self.folder / "sshd_config").write_text(
            f"HostKey {keys}/host\nAuthorizedKeysFile {keys}/id_ed25519.pub\nStrictModes no\nUsePAM no\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\nPidFile none\nPrintMotd no\n"
            "Subsystem sftp internal-sftp\nMaxStartups 100\nMaxSessions 100\nUseDNS no\n"
        )

    def _env(self, more: Mapping[str, str] | None) -> dict[str, str]:
        """Nothing of this process's but the path: a host is a machine of its own."""
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": HOME, "LANG": "C.UTF-8", "TERM": "dumb", "USER": "root", **(more or {})}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
