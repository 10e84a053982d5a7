"""A container's bound on CPU time is found where cgroups of either version keep it."""

import os
from pathlib import Path

import pytest

from cluster.host.cpus import usable


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8, 16)), raising=False)


def made(root: Path, group: str, files: dict[str, str]) -> str:
    for path, text in {"proc/self/cgroup": group, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return str(root)


V1 = "4:cpu,cpuacct:/docker/ab\n3:memory:/docker/ab\n"


@pytest.mark.parametrize(
    ("group", "files", "num_cores"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        ("0::/../x\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (V1, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2),
        (V1, {f"sys/fs/cgroup/cpu,cpuacct/docker/ab/cpu.cfs_{name}_us": "100000" for name in ("quota", "period")}, 1),
        (V1, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_the_lowest_bound_counts(tmp_path: Path, group: str, files: dict[str, str], num_cores: int) -> None:
    found = usable(made(tmp_path, group, files))
    assert list(found.cores) == list(range(8, 8 + num_cores))
    assert found.is_capped is (num_cores < 8)
