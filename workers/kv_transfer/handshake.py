"""Who two workers are, whether they may link, and over which transport.

Invariant: workers link only when weights, dtype, payloads (of every layer) and block size are equal. Each lane of two
gangs is a link of its own, with the payloads that it moves.
The sender proposes a transport; a receiver that knows better says so in its refusal, and the sender proposes once more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from baton.v1.kv_pb2 import Handshake, HandshakeReply, Payload
from workers.kv_transfer.lane_wire import wire_lane
from workers.kv_transfer.lanes import Lane
from workers.model.contract import KVStore, PayloadSpec
from workers.spec import WorkerSpec

AUTO = "auto"
NEXT_BEST = {"shm": "gloo"}  # where one side cannot do what its device could


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    worker_id: str
    incarnation: str
    fingerprint: str
    dtype: str
    payloads: tuple[PayloadSpec, ...]
    block_size: int
    device: str  # "fake" (no torch), "cpu", or "cuda:" and the GPU's UUID
    host: str
    transport: str  # as configured: auto, or one by name
    shares_memory: bool = False  # others on this machine can read the store's blocks
    lane: Lane | None = None  # None: the worker is no gang, nor those that it links with


def identify(
    spec: WorkerSpec, store: KVStore, *, incarnation: str, fingerprint: str, lane: Lane | None = None
) -> Identity:
    return Identity(
        worker_id=spec.worker_id,
        incarnation=incarnation,
        fingerprint=fingerprint,
        dtype=spec.dtype,
        payloads=store.payloads,
        block_size=store.block_size,
        device=_device_name(spec),
        host=spec.host,
        transport=spec.kv.transport,
        shares_memory=getattr(store, "memory", None) is not None,
        lane=lane,
    )


def _device_name(spec: WorkerSpec) -> str:
    if spec.fake:
        return "fake"
    if not spec.device.startswith("cuda"):
        return "cpu"
    import torch  # only workers with a GPU come here

    return f"cuda:{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def best_transport(a: str, b: str, *, same_host: bool) -> str:
    """For devices `a` and `b`: NCCL between two GPUs, CUDA IPC on one (NCCL refuses that), shared memory on one
    machine's CPU, else gRPC."""
    if a.startswith("cuda:") and b.startswith("cuda:"):
        return "cuda_ipc" if a == b else "nccl"
    if a == b == "cpu" and same_host:
        return "shm"
    return "grpc"


def first_proposal(own: Identity, address: str) -> str:
    """What to propose to the worker at `address` (host:port), whose device is not known yet."""
    if own.transport != AUTO:
        return own.transport
    same_host = address.rpartition(":")[0] == own.host
    peer = "cuda:?" if own.device.startswith("cuda:") else own.device
    best = best_transport(own.device, peer, same_host=same_host)
    return NEXT_BEST[best] if best == "shm" and not own.shares_memory else best


def propose(own: Identity, *, transport: str, store_address: str, store_prefix: str) -> Handshake:
    return Handshake(
        worker_id=own.worker_id,
        incarnation=own.incarnation,
        fingerprint=own.fingerprint,
        dtype=own.dtype,
        payloads=map(_wire_payload, own.payloads),
        block_size=own.block_size,
        transport=transport,
        store_address=store_address,
        store_prefix=store_prefix,
        device=own.device,
        host=own.host,
        auto_transport=own.transport == AUTO,
        lane=wire_lane(own.lane) if own.lane is not None else None,
    )


def answer(own: Identity, offered: Handshake) -> HandshakeReply:
    """The receiver's word: empty `refusal` links."""
    reply = HandshakeReply(worker_id=own.worker_id, incarnation=own.incarnation)
    if difference := _difference(own, offered):
        reply.refusal = difference
        return reply
    wanted = own.transport
    if wanted == AUTO and offered.auto_transport:
        wanted = best_transport(offered.device, own.device, same_host=offered.host == own.host)
        if offered.transport == NEXT_BEST.get(wanted):
            wanted = offered.transport  # what is better was tried, or the sender knows that it cannot
    if wanted not in (AUTO, offered.transport):
        reply.refusal = f"kv.transport: {offered.transport!r} proposed, {wanted!r} wanted; set kv.transport: {wanted}"
        if offered.auto_transport:
            reply.transport = wanted
    return reply


def _difference(own: Identity, offered: Handshake) -> str:
    """The first field that differs, with both values and the fix; empty: none does."""
    fields = (
        ("fingerprint", offered.fingerprint, own.fingerprint, "load the same weights on both"),
        ("dtype", offered.dtype, own.dtype, "set the same dtype on both"),
        ("block_size", offered.block_size, own.block_size, "set the same engine.block_size on both"),
    )
    for name, theirs, ours, fix in fields:
        if theirs != ours:
            return f"{name}: {theirs!r} on the sender, {ours!r} on the receiver; {fix}"
    return _payload_difference(list(offered.payloads), [_wire_payload(spec) for spec in own.payloads])


def _payload_difference(theirs: Sequence[Payload], ours: Sequence[Payload]) -> str:
    fix = "load the same model on both"
    if len(theirs) != len(ours):
        return f"payloads: {len(theirs)} on the sender, {len(ours)} on the receiver; {fix}"
    for index, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        for field in Payload.DESCRIPTOR.fields:
            sent, wanted = getattr(a, field.name), getattr(b, field.name)
            if sent != wanted:
                if field.name == "layout" and _is_fp8(sent) != _is_fp8(wanted):
                    fix = "set the same kv.dtype on both"
                return f"payloads[{index}].{field.name}: {sent!r} on the sender, {wanted!r} on the receiver; {fix}"
    return ""


def _is_fp8(layout: str) -> bool:
    return "/float8" in layout


def _wire_payload(spec: PayloadSpec) -> Payload:
    return Payload(layer=spec.layer, unit=spec.unit.value, layout=spec.layout, unit_nbytes=spec.unit_nbytes)
