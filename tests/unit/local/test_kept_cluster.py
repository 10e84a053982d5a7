"""A kept cluster's doors are those of its file, from the first connection to Ray on."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from baton.errors import UnavailableError
from cluster.config.load import from_tree
from cluster.host.state import ClusterState
from cluster.ingress.limits import LIMITS_VARIABLE
from cluster.ingress.tls_environment import TLS_VARIABLE
from cluster.local import ray_node as local_ray
from cluster.local.kept_cluster import KeptCluster


def test_serves_processes_are_told_of_certificate_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    told: dict[str, str] = {}

    def connect(cluster: ClusterState, namespace: str, actors_env: Mapping[str, str] | None = None) -> None:
        told.update(actors_env or {})
        raise UnavailableError("no Ray here")

    monkeypatch.setattr(local_ray, "prepare", lambda *_: None)
    monkeypatch.setattr(local_ray, "connect", connect)
    tls = {"certificate": "/etc/tls.crt", "key": "/etc/tls.key"}
    config = from_tree({"model": "demo", "tls": tls, "limits": {"max_connections": 7}})
    with pytest.raises(UnavailableError, match="no Ray here"):
        KeptCluster(lambda resolved: resolved, print, print).up(config)
    assert json.loads(told[TLS_VARIABLE])["certificate"] == "/etc/tls.crt"
    assert json.loads(told[LIMITS_VARIABLE])["max_connections"] == 7
