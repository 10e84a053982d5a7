"""Pods of a pool's group offer just what the pool's workers ask for."""

from typing import Any

import pytest

from cluster.config.load import from_tree
from cluster.config.schema import SPREAD, BatonConfig
from tests.deploy.helm.chart import VALUE_FILES, config_of, groups, of_kind, ray_spec, render, render_with


def baton_config(name: str) -> BatonConfig:
    """As Baton's own loader reads it."""
    return from_tree(config_of(render(name)))


@pytest.fixture(params=VALUE_FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def gpus(pod: dict[str, Any]) -> int:
    return sum(container["resources"]["limits"].get("nvidia.com/gpu", 0) for container in pod["spec"]["containers"])


def test_baton_takes_the_config_that_the_pods_read(name: str) -> None:
    config = baton_config(name)
    assert config.http.host == "0.0.0.0"
    assert config.health.start_timeout_s == 1800


def test_the_device_is_what_the_pods_have_whoever_comes_first(name: str) -> None:
    """`auto` would look at the head alone, which has no GPU, while the others' images are pulled."""
    has_gpus = any(gpus(group["template"]) for group in groups(render(name)).values())
    assert baton_config(name).device == ("cuda" if has_gpus else "cpu")
    assert config_of(render_with("--set", "gpu.enabled=true"))["device"] == "cuda"


def test_the_resources_of_a_group_add_up_to_its_pools_gangs(name: str) -> None:
    made, config = groups(render(name)), baton_config(name)
    pools = dict(config.pools.by_name())
    assert made.keys() - {"head", "ingress"} == pools.keys()
    for role, pool in pools.items():
        group = made[role]
        num_pods = group["maxReplicas"] * group["numOfHosts"]
        num_ranks = pool.num_ranks * (pool.workers if name != "autoscaling" else group["maxReplicas"])
        assert num_pods * int(group["resources"][f"baton_{role}"]) == num_ranks
        assert num_pods * gpus(group["template"]) == (num_ranks if config.device == "cuda" else 0)


def test_a_gang_is_one_pod_or_pods_that_come_together(name: str) -> None:
    for role, pool in baton_config(name).pools.by_name():
        group = groups(render(name))[role]
        assert group["numOfHosts"] == (pool.num_ranks if pool.placement == SPREAD else 1)


def test_a_pool_asks_for_what_its_group_offers(name: str) -> None:
    made, config = groups(render(name)), config_of(render(name))
    for role, pool in config["pools"].items():
        assert pool["resources"] == {f"baton_{role}": 1}
        assert pool["resources"].keys() <= made[role]["resources"].keys()
        assert pool["labels"] == made[role]["labels"] == {"baton.dev/pool": role}


def test_the_head_takes_no_worker(name: str) -> None:
    head = ray_spec(render(name))["headGroupSpec"]
    assert head["resources"] == {"CPU": "0", "baton_head": "1"}


def test_an_ingress_of_several_replicas_has_pods_of_its_own() -> None:
    made, config = groups(render("cpu")), config_of(render("cpu"))
    assert made["ingress"]["maxReplicas"] == config["http"]["replicas"] == 3
    assert config["http"]["node_resource"] in made["ingress"]["resources"]
    assert "ingress" not in groups(render("minimal"))
    assert "node_resource" not in config_of(render("minimal"))["http"]


def test_with_autoscaling_pods_are_rays_to_count() -> None:
    decode = groups(render("autoscaling"))["decode"]
    assert (decode["minReplicas"], decode["maxReplicas"]) == (2, 8)
    assert "replicas" not in decode  # an upgrade would set it back
    assert ray_spec(render("autoscaling"))["enableInTreeAutoscaling"]


def test_a_node_drain_takes_one_worker_of_a_pool_at_most() -> None:
    budgets = {
        one["metadata"]["name"]: one["spec"]["minAvailable"] for one in of_kind(render("cpu"), "PodDisruptionBudget")
    }
    assert budgets == {"baton-head": 1, "baton-ingress": 2, "baton-prefill": 1, "baton-decode": 2}
    gang = {
        one["metadata"]["name"]: one["spec"]
        for one in of_kind(render("hybrid-sequence-parallel"), "PodDisruptionBudget")
    }
    assert gang["baton-prefill"]["minAvailable"] == 4  # of one worker's pods the first that goes ends it
    assert all("maxUnavailable" not in spec for spec in gang.values())  # a RayCluster has no scale


def test_rays_autoscaler_reads_of_the_groups_what_the_pools_ask_for() -> None:
    """Its own reader of a RayCluster, as it runs beside the head."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    (cluster,) = of_kind(render("autoscaling"), "RayCluster")
    cluster = {**cluster, "metadata": {**cluster["metadata"], "namespace": "serving"}}
    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    types = read["available_node_types"]
    assert read["idle_timeout_minutes"] == 2
    assert types["headgroup"]["resources"]["CPU"] == 0
    decode = types["decode"]
    assert (decode["min_workers"], decode["max_workers"]) == (2, 8)
    assert decode["resources"]["baton_decode"] == 1
    assert decode["resources"]["CPU"] == 2
    assert decode["labels"] == {"baton.dev/pool": "decode"}
