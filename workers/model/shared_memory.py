"""Memory of one process that others on the machine can map, read-only: anonymous, gone with its last user.

Who may open it is the kernel's business (the same user, by /proc); where it is, the owner tells. Linux alone has it.
"""

import mmap
import os
from pathlib import Path

NAME = "baton-kv"


class SharedMemory:
    """Zeroed; `view` lives as long as anything made from it."""

    def __init__(self, nbytes: int) -> None:
        self._fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._fd, nbytes)
            self.view = mmap.mmap(self._fd, nbytes)
            self._inode = os.fstat(self._fd).st_ino
        except (OSError, ValueError):
            os.close(self._fd)
            raise

    def __del__(self) -> None:
        if hasattr(self, "_inode"):
            os.close(self._fd)

    @property
    def handle(self) -> str:
        """For `attach`, in any process of this user that sees this one's."""
        return f"{os.getpid()}:{self._fd}:{self._inode}"


def is_available() -> bool:
    return hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()


def attach(handle: str, nbytes: int) -> mmap.mmap:
    """The owner's first `nbytes`, read-only.

    Raises:
        OSError: The owner is not there, or not to be seen from here; or it is not its memory that was found.
        ValueError: No handle.
    """
    pid, fd, inode = map(int, handle.split(":"))
    opened = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(opened)
        name = os.readlink(f"/proc/self/fd/{opened}")
        if found.st_ino != inode or not name.startswith(f"/memfd:{NAME}") or found.st_size < nbytes:
            raise FileNotFoundError(f"{name} of {found.st_size} bytes is not the {nbytes} bytes of shared KV meant")
        return mmap.mmap(opened, nbytes, prot=mmap.PROT_READ)
    finally:
        os.close(opened)
