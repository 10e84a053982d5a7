"""The page and all behind it in one process, for a browser: an ingress's app with fake workers, on its own thread."""

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.contracts.finished import FinishedRequest
from cluster.ingress.cluster_api.view import ClusterView, Fleet
from cluster.ingress.http_api import build_app
from cluster.router.handovers import Handed, Pair
from cluster.router.workers import WorkerView
from tests.background import BackgroundLoop
from tests.doors.keyed import Keyed, keyed_ingress
from tests.unit.ingress.cluster_api.fleets import GOOD, FakeController, ended, worker
from tests.unit.ingress.fakes import FakeDispatcher, demo_service, serving
from workers.spec import Role


class Below:
    """A proxy that serves an app below a path, as nginx does: what is asked elsewhere is not there."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].startswith(self._prefix + "/"):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        path = scope["path"].removeprefix(self._prefix)
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


@dataclass
class Site:
    url: str
    fake: FakeDispatcher
    view: ClusterView
    controller: FakeController
    background: BackgroundLoop = field(repr=False)

    def show(self, views: Sequence[WorkerView]) -> None:
        self.fake.views = list(views)

    def hand_over(self, prefill: str, decode: str, num_tokens: int) -> None:
        """Shown at the next look, and at those of the five seconds after."""
        self.fake.handovers.add(prefill, decode, num_tokens)
        for fleet in self.view._fleets():
            fleet.handed = {Pair(prefill, decode): Handed(1, num_tokens)}

    def finish(self, *requests: FinishedRequest) -> None:
        for one in requests:
            self.view.window.tell(one)


@contextmanager
def site(prefix: str = "", second: Sequence[WorkerView] = ()) -> Iterator[Site]:
    """`second`: workers of another model, if any."""
    background = BackgroundLoop()
    stack = AsyncExitStack()

    async def start() -> Site:
        service, fake = demo_service()
        stack.callback(service.close)
        controller = FakeController()
        fleets = [Fleet(model="demo", dispatcher=fake, ask=controller)]
        if second:
            other = FakeDispatcher(fake._tokenizer)
            other.views = list(second)
            fleets.append(Fleet(model="small", dispatcher=other))
        view = ClusterView(lambda: fleets, GOOD)
        service.on_finished.append(view.window.tell)
        app: ASGIApp = build_app(service, view=view)
        url = await stack.enter_async_context(serving(Below(app, prefix) if prefix else app))  # type: ignore[arg-type]
        stack.push_async_callback(view.close)
        return Site(f"{url}{prefix}/", fake, view, controller, background)

    try:
        yield background.run(start())
    finally:
        background.run(stack.aclose())
        background.stop()


@contextmanager
def keyed_site(file: Path) -> Iterator[tuple[Keyed, BackgroundLoop]]:
    background = BackgroundLoop()
    stack = AsyncExitStack()
    try:
        yield background.run(stack.enter_async_context(keyed_ingress(file))), background
    finally:
        background.run(stack.aclose())
        background.stop()


def some_workers(step: int = 0) -> list[WorkerView]:
    """Two pools that are busy; counts grow with `step`."""
    busy = {"max_sequences": 64, "step_s": 0.031, "num_steps": 900 + step}
    prefills = [
        worker(
            f"prefill-{number}",
            Role.PREFILL,
            num_running=number + 1,
            num_waiting=2 * number,
            num_waiting_tokens=512 * number,
            num_referenced_blocks=20 + 10 * number,
            num_prompt_tokens=10_000 + 900 * step,
            num_prefix_hit_tokens=4_000 + 300 * step,
            kv_bytes_sent=10**8 + step * 23_000_000 * (number + 1),
            num_transfers=1,
            **busy,
        )
        for number in range(2)
    ]
    decodes = [
        worker(
            f"decode-{number}",
            Role.DECODE,
            num_running=12 + 9 * number,
            num_referenced_blocks=35 + 12 * number,
            num_quarantined_blocks=3 * number,
            num_output_tokens=50_000 + 160 * step,
            kv_bytes_received=10**8 + step * 15_000_000 * (number + 1),
            drafted_by_place=[900 + 40 * step, 500 + 22 * step],
            accepted_by_place=[700 + 30 * step, 300 + 12 * step],
            drafters=["ngram"],
            **busy,
        )
        for number in range(3)
    ]
    return [*prefills, *decodes]


def many_workers(count: int, step: int = 0) -> list[WorkerView]:
    return [
        worker(
            f"{'prefill' if number % 3 == 0 else 'decode'}-{number}",
            Role.PREFILL if number % 3 == 0 else Role.DECODE,
            num_running=(number * 7 + step) % 64,
            max_sequences=64,
            num_referenced_blocks=(number * 13 + step * 3) % 100,
            num_output_tokens=1000 * step + number,
            kv_bytes_sent=10**6 * step * (number % 5),
            kv_bytes_received=10**6 * step * (number % 4),
            step_s=0.02,
        )
        for number in range(count)
    ]


def some_requests(count: int) -> list[FinishedRequest]:
    return [ended(ttft_s=0.1 + 0.01 * (number % 40), tpot_s=0.02 + 0.001 * (number % 25)) for number in range(count)]
