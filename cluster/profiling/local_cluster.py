"""Worker processes and a dispatcher on this machine, without Ray: what benchmarks and tests below the fleet use."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baton.v1.inference_pb2 import SamplingParams
from baton.v1.worker_pb2 import TokenOutput
from cluster.config.schema import HealthConfig, RouterConfig
from cluster.router.dispatcher import Dispatcher, DispatchRequest
from cluster.router.workers import WorkerEntry
from workers.spec import WorkerSpec
from workers.spec_line import dump

START_TIMEOUT_S = 120.0


def greedy(num_outputs: int) -> SamplingParams:
    """Exactly so many tokens, the likeliest each."""
    return SamplingParams(max_tokens=num_outputs, temperature=0.0, seed=1, n=1, ignore_eos=True)


class WorkerProcess:
    """One worker in its own process, or one each for the ranks of a gang. Not thread-safe.

    Args:
        spec: Of the leader.
        module: What runs; it speaks as `workers.process` does.
        others: Of the other ranks. They start when the leader says where it waits for them.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        log: Path | None = None,
        module: str = "workers.process",
        others: Sequence[WorkerSpec] = (),
    ) -> None:
        self.spec = spec
        self.others: list[subprocess.Popen[bytes]] = []
        self._other_specs = others
        self._module = module
        self.facts: dict[str, Any] = {}  # what it said of itself when it was ready
        self.incarnation = uuid.uuid4().hex[:8]
        self.address = ""
        self._log_path = log or Path(tempfile.gettempdir()) / f"baton-bench-{os.getpid()}-{spec.worker_id}.log"
        self._process = self._spawn(spec)

    def _spawn(self, spec: WorkerSpec) -> subprocess.Popen[bytes]:
        env = dict(os.environ)
        if spec.cores or spec.num_threads:
            env["OMP_NUM_THREADS"] = str(spec.num_threads or len(spec.cores))
        process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_path.open("ab"),
            env=env,
            cwd=Path(__file__).resolve().parent.parent,
        )
        assert process.stdin is not None
        process.stdin.write((dump(spec, self.incarnation) + "\n").encode())
        process.stdin.flush()
        return process

    def wait_ready(self) -> WorkerEntry:
        """Blocks until the worker serves.

        Raises:
            RuntimeError: It ended, or took longer than START_TIMEOUT_S.
        """
        assert self._process.stdout is not None
        timer = threading.Timer(START_TIMEOUT_S, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        if line and self._other_specs:
            lobby = json.loads(line)["lobby"]
            for spec in self._other_specs:
                self.others.append(self._spawn(replace(spec, gang=replace(spec.gang, lobby=lobby))))
            line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise RuntimeError(f"worker {self.spec.worker_id} ended while it started; see {self._log_path}")
        self.facts = json.loads(line)
        self.address = self.facts["address"]
        return self.entry

    def ask(self, question: Any = None) -> Any:
        """What the process answers to a line, empty or JSON; blocks. Only for modules that do."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n" if question is None else json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"worker {self.spec.worker_id} ended; see {self._log_path}")
        return json.loads(answer)

    @property
    def entry(self) -> WorkerEntry:
        return WorkerEntry(
            worker_id=self.spec.worker_id, incarnation=self.incarnation, role=self.spec.role, address=self.address
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: nothing is cleaned up."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout_s: float) -> int:
        """Until the leader's process has ended; its exit status. Raises: subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        """The other ranks end with the leader."""
        for process in (self._process, *self.others):
            _stop(process)


def by_worker(specs: Sequence[WorkerSpec]) -> list[list[WorkerSpec]]:
    """The specs of each worker's ranks, the leader first."""
    found: dict[str, list[WorkerSpec]] = {}
    for spec in sorted(specs, key=lambda spec: spec.gang.rank):
        found.setdefault(spec.worker_id, []).append(spec)
    return list(found.values())


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@dataclass(slots=True)
class TimedChoice:
    """One choice, with the time of arrival (monotonic, s) of each token."""

    token_ids: list[int]
    arrived_s: list[float]
    outputs: list[TokenOutput]


class LocalCluster:
    """Workers and one dispatcher; `entries` is what the dispatcher sees of the fleet."""

    def __init__(self, router: RouterConfig | None = None, secret: str = "s3cret") -> None:
        self.secret = secret
        self.workers: dict[str, WorkerProcess] = {}
        self.dispatcher = Dispatcher(
            ingress_id=uuid.uuid4().hex[:8],
            secret=secret,
            config=router or RouterConfig(),
            health=HealthConfig(),
            fetch_workers=self.entries,
        )

    async def entries(self) -> Sequence[WorkerEntry]:
        return [worker.entry for worker in self.workers.values() if worker.address]

    async def start(
        self, specs: Sequence[WorkerSpec], log: Path | None = None, module: str = "workers.process"
    ) -> None:
        """Starts workers side by side; the dispatcher sees each once it serves.

        Args:
            specs: Of all ranks; those of one worker have its id.
        """
        started = [WorkerProcess(leader, log, module, others) for leader, *others in by_worker(specs)]
        self.workers |= {worker.spec.worker_id: worker for worker in started}  # `close` ends all, whichever fails
        for worker in started:
            await asyncio.to_thread(worker.wait_ready)

    async def all_up(self, timeout_s: float = 10.0) -> None:
        """Waits until the dispatcher has heard from every worker: what is sent before goes to those it has."""
        async with asyncio.timeout(timeout_s):
            while sum(view.up and view.state is not None for view in self.dispatcher.states()) < len(self.workers):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def generate(
        self, prompt: Sequence[int], sampling: SamplingParams, timeout_s: float = 120.0, request_id: str = ""
    ) -> AsyncIterator[list[TokenOutput]]:
        request = DispatchRequest(
            request_id=request_id or uuid.uuid4().hex,
            prompt_token_ids=prompt,
            sampling=sampling,
            deadline_s=time.monotonic() + timeout_s,
        )
        async with contextlib.aclosing(self.dispatcher.generate(request)) as stream:
            async for outputs in stream:
                yield outputs

    async def answer(
        self, prompt: Sequence[int], sampling: SamplingParams, timeout_s: float = 120.0
    ) -> list[TimedChoice]:
        """All choices of one request, whole."""
        answers = [TimedChoice([], [], []) for _ in range(sampling.n or 1)]
        async for outputs in self.generate(prompt, sampling, timeout_s):
            now_s = time.monotonic()
            for output in outputs:
                answer = answers[output.choice]
                answer.outputs.append(output)
                answer.token_ids.extend(output.token_ids)
                answer.arrived_s.extend([now_s] * len(output.token_ids))
        return answers

    async def close(self) -> None:
        await self.dispatcher.close()
        for worker in self.workers.values():
            await asyncio.to_thread(worker.stop)


@contextlib.asynccontextmanager
async def local_cluster(
    specs: Sequence[WorkerSpec],
    router: RouterConfig | None = None,
    log: Path | None = None,
    module: str = "workers.process",
) -> AsyncIterator[LocalCluster]:
    """A running cluster; the specs' secret must be the cluster's ("s3cret")."""
    cluster = LocalCluster(router)
    try:
        await cluster.start(specs, log, module)
        await cluster.dispatcher.start()
        await cluster.all_up()
        yield cluster
    finally:
        await cluster.close()
