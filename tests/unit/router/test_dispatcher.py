"""The dispatcher against fake workers over real loopback gRPC."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from types import SimpleNamespace

import pytest

from baton.errors import (
    BatonError,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
)
from baton.v1.inference_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_UNSPECIFIED,
    SamplingParams,
)
from baton.v1.worker_pb2 import FromWorker, TokenOutput, WorkerError
from cluster.config.schema import HealthConfig, RouterConfig
from cluster.router.dispatcher import Dispatcher, DispatchRequest
from cluster.router.workers import WorkerKey
from tests.fake_worker import SECRET, FakeCluster, FakeWorker, Script, fake_tokens
from workers.engine.block_hash import block_hashes
from workers.spec import Role

LONG = list(range(100, 200))  # above disaggregate_over_tokens
SHORT = [1, 2, 3]
_numbers = itertools.count()


def _request(
    prompt: Sequence[int] = LONG,
    *,
    max_tokens: int = 20,
    n: int = 1,
    timeout_s: float = 20.0,
    stop_token_ids: Sequence[int] = (),
) -> DispatchRequest:
    return DispatchRequest(
        request_id=f"r{next(_numbers)}",
        prompt_token_ids=prompt,
        sampling=SamplingParams(n=n, max_tokens=max_tokens, seed=1, stop_token_ids=stop_token_ids),
        deadline_s=time.monotonic() + timeout_s,
    )


@contextlib.asynccontextmanager
async def _dispatching(
    cluster: FakeCluster,
    *,
    secret: str = SECRET,
    wait: bool = True,
    health: HealthConfig | None = None,
    model: str = "",
    **router: int,
) -> AsyncIterator[Dispatcher]:
    """A dispatcher that is connected to every worker; nothing of a request may be left at the end."""
    dispatcher = Dispatcher(
        ingress_id=f"ingress-{next(_numbers)}",
        secret=secret,
        config=RouterConfig(**router),
        health=health or HealthConfig(start_timeout_s=10.0),
        fetch_workers=cluster.fetch,
        model=model,
        rng=Random(0),
    )
    await dispatcher.start()
    try:
        if wait:
            await _until(lambda: all(view.up for view in dispatcher.states()))
        yield dispatcher
        _check_empty(dispatcher)
    finally:
        await dispatcher.close()


def _check_empty(dispatcher: Dispatcher) -> None:
    assert len(dispatcher._requests) == 0
    assert not dispatcher._requests._unrouted
    assert dispatcher.counters.num_running == dispatcher.counters.num_queued == 0
    assert not dispatcher._links.table._outstanding
    assert all(load.num_outstanding == 0 for load in dispatcher._links.table.pools.by_id.values())


async def _until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what tests look at sets no event
            await asyncio.sleep(0.01)


class _Reader:
    """Reads a request and checks order, repetition and ends on the way."""

    def __init__(self, num_choices: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(num_choices)]
        self.reasons: list[int] = [FINISH_REASON_UNSPECIFIED] * num_choices
        self.cached = [0] * num_choices

    def take(self, output: TokenOutput) -> None:
        assert output.index == len(self.tokens[output.choice])
        assert self.reasons[output.choice] == FINISH_REASON_UNSPECIFIED
        self.tokens[output.choice] += output.token_ids
        self.reasons[output.choice] = output.finish_reason
        self.cached[output.choice] += output.num_cached_tokens


async def _read(
    dispatcher: Dispatcher,
    request: DispatchRequest,
    on_output: Callable[[TokenOutput], Awaitable[None]] | None = None,
) -> _Reader:
    reader = _Reader(request.sampling.n)
    async with contextlib.aclosing(dispatcher.generate(request)) as stream:
        async for outputs in stream:
            for output in outputs:
                reader.take(output)
                if on_output is not None:
                    await on_output(output)
    return reader


def _kill_at(worker: FakeWorker, index: int) -> Callable[[TokenOutput], Awaitable[None]]:
    async def kill(output: TokenOutput) -> None:
        if output.index == index:
            await worker.die()

    return kill


async def test_a_long_prompt_is_read_by_prefill_and_answered_by_decode() -> None:
    async with FakeCluster(prefill=1, decode=1) as cluster, _dispatching(cluster) as dispatcher:
        reader = await _read(dispatcher, _request())
        assert reader.tokens == [fake_tokens(LONG, 0, 20)]
        assert reader.reasons == [FINISH_REASON_LENGTH]
        assert [len(worker.submits) for worker in cluster.workers] == [1, 0]
        submit = cluster.workers[0].submits[0]
        assert submit.decode.worker_id == "decode-1"
        assert 0.0 < submit.timeout_s <= 20.0
        assert dispatcher.counters.finished == {"length": 1}


async def test_a_short_prompt_goes_straight_to_decode() -> None:
    async with FakeCluster(prefill=1, decode=1) as cluster, _dispatching(cluster) as dispatcher:
        reader = await _read(dispatcher, _request(SHORT))
        assert reader.tokens == [fake_tokens(SHORT, 0, 20)]
        assert [len(worker.submits) for worker in cluster.workers] == [0, 1]
        assert not cluster.workers[1].submits[0].HasField("decode")


async def test_a_prompt_that_decode_has_cached_goes_straight_to_it() -> None:
    async with FakeCluster(prefill=1, decode=2) as cluster:
        holder = cluster.of(Role.DECODE)[1]
        holder.cached_hashes = block_hashes(LONG, 16)
        async with _dispatching(cluster) as dispatcher:
            await _read(dispatcher, _request())
        assert [len(worker.submits) for worker in cluster.workers] == [0, 0, 1]


async def test_decode_tokens_that_overtake_the_first_token_wait_for_it() -> None:
    script = Script(first_token_delay_s=0.1, step_s=0.001)
    async with FakeCluster(prefill=1, decode=1, script=script) as cluster, _dispatching(cluster) as dispatcher:
        reader = await _read(dispatcher, _request())
        assert reader.tokens == [fake_tokens(LONG, 0, 20)]


async def test_a_request_survives_its_decode_worker() -> None:
    async with FakeCluster(prefill=1, decode=2) as cluster, _dispatching(cluster) as dispatcher:
        seen: list[int] = []

        async def kill(output: TokenOutput) -> None:
            seen.append(output.index)
            if output.index == 5:
                victim = next(worker for worker in cluster.of(Role.DECODE) if worker.num_running)
                await victim.die()

        reader = await _read(dispatcher, _request(), kill)
        assert reader.tokens == [fake_tokens(LONG, 0, 20)]
        assert reader.cached == [4]
        retry = cluster.of(Role.PREFILL)[0].submits[1]
        assert retry.attempt == 1
        inherited = list(retry.choices[0].output_token_ids)
        assert len(inherited) > 5
        assert inherited == reader.tokens[0][: len(inherited)]
        assert dispatcher.counters.num_retries == 1


async def test_a_request_survives_its_prefill_worker_before_the_first_token() -> None:
    script = Script(prefill_s=0.3)
    async with FakeCluster(prefill=2, decode=1, script=script) as cluster, _dispatching(cluster) as dispatcher:
        reading = asyncio.create_task(_read(dispatcher, _request()))
        await _until(lambda: any(worker.num_running for worker in cluster.of(Role.PREFILL)))
        await next(worker for worker in cluster.of(Role.PREFILL) if worker.num_running).die()
        assert (await reading).tokens == [fake_tokens(LONG, 0, 20)]
        assert dispatcher.counters.num_retries == 1


async def test_losing_prefill_after_the_hand_over_costs_nothing() -> None:
    async with FakeCluster(prefill=1, decode=1) as cluster, _dispatching(cluster) as dispatcher:
        reader = await _read(dispatcher, _request(), _kill_at(cluster.workers[0], 4))
        assert reader.tokens == [fake_tokens(LONG, 0, 20)]
        assert dispatcher.counters.num_retries == 0


async def test_a_report_that_is_missed_has_the_worker_tell_its_whole_cache_again() -> None:
    async with FakeCluster(mixed=1) as cluster, _dispatching(cluster) as dispatcher:
        worker, table = cluster.workers[0], dispatcher._links.table
        worker.cached_hashes = [1, 2, 3]
        worker.lose_report()
        await _until(lambda: any(wish.snapshot for wish in worker.wishes))
        await _until(lambda: table.prefix.match(worker.worker_id, [1, 2, 3]) == 3)
        assert [wish.snapshot for wish in worker.wishes].count(True) == 1


async def test_an_idle_worker_that_came_back_to_the_table_is_asked_for_its_state() -> None:
    async with FakeCluster(mixed=2) as cluster, _dispatching(cluster) as dispatcher:
        worker = cluster.workers[0]
        link = dispatcher._links.up(WorkerKey(worker.worker_id, worker.incarnation))
        assert link is not None
        rows, table = list(dispatcher._links.table.entries().values()), dispatcher._links.table
        table.replace(rows[1:])
        table.replace(rows)
        dispatcher._links._receive(link, FromWorker())
        await _until(lambda: any(wish.snapshot for wish in worker.wishes))
        await _until(lambda: table.load(link.key) is not None)


async def test_a_loop_that_dies_of_a_bug_makes_the_ingress_worth_replacing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeCluster(mixed=1) as cluster, _dispatching(cluster) as dispatcher:
        dispatcher.check()
        monkeypatch.setattr(cluster, "workers", [SimpleNamespace(entry=None)])  # no row at all
        await _until(lambda: dispatcher._links._bug is not None)
        with pytest.raises(InternalError, match="a loop of the router has ended: AttributeError"):
            dispatcher.check()


async def test_workers_are_told_how_often_to_report() -> None:
    async with FakeCluster(mixed=2) as cluster, _dispatching(cluster):
        await _until(lambda: all(worker.wishes for worker in cluster.workers))
        assert [wish.interval_s for worker in cluster.workers for wish in worker.wishes] == [0.05, 0.05]


async def test_a_silent_worker_is_lost() -> None:
    async with FakeCluster(decode=2) as cluster, _dispatching(cluster) as dispatcher:

        async def stall(output: TokenOutput) -> None:
            if output.index == 3:
                next(worker for worker in cluster.workers if worker.num_running).script.stalled = True

        reader = await _read(dispatcher, _request(SHORT), stall)
        assert reader.tokens == [fake_tokens(SHORT, 0, 20)]
        assert dispatcher.counters.num_retries == 1


async def test_all_retries_lost_is_unavailable() -> None:
    script = Script(die_after_tokens=3)
    async with (
        FakeCluster(decode=4, script=script) as cluster,
        _dispatching(cluster, max_retries=2) as dispatcher,
    ):
        with pytest.raises(UnavailableError, match=r"lost 3 times \(router.max_retries is 2\)"):
            await _read(dispatcher, _request(SHORT))
        assert dispatcher.counters.finished == {"error": 1}


async def test_a_lost_finish_reason_is_made_up_for() -> None:
    script = Script(withhold_finish=True)
    async with FakeCluster(decode=1, script=script) as cluster, _dispatching(cluster) as dispatcher:
        reader = await _read(dispatcher, _request(SHORT, max_tokens=5), _kill_at(cluster.workers[0], 4))
        assert reader.tokens == [fake_tokens(SHORT, 0, 5)]
        assert reader.reasons == [FINISH_REASON_LENGTH]
        assert dispatcher.counters.num_retries == 0


async def test_a_stop_token_ends_with_its_reason() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster) as dispatcher:
        stop = fake_tokens(SHORT, 0, 4)[3]
        reader = await _read(dispatcher, _request(SHORT, stop_token_ids=[stop]))
        assert reader.tokens == [fake_tokens(SHORT, 0, 4)]
        assert reader.reasons == [FINISH_REASON_STOP]


async def test_preemption_goes_on_elsewhere_without_counting_as_a_loss() -> None:
    script = Script(preempt_after=4)
    async with (
        FakeCluster(prefill=1, decode=2, script=script) as cluster,
        _dispatching(cluster, max_retries=0) as dispatcher,
    ):
        reader = await _read(dispatcher, _request())
        assert reader.tokens == [fake_tokens(LONG, 0, 20)]
        assert dispatcher.counters.num_retries >= 1


async def test_a_retryable_refusal_goes_elsewhere() -> None:
    async with FakeCluster(decode=2) as cluster, _dispatching(cluster) as dispatcher:
        refusing = cluster.workers[0]
        refusing.script.refusal = WorkerError(code="overloaded", message="full", retryable=True)
        for _ in range(6):
            reader = await _read(dispatcher, _request(SHORT))
            assert reader.tokens == [fake_tokens(SHORT, 0, 20)]
        assert refusing.submits


async def test_a_refusal_for_good_is_raised_as_its_error() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster) as dispatcher:
        cluster.workers[0].script.refusal = WorkerError(code="internal", message="it broke", retryable=False)
        with pytest.raises(InternalError, match="it broke"):
            await _read(dispatcher, _request(SHORT))


async def test_closing_the_stream_sends_one_abort_to_both_workers() -> None:
    async with FakeCluster(prefill=1, decode=1) as cluster, _dispatching(cluster) as dispatcher:
        request = _request(max_tokens=1000)
        stream = dispatcher.generate(request)
        await anext(stream)
        await stream.aclose()
        await _until(lambda: all(worker.aborts for worker in cluster.workers))
        await asyncio.sleep(0.05)
        for worker in cluster.workers:
            assert [abort.request_id for abort in worker.aborts] == [request.request_id]
            assert worker.num_running == 0
        assert dispatcher.counters.finished == {"abort": 1}


async def test_choices_are_streamed_together_and_one_can_be_ended() -> None:
    async with FakeCluster(prefill=1, decode=1) as cluster, _dispatching(cluster) as dispatcher:
        request = _request(n=3, max_tokens=30)

        async def end_second(output: TokenOutput) -> None:
            if output.choice == 1 and output.index == 4:
                dispatcher.abort_choice(request.request_id, 1)
                dispatcher.abort_choice(request.request_id, 1)

        reader = await _read(dispatcher, request, end_second)
        assert reader.tokens[0] == fake_tokens(LONG, 0, 30)
        assert reader.tokens[2] == fake_tokens(LONG, 2, 30)
        assert reader.tokens[1] == fake_tokens(LONG, 1, len(reader.tokens[1]))
        assert len(reader.tokens[1]) < 30
        assert len(cluster.workers[0].submits) == 1
        await _until(lambda: bool(cluster.workers[1].aborts))
        assert [list(abort.choices) for abort in cluster.workers[1].aborts] == [[1]]


async def test_ending_the_last_choice_ends_the_stream() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster) as dispatcher:
        request = _request(SHORT, max_tokens=1000)

        async def end(output: TokenOutput) -> None:
            dispatcher.abort_choice(request.request_id, 0)

        reader = await _read(dispatcher, request, end)
        assert reader.tokens[0] == fake_tokens(SHORT, 0, len(reader.tokens[0]))


async def test_a_retry_sends_one_submit_per_unfinished_choice() -> None:
    async with FakeCluster(decode=2) as cluster, _dispatching(cluster) as dispatcher:
        request = _request(SHORT, n=3)

        async def act(output: TokenOutput) -> None:
            if output.choice == 0 and output.index == 3:
                dispatcher.abort_choice(request.request_id, 0)
                await next(worker for worker in cluster.workers if worker.num_running).die()

        reader = await _read(dispatcher, request, act)
        assert reader.tokens[1:] == [fake_tokens(SHORT, 1, 20), fake_tokens(SHORT, 2, 20)]
        retries = [submit for worker in cluster.workers for submit in worker.submits if submit.attempt > 0]
        assert sorted([start.choice for start in submit.choices] for submit in retries) == [[1], [2]]


async def test_a_full_queue_sheds_and_the_queued_ones_follow() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster, max_running=1, max_queue=1) as dispatcher:
        first = asyncio.create_task(_read(dispatcher, _request(SHORT)))
        second = asyncio.create_task(_read(dispatcher, _request(SHORT)))
        await _until(lambda: dispatcher.counters.num_queued == 1)
        with pytest.raises(OverloadedError, match=r"router\.max_queue") as shed:
            await _read(dispatcher, _request(SHORT))
        assert shed.value.retry_after_s >= 1.0
        assert (await first).tokens == (await second).tokens == [fake_tokens(SHORT, 0, 20)]
        assert dispatcher.counters.num_shed == 1


async def test_deadlines_end_running_and_queued_requests() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster, max_running=1) as dispatcher:
        running = asyncio.create_task(_read(dispatcher, _request(SHORT, max_tokens=5000, timeout_s=0.4)))
        await _until(lambda: dispatcher.counters.num_running == 1)
        with pytest.raises(DeadlineExceededError, match="still queued"):
            await _read(dispatcher, _request(SHORT, timeout_s=0.1))
        with pytest.raises(DeadlineExceededError, match="not finished"):
            await running
        await _until(lambda: cluster.workers[0].num_running == 0)
        with pytest.raises(DeadlineExceededError, match="before it arrived"):
            await _read(dispatcher, _request(SHORT, timeout_s=-1.0))


async def test_what_can_never_fit_is_refused_at_once() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster) as dispatcher:
        assert dispatcher.max_model_len == dispatcher.max_request_tokens == 8192
        with pytest.raises(InvalidRequestError, match="ask for 8189 or fewer") as too_much:
            await _read(dispatcher, _request(SHORT, max_tokens=8190))
        assert too_much.value.field == "max_tokens"
        with pytest.raises(InvalidRequestError, match="shorten the prompt"):
            await _read(dispatcher, _request([1] * 8192, max_tokens=1))
        with pytest.raises(InvalidRequestError, match="0 tokens"):
            await _read(dispatcher, _request([]))
        assert not cluster.workers[0].submits


async def test_blocks_bound_what_can_fit() -> None:
    async with FakeCluster() as cluster:
        await cluster.add(Role.DECODE, num_blocks=8)
        async with _dispatching(cluster) as dispatcher:
            assert dispatcher.max_request_tokens == 128


async def test_a_wrong_secret_is_unauthenticated() -> None:
    async with FakeCluster(decode=2) as cluster, _dispatching(cluster, secret="wrong", wait=False) as dispatcher:
        with pytest.raises(UnauthenticatedError, match="baton-secret"):
            await _read(dispatcher, _request(SHORT))
        assert not dispatcher.health().ok


async def test_a_draining_worker_finishes_what_runs_and_takes_nothing_new() -> None:
    async with FakeCluster(decode=2) as cluster, _dispatching(cluster) as dispatcher:
        running = asyncio.create_task(_read(dispatcher, _request(SHORT, max_tokens=300)))
        await _until(lambda: any(worker.num_running for worker in cluster.workers))
        draining = next(worker for worker in cluster.workers if worker.num_running)
        draining.draining = True
        await _until(lambda: any(view.state and view.state.draining for view in dispatcher.states()))
        num_submits = len(draining.submits)
        for _ in range(5):
            await _read(dispatcher, _request(SHORT))
        assert len(draining.submits) == num_submits
        assert (await running).tokens == [fake_tokens(SHORT, 0, 300)]
        assert dispatcher.counters.num_retries == 0


async def test_a_worker_that_left_the_table_finishes_what_runs() -> None:
    async with FakeCluster(decode=2) as cluster, _dispatching(cluster) as dispatcher:
        running = asyncio.create_task(_read(dispatcher, _request(SHORT, max_tokens=600)))
        await _until(lambda: any(worker.num_running for worker in cluster.workers))
        cluster.forget(next(worker for worker in cluster.workers if worker.num_running))
        await _until(lambda: len(dispatcher.states()) == 1)
        assert (await running).tokens == [fake_tokens(SHORT, 0, 600)]
        assert dispatcher.counters.num_retries == 0
        await _until(lambda: len(dispatcher._links._links) == 1)


async def test_the_cluster_serves_on_while_the_controller_is_away() -> None:
    async with FakeCluster(prefill=1, decode=1) as cluster, _dispatching(cluster) as dispatcher:
        cluster.controller_away = True
        await asyncio.sleep(0.7)
        assert (await _read(dispatcher, _request())).tokens == [fake_tokens(LONG, 0, 20)]
        await cluster.add(Role.DECODE)
        cluster.controller_away = False
        await _until(lambda: len(dispatcher.states()) == 3)


async def test_a_request_waits_for_a_replacement() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster) as dispatcher:
        victim = cluster.workers[0]

        async def replace(output: TokenOutput) -> None:
            if output.index == 3:
                await victim.die()
                cluster.forget(victim)
                await cluster.add(Role.DECODE)

        reader = await _read(dispatcher, _request(SHORT), replace)
        assert reader.tokens == [fake_tokens(SHORT, 0, 20)]


async def test_waiting_for_a_worker_has_an_end() -> None:
    health = HealthConfig(start_timeout_s=0.3)
    async with FakeCluster() as cluster, _dispatching(cluster, health=health) as dispatcher:
        with pytest.raises(UnavailableError, match=r"health\.start_timeout_s"):
            await _read(dispatcher, _request(SHORT))
        assert dispatcher.health().reason == "no worker can decode: none of 0 in the table is up"


async def test_decode_reads_prompts_itself_while_no_prefill_worker_is_there() -> None:
    async with FakeCluster(prefill=1, decode=1) as cluster, _dispatching(cluster) as dispatcher:
        assert dispatcher.health().ok
        await cluster.workers[0].die()
        await _until(lambda: not dispatcher.health().ok)
        assert dispatcher.health().reason == "pool prefill is empty"
        assert (await _read(dispatcher, _request())).tokens == [fake_tokens(LONG, 0, 20)]


async def test_a_wedged_worker_is_unhealthy_and_an_idle_one_is_not() -> None:
    health = HealthConfig(step_timeout_s=0.3)
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster, health=health) as dispatcher:
        await asyncio.sleep(0.5)
        assert dispatcher.health().ok
        cluster.workers[0].script.wedged = True
        request = asyncio.create_task(_read(dispatcher, _request(SHORT)))
        await _until(lambda: "has finished no step" in dispatcher.health().reason)
        cluster.workers[0].script.wedged = False
        assert (await request).tokens == [fake_tokens(SHORT, 0, 20)]
        await _until(lambda: dispatcher.health().ok)


async def test_closing_the_dispatcher_fails_what_runs() -> None:
    async with FakeCluster(decode=1) as cluster:
        async with _dispatching(cluster) as dispatcher:
            running = asyncio.create_task(_read(dispatcher, _request(SHORT, max_tokens=1000)))
            await _until(lambda: cluster.workers[0].num_running == 1)
            await dispatcher.close()
            with pytest.raises(UnavailableError, match="shutting down"):
                await running
        await _until(lambda: cluster.workers[0].num_running == 0)


async def test_an_ingress_that_is_replaced_finishes_what_runs_and_tells_who_is_late() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster) as dispatcher:
        soon = asyncio.create_task(_read(dispatcher, _request(SHORT)))
        late = asyncio.create_task(_read(dispatcher, _request(SHORT, max_tokens=8000)))
        await _until(lambda: cluster.workers[0].num_running == 2)
        dispatcher.leave(within_s=0.5)
        assert (await soon).tokens == [fake_tokens(SHORT, 0, 20)]
        assert (await _read(dispatcher, _request(SHORT))).tokens == [fake_tokens(SHORT, 0, 20)], "until nobody asks it"
        with pytest.raises(
            UnavailableError, match=r"not done within 0\.5 s \(http\.drain_timeout_s\); send the request ag"
        ):
            await late


async def test_workers_of_another_model_are_let_alone_and_their_coming_ends_what_waits() -> None:
    async with FakeCluster(decode=2) as cluster:
        cluster.workers[0].model, cluster.workers[1].model = "new", "old"
        async with _dispatching(cluster, model="old") as dispatcher:
            for _ in range(4):
                await _read(dispatcher, _request(SHORT))
            assert not cluster.workers[0].submits
            await cluster.workers[1].die()
            cluster.forget(cluster.workers[1])
            with pytest.raises(UnavailableError, match="the model was replaced by another one; send the request again"):
                await _read(dispatcher, _request(SHORT))


@pytest.mark.parametrize("seed", [0, 1])
async def test_every_request_ends_once_under_random_kills_and_aborts(seed: int) -> None:
    rng = Random(seed)
    async with (
        FakeCluster(prefill=2, decode=3, script=Script(prefill_s=0.01)) as cluster,
        _dispatching(cluster, max_running=32, max_retries=50) as dispatcher,
    ):
        aborted = completed = 0

        async def one(number: int) -> None:
            nonlocal aborted, completed
            prompt = [number, *(LONG if number % 2 else SHORT)]
            n = 1 + number % 3 // 2
            request = _request(prompt, max_tokens=rng.randint(1, 100), n=n, timeout_s=60.0)
            stop_at = rng.randint(0, 40) if number % 3 == 0 else None
            stream = dispatcher.generate(request)
            reader = _Reader(n)
            async with contextlib.aclosing(stream):
                async for outputs in stream:
                    for output in outputs:
                        reader.take(output)
                    if stop_at is not None and len(reader.tokens[0]) > stop_at:
                        break
            if all(reader.reasons):
                completed += 1
                assert reader.tokens == [fake_tokens(prompt, c, request.sampling.max_tokens) for c in range(n)]
            else:
                aborted += 1

        async def kill_some() -> None:
            for role in (Role.DECODE, Role.PREFILL, Role.DECODE, Role.DECODE, Role.PREFILL):
                await asyncio.sleep(rng.uniform(0.1, 0.3))
                victim = rng.choice([worker for worker in cluster.workers if worker.role is role])
                await victim.die()
                cluster.forget(victim)
                await cluster.add(role)

        killing = asyncio.create_task(kill_some())
        results = await asyncio.gather(*(one(number) for number in range(200)), return_exceptions=True)
        await killing
        assert [result for result in results if result is not None] == []
        assert completed + aborted == 200
        assert completed >= 133
        assert dispatcher.counters.num_retries > 0
        await _until(lambda: all(worker.num_running == 0 for worker in cluster.workers))


async def test_an_error_is_a_baton_error_with_a_code() -> None:
    async with FakeCluster(decode=1) as cluster, _dispatching(cluster) as dispatcher:
        cluster.workers[0].script.refusal = WorkerError(code="from_the_future", message="new", retryable=False)
        with pytest.raises(BatonError, match="new"):
            await _read(dispatcher, _request(SHORT))
