"""Which transport two workers take, and who may not link."""

from dataclasses import replace

import pytest

from tests.unit.kv_transfer.harness import TorchStore, spec_of
from workers.kv_transfer.handshake import answer, best_transport, first_proposal, identify, propose
from workers.spec import KVSpec, Role


@pytest.mark.parametrize(
    ("a", "b", "same_host", "transport"),
    [
        ("cpu", "cpu", True, "shm"),
        ("cpu", "cpu", False, "grpc"),
        ("cuda:GPU-1", "cuda:GPU-2", True, "nccl"),
        ("cuda:GPU-1", "cuda:GPU-2", False, "nccl"),
        ("cuda:GPU-1", "cuda:GPU-1", True, "cuda_ipc"),
        ("cuda:GPU-1", "cpu", True, "grpc"),
        ("fake", "fake", True, "grpc"),
        ("fake", "cpu", True, "grpc"),
    ],
)
def test_auto_takes_the_fastest_that_both_devices_can_do(a: str, b: str, same_host: bool, transport: str) -> None:
    assert best_transport(a, b, same_host=same_host) == transport
    assert best_transport(b, a, same_host=same_host) == transport


def test_the_first_proposal_goes_by_the_route_and_a_named_transport_stands() -> None:
    own = identify(spec_of("p", Role.PREFILL, KVSpec()), TorchStore(), incarnation="1", fingerprint="w")
    assert first_proposal(own, "127.0.0.1:4") == "shm"
    assert first_proposal(replace(own, shares_memory=False), "127.0.0.1:4") == "gloo"
    assert first_proposal(own, "10.0.0.7:4") == "grpc"
    named = identify(
        spec_of("p", Role.PREFILL, KVSpec(transport="grpc")), TorchStore(), incarnation="1", fingerprint="w"
    )
    assert first_proposal(named, "127.0.0.1:4") == "grpc"


def test_a_sender_with_a_named_transport_is_not_asked_for_another() -> None:
    store = TorchStore()
    sender = identify(spec_of("p", Role.PREFILL, KVSpec(transport="grpc")), store, incarnation="1", fingerprint="w")
    receiver = identify(spec_of("d", Role.DECODE, KVSpec(transport="gloo")), store, incarnation="2", fingerprint="w")
    reply = answer(receiver, propose(sender, transport="grpc", store_address="", store_prefix=""))
    assert reply.refusal == "kv.transport: 'grpc' proposed, 'gloo' wanted; set kv.transport: gloo"
    assert reply.transport == ""


def test_gloo_is_taken_from_a_sender_that_cannot_share_its_memory() -> None:
    own = identify(spec_of("w", Role.MIXED, KVSpec()), TorchStore(), incarnation="1", fingerprint="w")
    assert answer(own, propose(own, transport="gloo", store_address="", store_prefix="")).refusal == ""
    reply = answer(own, propose(own, transport="grpc", store_address="", store_prefix=""))
    assert reply.transport == "shm"
