"""The keeper: one process that holds a local Ray cluster, and ends it when it ends itself.

    python -m cluster.local.head FOLDER NUM_CPUS OBJECT_STORE_BYTES

Prints {"address": "..."} when Ray runs, and goes on until SIGTERM or until one of Ray's processes dies. `ray start`
listens on all interfaces even with --node-ip-address=127.0.0.1; a node made here keeps to loopback.
"""

import json
import signal
import sys
import time
from types import FrameType

CHECK_S = 1.0


def main(folder: str, num_cpus: int, object_store_bytes: int) -> int:
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    signal.signal(signal.SIGTERM, _leave)
    node = Node(
        RayParams(
            node_ip_address="127.0.0.1",
            num_cpus=num_cpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            include_log_monitor=False,  # type: ignore[arg-type]  # it is read as a bool
            no_monitor=True,  # nothing scales a laptop
            dashboard_agent_listen_port=0,
            temp_dir=folder,
        ),
        head=True,
        shutdown_at_exit=False,
        spawn_reaper=True,  # the kernel ends Ray's processes when this one is killed
    )
    try:
        print(json.dumps({"address": node.gcs_address}), flush=True)
        while not node.dead_processes():  # type: ignore[no-untyped-call]
            time.sleep(CHECK_S)
        return 1
    finally:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
