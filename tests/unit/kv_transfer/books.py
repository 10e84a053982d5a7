"""Payloads and peers for the books of transfers."""

from dataclasses import dataclass

from workers.kv_transfer.link import TransferKey
from workers.model.contract import PayloadSpec, Unit

KEY = TransferKey("r", 0, 0)
TOKENS = tuple(PayloadSpec(layer=layer, unit_nbytes=10 * (layer + 1), layout="kv") for layer in range(2))
HYBRID = (
    PayloadSpec(layer=0, unit_nbytes=3, layout="kv"),
    PayloadSpec(layer=0, unit_nbytes=5, layout="kv"),
    PayloadSpec(layer=1, unit=Unit.STATE, unit_nbytes=40, layout="state"),
)


@dataclass(frozen=True)
class Peer:
    worker_id: str


PEER, OTHER = Peer("peer-0"), Peer("peer-1")
