"""The shape of a tree of draft tokens: pure functions of each token's parent.

`parents` says of each draft token the place (from 0) of the one before it, which comes first; -1: the token that is no
draft, the root. Empty: there is no tree, each token follows the one before. No tensors here.
"""

from collections.abc import Sequence

MAX_TOKENS = 62  # of a tree: with its root, bits of a positive int64


def depths(parents: Sequence[int]) -> list[int]:
    """How many steps below the root each token is, >= 1."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent < 0 else found[parent] + 1)
    return found


def seen(parents: Sequence[int], window: int | None = None) -> list[int]:
    """For root and tokens, bits of the last `window` tokens on the way to each, itself included; bit 0: the root."""
    bits = [1]
    for place, parent in enumerate(parents, start=1):
        bits.append(bits[parent + 1] | 1 << place)
    if window is None:
        return bits
    return [_highest(each, window) for each in bits]


def _highest(bits: int, count: int) -> int:
    """The `count` highest of the bits: on a way down, each token comes after the one before it."""
    kept = 0
    while bits and count:
        top = 1 << (bits.bit_length() - 1)
        bits, kept, count = bits ^ top, kept | top, count - 1
    return kept


def path_to(parents: Sequence[int], place: int) -> list[int]:
    """The places from the first below the root down to `place`."""
    path: list[int] = []
    while place >= 0:
        path.append(place)
        place = parents[place]
    return path[::-1]


def follow(token_ids: Sequence[int], parents: Sequence[int], written: Sequence[int]) -> list[int]:
    """The places of the draft tokens that were written one after the other, as far as they were drafted."""
    path: list[int] = []
    at = -1
    for place, token_id in enumerate(token_ids):
        if len(path) == len(written):
            break
        if token_id == written[len(path)] and (parents[place] if parents else place - 1) == at:
            path.append(place)
            at = place
    return path
