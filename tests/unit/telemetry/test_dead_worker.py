"""A scrape never waits for a worker: real worker processes without a model behind a real dispatcher, one of them
stopped."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import httpx

from baton.v1.inference_pb2 import SamplingParams
from cluster.config.schema import HealthConfig, RouterConfig
from cluster.ingress.metrics import Metrics
from cluster.router.dispatcher import Dispatcher, DispatchRequest
from cluster.router.workers import WorkerEntry
from tests.doors.processes import worker, worker_spec
from workers.spec import Role, WorkerSpec
from workers.telemetry.token import metrics_token

SECRET = "s"


def spec(role: Role) -> WorkerSpec:
    return replace(worker_spec(role), worker_id=f"{role}-0", secret=SECRET, served_name="demo")


def dispatcher(addresses: dict[Role, str]) -> Dispatcher:
    entries = [
        WorkerEntry(worker_id=f"{role}-0", incarnation="i1", role=role, address=address)
        for role, address in addresses.items()
    ]

    async def fetch() -> list[WorkerEntry]:
        return entries

    return Dispatcher(
        ingress_id="i",
        secret=SECRET,
        config=RouterConfig(disaggregate_over_tokens=8),
        health=HealthConfig(),
        fetch_workers=fetch,
    )


async def scraped_when(metrics: Metrics, is_so: Callable[[str], bool]) -> str:
    deadline = time.monotonic() + 30
    while not is_so(text := (await metrics.text()).decode()):
        assert time.monotonic() < deadline, text
        await asyncio.sleep(0.05)
    return text


def value(text: str, name: str, worker_id: str) -> float:
    found = re.search(rf'^{name}{{[^}}]*worker="{worker_id}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else float("nan")


async def answer(router: Dispatcher, num_tokens: int) -> None:
    request = DispatchRequest(
        request_id="r",
        prompt_token_ids=list(range(1, 41)),
        sampling=SamplingParams(n=1, max_tokens=num_tokens, seed=1, ignore_eos=True),
        deadline_s=time.monotonic() + 60,
    )
    async for _ in router.generate(request):
        pass


async def test_of_a_stopped_worker_the_last_words_are_told_at_once() -> None:
    with worker(spec(Role.PREFILL)) as prefill, worker(spec(Role.DECODE)) as decode:
        router = dispatcher({Role.PREFILL: prefill.told["address"], Role.DECODE: decode.told["address"]})
        metrics = Metrics(router.states, counters=lambda: {"demo": router.counters})
        await router.start()
        await scraped_when(metrics, lambda text: text.count('baton_worker_up{model="demo"') == 2)
        await answer(router, 5)
        told = await scraped_when(
            metrics,
            lambda text: (
                value(text, "baton_worker_kv_transfer_seconds_count", "prefill-0") == 1
                and value(text, "baton_worker_output_tokens_total", "decode-0") == 4
            ),
        )
        assert value(told, "baton_worker_prefill_seconds_count", "prefill-0") == 1
        assert value(told, "baton_worker_queue_seconds_count", "prefill-0") == 1
        assert value(told, "baton_worker_kv_sent_bytes_total", "prefill-0") > 0
        assert value(told, "baton_worker_prefix_query_tokens_total", "prefill-0") == 40
        assert "baton_queue_seconds_count" in told
        await each_tells_itself(metrics)

        os.kill(decode.process.pid, signal.SIGSTOP)
        down = await scraped_when(metrics, lambda text: value(text, "baton_worker_up", "decode-0") == 0)
        assert value(down, "baton_worker_output_tokens_total", "decode-0") == 4
        assert value(down, "baton_worker_state_age_seconds", "decode-0") > 0.5
        assert value(down, "baton_worker_up", "prefill-0") == 1
        began_s = time.monotonic()
        await asyncio.wait_for(metrics.text(), 1.0)
        assert time.monotonic() - began_s < 1.0
        assert len(metrics.targets()) == 2  # Prometheus shall see by itself that it is down
        await router.close()


async def each_tells_itself(metrics: Metrics) -> None:
    headers = {"Authorization": f"Bearer {metrics_token(SECRET)}"}
    async with httpx.AsyncClient(headers=headers, timeout=10) as http:
        for target in metrics.targets():
            (address,) = target["targets"]
            page = await http.get(f"http://{address}/metrics")
            assert f'worker="{target["labels"]["__meta_baton_worker"]}"' in page.text
            assert (await httpx.AsyncClient().get(f"http://{address}/metrics")).status_code == 401
