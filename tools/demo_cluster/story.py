"""The steps of the demonstration: each does something, checks it, and says in lines what it found."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.demo_cluster.answers import MAX_TOKENS, PROMPTS, Answers, Asking, ask, kv_bytes
from tools.demo_cluster.hosts import ROOT
from tools.demo_cluster.ray_up import BIN, DECODES, HEAD, LAPTOP, NAMES, PREFILL, Cluster

Step = Callable[[], Iterator[str]]
ALONE = "model: demo\ndevice: cpu\ndtype: float32\nengine: {memory: 128MiB}\nhttp: {port: 8000}\ngrpc: {port: 9000}\n"
BACK_TIMEOUT_S = 90.0
GONE_TIMEOUT_S = 60.0
STOP_HOSTS = ROOT / "deploy/ray/stop_hosts.py"


class Story:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.hosts = cluster.hosts
        self.wanted: dict[str, list[int]] = {}  # by prompt, the tokens of a single host

    def steps(self) -> Iterator[tuple[str, Step]]:
        yield "one host alone: what the tokens are", self.alone
        yield "`ray up local.yaml` from the laptop", self.ray_up
        yield "`baton up cluster.yaml` on the head", self.baton_up
        yield "the same by Ray's job submission, on the dashboard's loopback", self.job
        yield "the same tokens, prompts read on one host and answers written on others", self.answers
        yield "every link limited to 1 Gbit/s", self.limited
        yield f"{DECODES[1]} is cut off while it answers", self.cut
        yield "`baton down`, `stop_hosts.py`, `ray down`", self.down

    def alone(self) -> Iterator[str]:
        (self.hosts.folder / LAPTOP / "alone.yaml").write_text(ALONE)
        env = {name: value for name, value in self.cluster.env.items() if not name.startswith("RAY_")}
        self.hosts.run(LAPTOP, [f"{BIN}/baton", "up", "alone.yaml"], env=env)
        for prompt in PROMPTS:
            (self.wanted[prompt],) = ask(self.cluster, prompt, target="127.0.0.1:9000").tokens
        self.hosts.run(LAPTOP, [f"{BIN}/baton", "down"], env=env)
        for tokens in self.wanted.values():
            yield f"{len(tokens)} tokens: {tokens[:10]} ..."

    def ray_up(self) -> Iterator[str]:
        self.cluster.write()
        self.cluster.up()
        for node in sorted(self.cluster.wait_for_nodes(), key=lambda node: str(node["address"])):
            named = {name: amount for name, amount in node["resources"].items() if name.startswith("baton_")}
            yield f"{node['address']}  {json.dumps(named)}  pool {node['labels']['baton.dev/pool']}"

    def baton_up(self) -> Iterator[str]:
        self.cluster.baton("up", "~/baton/cluster.yaml")
        hosts = self.hosts_of_workers()
        assert hosts[f"{PREFILL}-0"] == PREFILL, hosts
        assert {hosts["decode-0"], hosts["decode-1"]} == set(DECODES), hosts
        yield from self.cluster.baton("status").rstrip().splitlines()

    def job(self) -> Iterator[str]:
        before = {name: worker["pid"] for name, worker in self.cluster.workers().items()}
        submit = "ray job submit --address http://127.0.0.1:8265 -- baton up ~/baton/cluster.yaml"
        said = self.cluster.on_head(submit).splitlines()
        assert {name: worker["pid"] for name, worker in self.cluster.workers().items()} == before
        yield from (line for line in said if "applied" in line or "succeeded" in line)

    def answers(self) -> Iterator[str]:
        yield from self.asked(PROMPTS[0])

    def limited(self) -> Iterator[str]:
        for name in NAMES:
            self.hosts.limit(name, "1gbit")
        yield from self.asked(PROMPTS[1])
        yield from self.bandwidth()

    def asked(self, prompt: str) -> Iterator[str]:
        before = kv_bytes(self.cluster)
        found = ask(self.cluster, prompt, 4)
        self.check(prompt, found)
        yield f"4 answers of {MAX_TOKENS} tokens, equal to those of one host, in {found.seconds:.2f} s"
        yield f"{self.crossed(before) / 1e6:.1f} MB of KV went from {PREFILL} to {' and '.join(DECODES)}"

    def bandwidth(self) -> Iterator[str]:
        """What the link lets through, by 64 MiB over one connection."""
        code = (
            "import socket, sys, time; s = socket.create_server((sys.argv[1], 5001)); print('up', flush=True); "
            "c, _ = s.accept(); b = time.monotonic(); n = 0\nwhile d := c.recv(1 << 20): n += len(d)\n"
            "print(n * 8 / (time.monotonic() - b) / 1e6)"
        )
        address = self.hosts.address(DECODES[0])
        sink = self.hosts.popen(DECODES[0], [f"{BIN}/python", "-c", code, address])
        assert sink.stdout is not None
        assert sink.stdout.readline().strip() == "up"
        send = (
            f"import socket; c = socket.create_connection(({address!r}, 5001)); c.sendall(bytes(64 << 20)); c.close()"
        )
        self.hosts.run(PREFILL, [f"{BIN}/python", "-c", send])
        rate = float(sink.stdout.read())
        assert 300 < rate < 1100, f"{rate} Mbit/s"
        yield f"{PREFILL} sends {DECODES[0]} {rate:.0f} Mbit/s"

    def cut(self) -> Iterator[str]:
        away = next(name for name, host in self.hosts_of_workers().items() if host == DECODES[1])
        before = self.cluster.workers()[away]
        prompt = PROMPTS[2]
        asking = Asking(self.cluster, prompt, 8)
        self.hosts.cut(DECODES[1])
        found = asking.answers()
        self.check(prompt, found)
        yield f"8 answers under way went on with the same tokens, in {found.seconds:.1f} s in all"
        late = ask(self.cluster, prompt, 2)
        self.check(prompt, late)
        yield f"2 more, asked while the host is away: the same tokens, in {late.seconds:.1f} s"
        yield from (line for line in self.cluster.baton("status").splitlines() if line.startswith("pools."))
        self.hosts.mend(DECODES[1])
        begin = time.monotonic()
        while self.worker_is_old(away, str(before["incarnation"])):
            assert time.monotonic() - begin < BACK_TIMEOUT_S, self.cluster.baton("status")
            time.sleep(1)
        assert self.hosts_of_workers()[away] == DECODES[1]
        self.check(prompt, ask(self.cluster, prompt, 2))
        yield f"{away} serves again on {DECODES[1]}, {time.monotonic() - begin:.1f} s after the host was back"

    def down(self) -> Iterator[str]:
        self.cluster.baton("down")
        yield "`baton down`: " + self.left("ray::WorkerShell", "no worker's process is left on any host")
        self.cluster.on_laptop(f"{BIN}/python", str(STOP_HOSTS), "local.yaml", "--clean")
        self.cluster.ray("down", "--yes", "local.yaml")
        begin = time.monotonic()
        while rest := {name: found for name in NAMES if (found := self.ray_processes(name))}:
            assert time.monotonic() - begin < GONE_TIMEOUT_S, rest
            time.sleep(0.5)
        yield "`stop_hosts.py --clean`, `ray down`: no process of Ray's or Baton's is left on any host"
        for name in NAMES[:-1]:
            found = self.files(name)
            assert not any(Path(path).name.startswith(("ray", "baton")) for path in found), found
            yield f"{name}: files left: {' '.join(found) or 'none'}"

    # What is there.

    def check(self, prompt: str, found: Answers) -> None:
        wanted = self.wanted[prompt]
        assert all(tokens == wanted for tokens in found.tokens), (found.tokens, wanted)

    def crossed(self, before: int) -> int:
        deadline = time.monotonic() + 10
        while (now := kv_bytes(self.cluster)) <= before:
            assert time.monotonic() < deadline, "no KV came over"
            time.sleep(0.5)
        return now - before

    def hosts_of_workers(self) -> dict[str, str]:
        names = {host.address: name for name, host in self.hosts.by_name.items()}
        return {one: names[worker["address"].rpartition(":")[0]] for one, worker in self.cluster.workers().items()}

    def worker_is_old(self, name: str, incarnation: str) -> bool:
        worker = self.cluster.workers()[name]
        return bool(worker["incarnation"] == incarnation or worker["phase"] != "ready")

    def ray_processes(self, name: str) -> list[str]:
        """Command lines of all processes but SSH's."""
        lines = [" ".join(process) for process in self.hosts.command_lines(name)]
        return [line for line in lines if line and "sshd" not in line]

    def left(self, word: str, fine: str) -> str:
        found = [line for name in (HEAD, PREFILL, *DECODES) for line in self.ray_processes(name) if word in line]
        assert not found, found
        return fine

    def files(self, name: str) -> list[str]:
        """In the home and in /tmp."""
        said = self.hosts.run(name, ["sh", "-c", "find ~ /tmp -mindepth 1 -maxdepth 1 | sort"]).stdout.split()
        own = ("/srv/.ssh", str(ROOT), str(self.hosts.folder))  # what is shared may be in /tmp, in folders of its own
        return [path for path in said if not any(one == path or one.startswith(f"{path}/") for one in own)]
