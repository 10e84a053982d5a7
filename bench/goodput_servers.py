"""What `bench.goodput` asks: Baton's workers behind a dispatcher, and vLLM's server."""

import asyncio
import contextlib
import os
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.errors import BatonError, UnavailableError
from bench.fidelity.real_runs import prompt_of
from cluster.config.schema import BatonConfig
from cluster.contracts.simulation import Arrival
from cluster.host.ports import free_ports
from cluster.load.backend import Sampling
from cluster.load.openai_backend import OpenAIBackend
from cluster.load.record import Record
from cluster.load.requests import LoadRequest, Segment
from cluster.profiling.local_cluster import LocalCluster, greedy, local_cluster
from cluster.profiling.specs import worker_specs

TIMEOUT_S = 600.0
VLLM_START_S = 240.0
STOP_TIMEOUT_S = 20.0
VLLM_GIB = 2  # of KV
MAX_VLLM_LEN = 2048
VOCAB = 512  # every model that is served has as many
NUM_LOG_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class BatonServer:
    cluster: LocalCluster
    max_model_len: int
    block_size: int

    async def send(self, index: int, arrival: Arrival, record: Record) -> None:
        prompt = prompt_of(index, arrival, self.block_size)
        record.prompt_tokens, record.output_tokens = arrival.num_prompt_tokens, arrival.num_output_tokens
        try:
            async for _ in self.cluster.generate(prompt, greedy(arrival.num_output_tokens), TIMEOUT_S):
                record.token_s.append(time.perf_counter())
        except BatonError as error:
            record.error = error.code


@contextlib.asynccontextmanager
async def baton_server(config: BatonConfig) -> AsyncIterator[BatonServer]:
    async with local_cluster(worker_specs(config), config.router) as cluster:
        states = [view.state for view in cluster.dispatcher.states()]
        longest = min(state.max_model_len for state in states if state is not None)
        yield BatonServer(cluster=cluster, max_model_len=longest, block_size=config.engine.block_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMServer:
    backend: OpenAIBackend
    sampling: Sampling
    max_model_len: int

    async def send(self, index: int, arrival: Arrival, record: Record) -> None:
        segment = Segment(key=(0, index), length=arrival.num_prompt_tokens)
        request = LoadRequest(index=index, segments=(segment,), output_len=arrival.num_output_tokens)
        await self.backend.send(self.backend.encode(request, self.sampling), record)


@contextlib.asynccontextmanager
async def vllm_server(python: Path, folder: str, dtype: str, cores: Sequence[int]) -> AsyncIterator[VLLMServer]:
    """One server on all cores.

    Raises:
        UnavailableError: It ended, or did not serve in time; says its last lines.
    """
    (port,) = free_ports("127.0.0.1", 1)
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "m"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--max-model-len", str(MAX_VLLM_LEN)]
    env = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(VLLM_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
    }
    with tempfile.NamedTemporaryFile(prefix="baton-bench-vllm-", suffix=".log") as log:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=log, stderr=log, env=env)
        backend = OpenAIBackend(f"http://127.0.0.1:{port}", is_chat=False)
        try:
            await _served(backend, process, Path(log.name))
            sampling = Sampling(
                model="m", seed=1, vocab_size=VOCAB, temperature=0.0, ignore_eos=True, timeout_s=TIMEOUT_S
            )
            yield VLLMServer(backend=backend, sampling=sampling, max_model_len=MAX_VLLM_LEN)
        finally:
            await backend.close()
            await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _served(backend: OpenAIBackend, process: Process, log: Path) -> None:
    deadline_s = time.monotonic() + VLLM_START_S
    while True:
        with contextlib.suppress(UnavailableError):
            await backend.models()
            return
        if process.returncode is not None or time.monotonic() > deadline_s:
            text = await asyncio.to_thread(log.read_text, errors="replace")
            tail = "\n".join(text.splitlines()[-NUM_LOG_LINES:])
            raise UnavailableError(f"vLLM does not serve: {tail}")
        await asyncio.sleep(0.5)
