"""Tells what happens in the cluster of BATON_HOME until its standard input ends: `python -m tools.soak.feed`.

A process of its own: the soak itself is connected to no Ray, and may go on whatever becomes of this one.
"""

from cluster.host import state
from cluster.local import ray_node as local_ray


def main() -> None:
    cluster = state.read()
    assert cluster is not None, "no cluster runs"
    local_ray.connect(cluster, namespace="baton")
    from tools.soak.feeding import Feed

    Feed().run()


if __name__ == "__main__":
    main()
