"""Makes torch process groups by hand: a store on one address alone, and a gloo or NCCL group over it.

No default group of torch.distributed is set: a process may be in several worlds, and each ends alone.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

# By default NCCL's watchdog ends the whole process when a peer dies. A group whose `wait` blocks raises instead; one
# that only orders streams does not learn of it, and whoever has it must by other means.
NCCL_WATCHDOG, NCCL_WAIT = "TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_BLOCKING_WAIT"


def host_store(host: str, timeout: timedelta) -> tuple[TCPStore, str]:
    """A rendezvous store on `host` alone (torch's own listener takes every interface), and its host:port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((host, 0))
        listener.listen(16)
        port = listener.getsockname()[1]
        store = TCPStore(
            host, port, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=listener.detach()
        )
    return store, f"{host}:{port}"


def make_group(
    name: str, store: Store, prefix: str, *, rank: int, size: int, host: str, timeout: timedelta, waits: bool = True
) -> Any:
    """Blocks until all ranks are there.

    Args:
        name: gloo or nccl.
        host: This rank's address, of gloo's connections.
        waits: NCCL's `wait` blocks, and raises where a peer is gone; False: it orders streams alone.
    Raises: RuntimeError, as torch does.
    """
    prefixed = PrefixStore(prefix, store)
    if name == "gloo":
        gloo: Any = dist.ProcessGroupGloo  # its options are not in torch's type stubs
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=host)]
        options._timeout = timeout
        options._threads = 1
        return gloo(prefixed, rank, size, options)
    os.environ.update({NCCL_WATCHDOG: "0", NCCL_WAIT: str(int(waits))})  # read when a group is made
    nccl_options = dist.ProcessGroupNCCL.Options()
    nccl_options._timeout = timeout
    return dist.ProcessGroupNCCL(prefixed, rank, size, nccl_options)
