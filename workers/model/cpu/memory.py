"""How this process holds memory on the CPU: freed temporaries stay, and what lies dense lies in huge pages.

A decode step reads every weight once, from pages of 4 KiB unless the kernel is asked for more; on a 2-core Xeon
(a virtual machine) huge pages took a 156 M-parameter model's step from 31 to 23.5 ms at batch 1, from 57 to 44 ms at
batch 64. Both settings are those of the whole process; nothing here is needed for correctness.
"""

import ctypes
import functools
import logging
import platform
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25  # of Linux' mman.h; the second from Linux 6.1 on
HUGE_PAGE = 2 << 20
PART = 16 << 20  # moved at once; the clock is looked at between two of them
PAGE = resource.getpagesize()
DENSE = 0.9  # share of a huge page in memory from which collapsing it adds next to nothing
MAPS, PAGEMAP = Path("/proc/self/maps"), Path("/proc/self/pagemap")


@functools.cache
def keep_freed_memory() -> None:
    """Lets glibc keep the memory of temporaries for the next step; does nothing with another C library.

    By default it maps each block of some megabytes anew and gives it back when freed; the page faults of a step's
    temporaries cost a 2,048-token prefill of a 156 M-parameter model 120 of 690 ms on a 2-core Xeon.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for parameter, size in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, 1 << 30), (M_TOP_PAD, 256 << 20)):
            library.mallopt(parameter, size)


def use_huge_pages(budget_s: float = 3.0) -> int:
    """Asks for huge pages under all private memory of this process, at once where it is dense. Linux only.

    To be called when the weights are in their place; a second call takes in what was allocated since.

    Args:
        budget_s: Moving takes about a second per GiB; what is left after so long the kernel moves in its own time.
    Returns:
        How many bytes lie in dense ranges that are in huge pages now.
    """
    if not MAPS.exists():
        return 0
    library = ctypes.CDLL(None, use_errno=True)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    num_bytes = 0
    deadline_s = time.monotonic() + budget_s
    with PAGEMAP.open("rb", buffering=0) as pagemap:
        for start, end in list(regions(MAPS.read_text())):
            first, last = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
            if first >= last or library.madvise(first, last - first, MADV_HUGEPAGE):
                continue
            pagemap.seek(first // PAGE * 8)
            for begin, size in dense_ranges(pagemap.read((last - first) // PAGE * 8)):
                for at in range(first + begin, first + begin + size, PART):
                    part = min(PART, first + begin + size - at)
                    if time.monotonic() < deadline_s and library.madvise(at, part, MADV_COLLAPSE) == 0:
                        num_bytes += part
    logger.info("memory in huge pages num_bytes=%d", num_bytes)
    return num_bytes


def regions(maps: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the private writable memory that no file backs, from the text of /proc/self/maps."""
    # 7f1c00000000-7f1c00021000 rw-p 00000000 00:00 0    [heap]
    for found in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *(?:\[heap\])?$", maps, re.MULTILINE):
        yield int(found[1], 16), int(found[2], 16)


def dense_ranges(pagemap: bytes) -> Iterator[tuple[int, int]]:
    """(offset, size) in bytes of runs of huge pages whose small pages are nearly all in memory.

    Args:
        pagemap: As /proc/self/pagemap has it, 8 bytes for each small page, from a huge page's start on.
    """
    per_huge = HUGE_PAGE // PAGE
    is_present = np.frombuffer(pagemap, dtype="<u8") >> 63  # the top bit of an entry
    is_dense = is_present.reshape(-1, per_huge).mean(axis=1) >= DENSE
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_dense, [False])).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2):
        yield int(begin) * HUGE_PAGE, int(end - begin) * HUGE_PAGE
