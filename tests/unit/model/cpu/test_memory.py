"""What of a process's memory is moved to huge pages."""

import numpy as np
import pytest
import torch

from workers.model.cpu import memory as cpu_memory
from workers.model.cpu.memory import HUGE_PAGE, PAGE

MAPS = """\
55d0c0a00000-55d0c0c21000 rw-p 00000000 00:00 0                          [heap]
7f1c00000000-7f1c10000000 rw-p 00000000 00:00 0
7f1c20000000-7f1c20400000 rw-p 00010000 08:01 1234                       /usr/lib/libtorch.so
7f1c30000000-7f1c30400000 r--p 00000000 00:00 0
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
"""


def test_private_writable_memory_without_a_file_is_found() -> None:
    assert list(cpu_memory.regions(MAPS)) == [
        (0x55D0C0A00000, 0x55D0C0C21000),
        (0x7F1C00000000, 0x7F1C10000000),
    ]


def test_huge_pages_with_many_holes_are_left_as_they_are() -> None:
    entries = np.full((6, HUGE_PAGE // PAGE), 1 << 63, dtype="<u8")
    entries[0] = 0
    entries[3, ::2] = 0
    entries[4, 7] = 0
    assert list(cpu_memory.dense_ranges(entries.tobytes())) == [
        (HUGE_PAGE, 2 * HUGE_PAGE),
        (4 * HUGE_PAGE, 2 * HUGE_PAGE),
    ]


@pytest.mark.skipif(not cpu_memory.PAGEMAP.exists(), reason="no /proc/self/pagemap: not Linux")
def test_moved_memory_holds_the_same_values_and_untouched_memory_stays_untouched() -> None:
    values = torch.arange(8 << 20)
    untouched = torch.empty(256 << 20, dtype=torch.uint8)
    before = num_resident()
    cpu_memory.keep_freed_memory()
    cpu_memory.use_huge_pages()
    assert num_resident() - before < untouched.nbytes // 2
    assert torch.equal(values, torch.arange(8 << 20))


def num_resident() -> int:
    """Bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * PAGE
