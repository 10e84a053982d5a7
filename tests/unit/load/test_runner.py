"""When requests are sent, under a virtual clock: by the clock or by the answers, and what an interruption leaves."""

import asyncio

import pytest

from cluster.load.backend import Sampling, ServedModel
from cluster.load.record import Record
from cluster.load.requests import LoadRequest
from cluster.load.runner import Run, Runner
from tests.unit.load.virtual import now_s, run_virtual

SAMPLING = Sampling(model="m", seed=0, vocab_size=10, temperature=0.0, ignore_eos=True, timeout_s=60.0)


class _Server:
    """Each request takes 1 s to its first token and 0.5 s for each of `output_len` - 1 further ones."""

    def __init__(self) -> None:
        self.num_running = 0
        self.peak = 0
        self.num_left = 0

    async def models(self) -> list[ServedModel]:
        return []

    def encode(self, request: LoadRequest, sampling: Sampling) -> LoadRequest:
        return request

    async def send(self, payload: LoadRequest, record: Record) -> None:
        self.num_running += 1
        self.peak = max(self.peak, self.num_running)
        try:
            for gap_s in (1.0, *[0.5] * (payload.output_len - 1)):
                await asyncio.sleep(gap_s)
                record.token_s.append(now_s())
                record.output_tokens += 1
        except asyncio.CancelledError:
            self.num_left += 1
            raise
        finally:
            self.num_running -= 1

    async def close(self) -> None:
        """Nothing is held."""


def _requests(*arrivals_s: float | None, output_len: int = 3) -> list[LoadRequest]:
    return [
        LoadRequest(index=index, text="x", output_len=output_len, arrival_s=arrival_s)
        for index, arrival_s in enumerate(arrivals_s)
    ]


def _run(server: _Server, requests: list[LoadRequest], concurrency: int | None, stop_s: float | None = None) -> Run:
    ended: list[Record] = []

    async def work() -> Run:
        runner = Runner(server, SAMPLING, clock=now_s, on_done=ended.append)
        task = asyncio.create_task(runner.run(requests, concurrency=concurrency))
        if stop_s is not None:
            await asyncio.sleep(stop_s)
            task.cancel()
        return await task

    run = run_virtual(work())
    assert [record.index for record in run.records if record.is_done] == sorted(record.index for record in ended)
    return run


def test_an_open_loop_sends_on_time_whatever_still_runs() -> None:
    server = _Server()
    run = _run(server, _requests(0.0, 0.25, 0.5, 10.0), None)
    assert [record.sent_s - run.start_s for record in run.records] == pytest.approx([0.0, 0.25, 0.5, 10.0])
    assert [record.sent_s - record.due_s for record in run.records] == pytest.approx([0.0] * 4)
    assert server.peak == 3
    assert run.duration_s == pytest.approx(12.0)


def test_a_closed_loop_keeps_exactly_the_concurrency() -> None:
    server = _Server()
    run = _run(server, _requests(*[None] * 5), 2)
    assert server.peak == 2
    assert [record.sent_s - run.start_s for record in run.records] == pytest.approx([0, 0, 2, 2, 4])
    assert run.duration_s == pytest.approx(6.0)


def test_records_hold_the_servers_delays() -> None:
    run = _run(_Server(), _requests(0.0, 0.1), None)
    for record in run.records:
        assert record.ttft_s == pytest.approx(1.0)
        assert record.itls_s == pytest.approx([0.5, 0.5])
        assert record.tpot_s == pytest.approx(0.5)
        assert record.e2el_s == pytest.approx(2.0)


@pytest.mark.parametrize("concurrency", [None, 2], ids=["open", "closed"])
def test_an_interruption_cancels_what_runs_and_keeps_what_ended(concurrency: int | None) -> None:
    server = _Server()
    arrivals_s = (0.0, 1.5, 100.0) if concurrency is None else (None, None, None)
    run = _run(server, _requests(*arrivals_s), concurrency, stop_s=2.5)
    assert run.is_interrupted
    done = 1 if concurrency is None else 2
    assert [record.is_done for record in run.records] == [True] * done + [False]
    assert server.num_left == 1
    assert server.num_running == 0
    assert run.duration_s == pytest.approx(2.5)
