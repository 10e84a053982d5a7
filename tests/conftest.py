"""One throw-away BATON_HOME for the whole run, and at most one Ray cluster, started by the first test that asks."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

# Before anything imports torch or Ray: tests share few cores, and must not see the user's own cluster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("RAY_ADDRESS", None)
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: kernels run on the CPU then


def _new_home() -> Path:
    """A run that was killed leaves its home: the next one clears away those of processes that are gone."""
    for left in Path(tempfile.gettempdir()).glob("baton-home-*-*"):
        pid = left.name.split("-")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"baton-home-{os.getpid()}-"))


_HOME = _new_home()
os.environ["BATON_HOME"] = str(_HOME)

from cluster.host import state  # noqa: E402
from cluster.local import ray_node as local_ray  # noqa: E402

os.environ.update(local_ray.ray_env())
CLUSTER_TESTS = Path(__file__).parent / "cluster"

# A busy machine is no failure; `timeout` ends what hangs.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts a cluster is marked: such tests run one after the other, all others side by side."""
    for item in items:
        if CLUSTER_TESTS in item.path.parents or "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[state.ClusterState]:
    """A local Ray that this process has joined. Detached actors of one test are that test's to end."""
    import ray

    cluster = local_ray.start(local_ray.new_state(), {"PYTHONPATH": str(Path(__file__).parents[1])})
    try:
        local_ray.connect(cluster, namespace="tests")
        yield cluster
    finally:
        ray.shutdown()
        local_ray.stop(cluster)
