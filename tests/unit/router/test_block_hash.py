"""Block hashes: the names that engines report and routers look up."""

import subprocess
import sys

from workers.engine.block_hash import ROOT, block_hashes, next_hash


def test_only_full_blocks_have_a_hash() -> None:
    assert block_hashes([], 4) == []
    assert block_hashes([1, 2, 3], 4) == []
    assert len(block_hashes([1, 2, 3, 4], 4)) == 1
    assert len(block_hashes(list(range(11)), 4)) == 2


def test_the_incremental_hash_equals_the_whole() -> None:
    tokens = list(range(100, 112))
    first = next_hash(ROOT, tokens[:4])
    second = next_hash(first, tokens[4:8])
    assert block_hashes(tokens, 4) == [first, second, next_hash(second, tokens[8:])]


def test_a_hash_names_all_tokens_before_it() -> None:
    assert block_hashes([1, 2, 3, 4], 2)[1] != block_hashes([9, 2, 3, 4], 2)[1]
    assert block_hashes([1, 2, 3, 4], 2)[0] == block_hashes([1, 2, 9, 4], 2)[0]


def test_a_hash_fits_the_wire_and_is_the_same_in_another_process() -> None:
    hashes = block_hashes(list(range(64)), 16)
    assert all(0 <= value < 2**64 for value in hashes)
    code = "from workers.engine.block_hash import block_hashes; print(block_hashes(list(range(64)), 16))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(hashes)
