"""A Ray cluster of the user's over two hosts: who runs where, what crosses the cable, what its being cut does."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import baton
from tests.cluster.served import ServedCluster, all_free
from tools.two_hosts import HEAD, HEAD_FROM_HERE, OTHER, Hosts, missing
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"no hosts here: {missing()}"),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]
LONG = "It was a dark night, and the old house stood alone upon the hill. " * 12
EXTRA = """
pools:
  prefill: {workers: 1, cores: [[0]]}
  decode: {workers: 1, cores: [[0]]}
http: {host: 0.0.0.0, port: 0}
"""
SPREAD = """
pools: {mixed: {workers: 1, tensor_parallel: 3, placement: spread}}
http: {host: 0.0.0.0, port: 0}
"""
KNOCK = """
import grpc
from baton.v1.worker_pb2 import Hello, ToWorker
from baton.v1.worker_pb2_grpc import WorkerStub
for metadata in ((), (("baton-secret", "wrong"),)):
    with grpc.insecure_channel({address!r}) as channel:
        try:
            next(WorkerStub(channel).Session(iter([ToWorker(hello=Hello(ingress_id="x"))]), metadata=metadata))
        except grpc.RpcError as error:
            print(error.code().name)
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    two = Hosts()
    try:
        two.start()
        yield two
    finally:
        two.end()


def cluster_on(hosts: Hosts, extra: str = EXTRA) -> ServedCluster:
    return ServedCluster(prefix=hosts.prefix(hosts.head), env=hosts.address, extra=extra)


@pytest.fixture(scope="module")
def served(hosts: Hosts) -> Iterator[ServedCluster]:
    cluster = cluster_on(hosts)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
    left = [process.pid for process in psutil.process_iter(["cmdline"]) if is_worker(process, hosts)]
    assert left == [], f"workers that `baton down` left: {left}"


def is_worker(process: psutil.Process, hosts: Hosts) -> bool:
    try:
        here = os.readlink(f"/proc/{process.pid}/ns/net")
    except OSError:
        return False
    theirs = {f"net:[{Path('/run/netns', name).stat().st_ino}]" for name in (hosts.head, hosts.other)}
    return here in theirs and "ray::WorkerShell" in " ".join(process.info["cmdline"] or [])


def reached(served: ServedCluster) -> str:
    """The published gRPC address, as it is reached over the tests' own cable."""
    host, _, port = served.grpc.rpartition(":")
    assert host == HEAD
    return f"{HEAD_FROM_HERE}:{port}"


def answer(served: ServedCluster) -> tuple[int, ...]:
    with baton.Client(reached(served), timeout_s=120) as sdk:
        return sdk.generate(LONG, max_tokens=48, temperature=0, ignore_eos=True).choices[0].token_ids


def host_of(served: ServedCluster, worker_id: str) -> str:
    address: str = served.workers()[worker_id]["address"]
    return address.rpartition(":")[0]


def test_prefill_and_decode_are_on_different_hosts_at_their_nodes_addresses(served: ServedCluster) -> None:
    assert {host_of(served, "prefill-0"), host_of(served, "decode-0")} == {HEAD, OTHER}


def test_the_kv_crosses_the_cable_and_the_tokens_are_generates(served: ServedCluster) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with baton.Client(reached(served), timeout_s=60) as sdk:
        given = torch.tensor([sdk.tokenize(LONG)])
    model: Any = AutoModelForCausalLM.from_pretrained(BUNDLED / "demo", dtype=torch.float32)
    found = model.generate(given, max_new_tokens=48, min_new_tokens=48, do_sample=False)[0, given.shape[1] :]
    assert answer(served) == tuple(map(int, found))
    served.wait("reports", lambda workers: workers["decode-0"]["kv_bytes_received"] > 0)
    workers = served.workers()
    assert workers["prefill-0"]["kv_bytes_sent"] == workers["decode-0"]["kv_bytes_received"]
    assert not workers["prefill-0"]["num_failed_transfers"]


def test_a_worker_refuses_who_does_not_know_the_secret(served: ServedCluster, hosts: Hosts) -> None:
    for worker in served.workers().values():
        said = hosts.python(hosts.other, KNOCK.format(address=worker["address"]))
        assert said.split() == ["UNAUTHENTICATED", "UNAUTHENTICATED"]


def test_another_home_on_the_same_ray_is_refused_by_the_name_of_the_first(served: ServedCluster, hosts: Hosts) -> None:
    before = served.workers()
    second = cluster_on(hosts)
    config = second.folder / "cluster.yaml"
    config.write_text(EXTRA)
    refused = second.baton("up", str(config), "--set", "grpc.port=0", check=False)
    assert refused.returncode != 0
    assert f"has a Baton cluster already, started on {os.uname().nodename} with BATON_HOME={served.folder}" in (
        refused.stderr
    )
    assert "nothing runs here" in second.baton("down").stdout
    assert {name: worker["pid"] for name, worker in served.workers().items()} == {
        name: worker["pid"] for name, worker in before.items()
    }
    assert answer(served)


def test_an_address_of_this_host_is_refused_where_the_head_is_another(served: ServedCluster, hosts: Hosts) -> None:
    served.down()
    away = ServedCluster(prefix=hosts.prefix(hosts.other), env=hosts.address)
    config = away.folder / "cluster.yaml"
    config.write_text("load_format: fake\nhttp: {port: 0}\ngrpc: {port: 0}\n")
    refused = away.baton("up", str(config), check=False)
    assert refused.returncode != 0
    assert f"http.host: 127.0.0.1 is this machine's, but Serve's proxy runs on Ray's head node {HEAD}" in refused.stderr
    served.up()


async def test_requests_outlive_a_host_that_falls_silent_and_it_serves_again_when_it_is_back(
    served: ServedCluster, hosts: Hosts
) -> None:
    wanted = await asyncio.to_thread(answer, served)
    away = next(name for name, worker in served.workers().items() if worker["address"].startswith(OTHER))
    before = served.workers()[away]
    async with baton.AsyncClient(reached(served), timeout_s=120, max_retries=0) as sdk:
        settings: baton.Sampling = {"max_tokens": 48, "temperature": 0, "ignore_eos": True}
        streams = [sdk.stream(LONG, **settings) for _ in range(4)]
        first = [await anext(stream) for stream in streams]
        hosts.cut()
        try:
            late = asyncio.create_task(sdk.generate(LONG, **settings))
            for stream, begun in zip(streams, first, strict=True):
                rest = [token async for delta in stream for token in delta.token_ids]
                assert (*begun.token_ids, *rest) == wanted
            assert (await late).choices[0].token_ids == wanted
            assert host_of(served, away) == HEAD
            assert served.workers()[away]["incarnation"] != before["incarnation"]
        finally:
            hosts.mend()
    served.wait("every block free", all_free)
    served.wait("the old worker gone", lambda workers: not psutil.pid_exists(before["pid"]))
    os.kill(served.workers()[away]["pid"], 9)
    served.wait("a replacement there", lambda workers: workers[away]["address"].startswith(OTHER))
    assert answer(served) == wanted


@pytest.mark.parametrize("transport", ["gloo", "grpc"])
def test_a_transport_that_is_named_crosses_hosts_too(hosts: Hosts, served: ServedCluster, transport: str) -> None:
    wanted = answer(served)
    served.down()
    served.extra = EXTRA + f"kv: {{lease_s: 5, transport: {transport}}}\n"
    served.up()
    assert answer(served) == wanted
    served.wait("reports", lambda workers: workers["decode-0"]["kv_bytes_received"] > 0)


def test_the_ranks_of_a_gang_may_be_on_different_hosts(hosts: Hosts, served: ServedCluster) -> None:
    wanted = answer(served)
    served.down()
    served.extra = SPREAD
    served.up()
    assert answer(served) == wanted
    ranks = served.workers()["mixed-0"]["ranks"]
    assert sorted(rank["node"] for rank in ranks) == [HEAD, HEAD, OTHER]
