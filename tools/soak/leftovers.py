"""What a cluster must not hold once nothing runs, and must not leave once it is down."""

import os
from collections.abc import Iterable
from pathlib import Path

from tools.soak.cluster import SoakCluster
from tools.soak.samples import blocks_of
from tools.soak.watch import View, workers_of

KEPT = {"home", "adapters"}  # of the cluster's folder, by ourselves
SECRETS = ("secret", "ray_token", "metrics_token")  # of a home, for its next cluster too
TORCHS = "torchinductor_"  # torch's own cache, one for each user of a machine
KEPT_AT_HOME = {"cluster.yaml", "lock"} | {name for secret in SECRETS for name in (secret, f".{secret}.lock")}


def look_at_blocks(view: View) -> list[str]:
    """Of an idle cluster: blocks and transfers that somebody still holds; actors and groups that nobody wants."""
    found = []
    for worker in workers_of(view):
        blocks = blocks_of(worker)
        if blocks["used"] or blocks["quarantined"]:
            found.append(f"{worker['worker_id']} holds {blocks} of {worker['num_blocks']} blocks with nothing running")
        if worker["num_running"] or worker["num_waiting"] or worker["num_transfers"]:
            found.append(f"{worker['worker_id']} runs {worker['num_running']}, waits {worker['num_waiting']}")
    num_ranks = sum(len(worker["ranks"]) for worker in workers_of(view))
    actors = [name for name in view.get("actors", {}) if name.startswith("baton-worker-")]
    if len(actors) != num_ranks:
        found.append(f"{len(actors)} actors of workers for {num_ranks} ranks: {sorted(actors)}")
    num_groups = sum(count for state, count in view.get("group_states", {}).items() if state != "REMOVED")
    if num_groups != len(workers_of(view)):
        found.append(f"{num_groups} placement groups for {len(workers_of(view))} workers")
    return found


def left_over(cluster: SoakCluster, segments: Iterable[str]) -> list[str]:
    """After `baton down`: processes, shared memory, temporary files, files of its home."""
    found = [f"process {pid} outlived `baton down`: {line}" for pid, line in processes_of(cluster.home)]
    found += [f"shared memory {path} outlived `baton down`" for path in sorted(segments) if os.path.exists(path)]
    for folder, kept in ((cluster.folder, KEPT), (cluster.home, KEPT_AT_HOME)):
        stayed = {path.name for path in folder.iterdir() if not path.name.startswith(TORCHS)} - kept
        found += [f"{folder / name} outlived `baton down`" for name in sorted(stayed)]
    return found


def processes_of(home: Path) -> list[tuple[int, str]]:
    """Whose environment names this home."""
    word, found = f"BATON_HOME={home}\0".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if word in (entry / "environ").read_bytes():
                    found.append(
                        (int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
                    )
            except OSError:
                continue
    return found
