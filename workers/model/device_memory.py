"""How much memory a device has left, and whether something fits into it."""

from pathlib import Path

import torch

from baton.errors import ConfigError


def check_room(num_bytes: int, key: str, device: torch.device) -> None:
    """For something more, beside what is held. Raises: ConfigError."""
    available = available_bytes(device)
    if num_bytes > available:
        raise ConfigError(
            f"{key}: needs {mib(num_bytes)}, but only {mib(available)} are available on {device.type}; lower "
            "engine.memory, or load fewer adapters"
        )


def mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"


def available_bytes(device: torch.device) -> int:
    """Memory that can still be taken, within the container's limit where there is one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, stat = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat")
    if limit.is_file() and stat.is_file() and (text := limit.read_text().strip()).isdigit():
        used = dict(line.split() for line in stat.read_text().splitlines())
        free = min(free, int(text) - int(used["anon"]) - int(used["shmem"]))  # the page cache gives way
    return free
