"""`make demo-cluster`: `ray up` onto four hosts made of namespaces, Baton on them, a host cut off, and all gone again.

Needs root, and what `tools.demo_cluster.hosts.TOOLS` names; says by name what is missing.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tools.demo_cluster.hosts import Hosts, missing
from tools.demo_cluster.ray_up import NAMES, Cluster
from tools.demo_cluster.story import Story


def main() -> int:
    if lacking := missing():
        print(f"no hosts can be made here: {lacking}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # the hosts end then too
    hosts = Hosts(NAMES)
    try:
        with _told("five hosts, each with its own network, processes, /tmp and home, over SSH"):
            hosts.start()
        story = Story(Cluster(hosts))
        for title, step in story.steps():
            with _told(title):
                for line in step():
                    print(f"   {line}", flush=True)
    finally:
        hosts.end()
    print("\nall as it should be")
    return 0


@contextmanager
def _told(title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    begin = time.monotonic()
    yield
    print(f"   ({time.monotonic() - begin:.1f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
