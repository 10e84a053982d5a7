"""One worker as `GET /cluster` shows it: its place in the fleet, and its last load report."""

from collections.abc import Mapping
from typing import Any

from baton.v1.worker_pb2 import Role as RoleMessage
from baton.v1.worker_pb2 import WorkerState
from cluster.router.workers import WorkerView

COUNTS = (
    "num_blocks",
    "num_free_blocks",
    "num_referenced_blocks",
    "num_quarantined_blocks",
    "num_states",
    "num_free_states",
    "num_running",
    "max_sequences",
    "num_waiting",
    "num_waiting_tokens",
    "num_steps",
    "num_preemptions",
    "num_transfers",
    "num_failed_transfers",
    "kv_bytes_sent",
    "kv_bytes_received",
    "num_prompt_tokens",
    "num_prefix_hit_tokens",
    "num_output_tokens",
    "num_draft_peers",
    "num_guess_hits",
    "num_guess_misses",
    "num_draft_waits",
)
_UNKNOWN: Mapping[str, Any] = {
    "phase": "unknown",
    "node_id": "",
    "pid": 0,
    "cores": [],
    "address": "",
    "error": "",
    "error_is_final": False,
    "num_failures": 0,
    "ranks": [],
}
Row = dict[str, Any]


def worker_row(worker_id: str, view: WorkerView | None, told: Mapping[str, Any] | None) -> Row:
    """
    Args:
        view: This replica's; None: it has not heard of the worker.
        told: The controller's word; None: it has not said any.
    """
    row: Row = {"id": worker_id, "role": "", "incarnation": "", **(told if told is not None else _UNKNOWN)}
    row["ranks"] = list(row["ranks"])
    row |= {"up": False, "draining": row["phase"] == "draining"}
    if view is not None:
        entry = view.entry
        row |= {"role": entry.role.value, "incarnation": entry.incarnation, "address": entry.address}
        row |= {"up": view.up, "draining": entry.draining or row["draining"]}
        if told is None and view.up:
            row["phase"] = "draining" if entry.draining else "ready"
    return row | _reported(view.state if view is not None and view.state is not None else WorkerState())


def _reported(state: WorkerState) -> Row:
    row: Row = {name: getattr(state, name) for name in COUNTS}
    if state.role:
        row["role"] = RoleMessage.Name(state.role).removeprefix("ROLE_").lower()
    return row | {
        "step_ms": round(state.step_s * 1000, 2),
        "since_progress_s": round(state.since_progress_s, 1),
        "drafted_by_place": list(state.drafted_by_place),
        "accepted_by_place": list(state.accepted_by_place),
        "drafters": list(state.drafters),
        "draft_workers_rest": state.draft_workers_rest,
        "adapters": [adapter.name for adapter in state.adapters],
    }
