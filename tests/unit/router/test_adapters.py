"""Requests with a LoRA adapter go to workers that have it, with the weights that were meant."""

import asyncio
from dataclasses import replace
from random import Random

import pytest

from baton.errors import ModelNotFoundError, UnavailableError
from baton.v1.worker_pb2 import Adapter, WorkerError
from cluster.router.load import Pools
from cluster.router.policy import Policy
from cluster.router.prefix_index import PrefixIndex
from tests.fake_worker import FakeCluster, fake_tokens
from tests.unit.router import test_policy
from tests.unit.router.test_dispatcher import LONG, _dispatching, _read, _request
from tests.unit.router.test_table import _entry, _report, _table
from workers.adapters.adapter import AdapterName, root_hash
from workers.engine.block_hash import block_hashes
from workers.spec import Role

SQL, OTHER = AdapterName("sql", "ab"), AdapterName("sql", "cd")


@pytest.mark.parametrize(("adapter", "decode"), [(None, "d0"), (SQL, "d1"), (OTHER, "d2")])
def test_only_workers_with_these_weights_under_this_name_are_chosen(adapter: AdapterName | None, decode: str) -> None:
    loads = [
        test_policy._load("d0", Role.DECODE),
        test_policy._load("d1", Role.DECODE, num_running=30),
        test_policy._load("d2", Role.DECODE, num_running=40),
    ]
    loads[1].adapters, loads[2].adapters = {"sql": "ab"}, {"sql": "cd"}
    request = replace(test_policy._request(), adapter=adapter)
    route = Policy(disaggregate_over_tokens=64).route(request, Pools.of(loads), PrefixIndex(), 0.0, Random(0))
    assert route is not None
    assert route.decode_id == decode


def test_the_table_knows_adapters_of_workers_that_decode_and_keeps_them_while_none_is_there() -> None:
    table = _table(_entry("p0", Role.PREFILL), _entry("d0", Role.DECODE))
    _report(table, "p0", Role.PREFILL, adapters=[Adapter(name="early", hash="e")])
    assert _report(table, "d0", Role.DECODE, adapters=[Adapter(name="sql", hash="ab")])
    assert table.adapters == {"sql": "ab"}
    assert not _report(table, "d0", Role.DECODE, adapters=[Adapter(name="sql", hash="ab")])
    table.disconnect(table.key("d0"))
    assert table.adapters == {"sql": "ab"}
    assert _report(table, "d0", Role.DECODE)
    assert table.adapters == {}


async def test_a_submit_names_the_adapter_and_blocks_are_looked_for_by_its_hashes() -> None:
    async with FakeCluster(mixed=2) as cluster:
        first, second = cluster.workers
        first.adapters = second.adapters = {"sql": "ab"}
        second.cached_hashes = block_hashes(LONG, 16, root_hash("ab"))
        first.cached_hashes = block_hashes(LONG, 16)
        async with _dispatching(cluster) as dispatcher:
            assert dispatcher.adapters == {"sql": "ab"}
            reader = await _read(dispatcher, replace(_request(), adapter=SQL))
            assert reader.tokens == [fake_tokens(LONG, 0, 20)]
        assert [(one.adapter.name, one.adapter.hash) for one in second.submits] == [("sql", "ab")]
        assert not first.submits


async def test_a_request_whose_adapter_was_unloaded_meanwhile_is_told_so_at_once() -> None:
    async with FakeCluster(mixed=1) as cluster, _dispatching(cluster) as dispatcher, asyncio.timeout(5):
        with pytest.raises(ModelNotFoundError, match="adapter 'sql' was unloaded; load it again, or name another"):
            await _read(dispatcher, replace(_request(), adapter=SQL))


@pytest.mark.parametrize("num_without", [1, 2])
async def test_one_that_a_worker_refuses_for_lack_of_the_adapter_is_tried_elsewhere_and_not_for_ever(
    num_without: int,
) -> None:
    """Its load report may be older than the word that took the adapter off it."""
    async with FakeCluster(mixed=2) as cluster, asyncio.timeout(20):
        for number, worker in enumerate(cluster.workers):
            worker.adapters = {"sql": "ab"}
            if number < num_without:
                lacks = WorkerError(code="unavailable", message="has no adapter 'sql'; try another", retryable=True)
                worker.script = replace(worker.script, refusal=lacks)
        async with _dispatching(cluster) as dispatcher:
            if num_without == 1:
                for number in range(4):
                    reader = await _read(dispatcher, replace(_request(), request_id=f"r{number}", adapter=SQL))
                    assert reader.tokens == [fake_tokens(LONG, 0, 20)]
            else:
                with pytest.raises(UnavailableError, match="has no adapter 'sql'"):
                    await _read(dispatcher, replace(_request(), adapter=SQL))
                assert sum(len(worker.submits) for worker in cluster.workers) <= 5
