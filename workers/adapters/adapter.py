"""What a worker is told of a LoRA adapter, and how requests name it. Plain data."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

MAX_RANK = 64


class AdapterName(NamedTuple):
    """As requests carry it: two workers that know both hold the same weights."""

    name: str  # what clients call it
    content_hash: str  # of its files, hexadecimal


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    name: str
    folder: str
    content_hash: str = ""  # that the folder must have; empty: whatever it has


def root_hash(content_hash: str) -> int:
    """What the first block of a sequence chains on that is read with this adapter: in [1, 2**64)."""
    digest = blake2b(f"adapter/{content_hash}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
