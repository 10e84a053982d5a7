"""A release's life by the real Helm, against a stand-in of the API server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.helm.api_server import Store, api_server
from tests.deploy.helm.chart import CHART, run_helm


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with api_server(tmp_path) as (store, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield store


def helm(command: str, *arguments: str) -> str:
    flags = [] if command == "uninstall" else [str(CHART), "--disable-openapi-validation"]
    done = run_helm(command, "baton", *flags, "--namespace", "serving", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_secrets_are_made_once_and_outlive_upgrades_and_the_release(kubernetes: Store) -> None:
    said = helm("install", "--set", "config.model=demo")
    assert "helm -n serving test baton" in said
    assert kubernetes.names("rayclusters") == ["baton"]
    first = kubernetes.one("secrets", "baton-internal")["data"]

    helm("upgrade", "--set", "config.model=demo,config.pools.decode.workers=2")
    groups = kubernetes.one("rayclusters", "baton")["spec"]["workerGroupSpecs"]
    assert {group["groupName"]: group["replicas"] for group in groups} == {"prefill": 1, "decode": 2}
    assert "workers: 2" in kubernetes.one("configmaps", "baton")["data"]["cluster.yaml"]
    assert kubernetes.one("secrets", "baton-internal")["data"] == first

    helm("uninstall")
    assert kubernetes.names("rayclusters") == kubernetes.names("services") == []
    assert kubernetes.one("secrets", "baton-internal")["data"] == first

    helm("install")
    assert kubernetes.one("secrets", "baton-internal")["data"] == first
