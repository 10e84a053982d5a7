"""Names a block of KV by the tokens that made it, so that workers and routers agree without talking.

A block's hash chains over the one before it: equal hashes mean equal tokens from the start of the sequence to the
block's end (up to the chance of two in 2**64). Stable across processes, machines and Python versions.
"""

import struct
from collections.abc import Sequence
from hashlib import blake2b

ROOT = 0  # what the first block chains on


def next_hash(previous: int, block_token_ids: Sequence[int]) -> int:
    """The hash of a full block that follows the one named `previous` (`ROOT` for the first), in [0, 2**64)."""
    packed = struct.pack(f"<Q{len(block_token_ids)}I", previous, *block_token_ids)
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little")


def block_hashes(token_ids: Sequence[int], block_size: int, root: int = ROOT) -> list[int]:
    """Hashes of the full blocks of `token_ids`, in order; a last block that is not full has none.

    Args:
        root: What the first one chains on: an adapter's own, so that its blocks are nobody else's.
    """
    hashes = []
    previous = root
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        previous = next_hash(previous, token_ids[start : start + block_size])
        hashes.append(previous)
    return hashes
