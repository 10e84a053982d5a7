"""The machines of the Ray cluster: which there are, what they have by Ray's accounting, and which answer."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ray

from baton.errors import ConfigError

ON_HEAD = {"node:__internal_head__": 0.001}  # of Ray's accounting: has a place on the head node alone
REACH_TIMEOUT_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    node_id: str
    address: str
    num_gpus: float
    port: int = 0  # of its raylet
    resources: Mapping[str, float] = field(default_factory=dict)  # of Ray's accounting, in all
    labels: Mapping[str, str] = field(default_factory=dict)


def alive() -> list[Node]:
    """The head first, then by address."""
    rows = [row for row in ray.nodes() if row["Alive"]]  # type: ignore[no-untyped-call]
    rows.sort(key=lambda row: (ON_HEAD.keys().isdisjoint(row["Resources"]), row["NodeManagerAddress"]))
    return [
        Node(
            node_id=row["NodeID"],
            address=row["NodeManagerAddress"],
            num_gpus=float(row["Resources"].get("GPU", 0.0)),
            port=int(row["NodeManagerPort"]),
            resources=dict(row["Resources"]),
            labels=dict(row["Labels"]),
        )
        for row in rows
    ]


async def reachable(nodes: Sequence[Node]) -> list[Node]:
    """Those that take a connection from here: Ray calls a host that fell silent alive for many seconds more."""
    answers = await asyncio.gather(*map(_takes_connections, nodes))
    return [node for node, answers_us in zip(nodes, answers, strict=True) if answers_us]


async def _takes_connections(node: Node) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(node.address, node.port), REACH_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        logger.warning("node is not reached, no worker starts there address=%s error=%r", node.address, error)
        return False
    writer.close()
    return True


def resolve_device(device: str, nodes: Sequence[Node], *, more_may_come: bool = False) -> str:
    """Raises: ConfigError: `cuda` without a GPU in the cluster, and nothing asks for nodes that may have one."""
    has_gpu = any(node.num_gpus for node in nodes)
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    if device == "cuda" and not has_gpu and not more_may_come:
        raise ConfigError("device: cuda, but the Ray cluster has no GPU; set `device: cpu` or auto, or add a GPU node")
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """bfloat16 where the hardware multiplies it, else float32.

    Weights whose values are bfloat16 stay so in memory all the same; activations and KV are float32 then.
    """
    if dtype != "auto":
        return dtype
    return "bfloat16" if device == "cuda" or _cpu_has_bfloat16() else "float32"


def _cpu_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())


def choose(nodes: Sequence[Node], placed: Iterable[tuple[str, str]], name: str) -> Node | None:
    """The node with the fewest ranks of this name, then with the fewest of all; None: there are no nodes.

    Args:
        placed: (node id, name) of each rank; a name is a role, or a worker's id.
    """
    all_placed = list(placed)
    same = Counter(node_id for node_id, other in all_placed if other == name)
    total = Counter(node_id for node_id, _ in all_placed)
    return min(nodes, key=lambda node: (same[node.node_id], total[node.node_id]), default=None)


def gpu_share(nodes: Sequence[Node], num_workers: int) -> float:
    """GPUs per worker: one each, or equal parts of one where there are fewer GPUs than workers."""
    num_gpus = sum(int(node.num_gpus) for node in nodes)
    if num_workers <= num_gpus:
        return 1.0
    per_gpu = -(-num_workers // max(1, num_gpus))
    return int(10_000 / per_gpu) / 10_000
