"""deploy/ray's files against Ray's own schema and checks, the clouds' own words, and what pools ask for."""

import json
import re
import subprocess
import tomllib
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import ValidationError
from ray._private.label_utils import validate_node_label_syntax
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.config.load import load, loads
from cluster.config.schema import BatonConfig
from cluster.fleet.needs import Need
from cluster.fleet.nodes import Node

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy/ray"
CLOUDS = ("aws", "gcp", "azure")
GANG = "pools: {prefill: {sequence_parallel: 4, resources: {baton_prefill: 1}, labels: {baton.dev/pool: prefill}}}"
DRAFT = "pools: {draft: {workers: 1, resources: {baton_draft: 1}, labels: {baton.dev/pool: draft}}}"


def read(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return tree


def checked(tree: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it asks a cloud for anything."""
    prepared: dict[str, Any] = prepare_config(deepcopy(tree))
    validate_config(prepared)
    return prepared


def node_of(name: str, kind: dict[str, Any]) -> Node:
    resources = kind["resources"]
    return Node(
        node_id=name,
        address=name,
        num_gpus=resources.get("GPU", 0),
        resources=resources,
        labels=kind.get("labels", {}),
    )


def fitting(cloud: str, config: BatonConfig, pool: str) -> list[str]:
    """The node types that have room for a worker of the pool."""
    need = Need.of(getattr(config.pools, pool), 1.0)
    kinds = read(cloud)["available_node_types"]
    return [name for name, kind in kinds.items() if need.fits(node_of(name, kind))]


@pytest.mark.parametrize("name", [*CLOUDS, "local"])
def test_a_file_is_valid_by_rays_own_schema_and_an_unknown_key_is_not(name: str) -> None:
    tree = read(name)
    checked(tree)
    with pytest.raises(ValidationError, match="'max_wokers' was unexpected"):
        checked({**tree, "max_wokers": 3})


@pytest.mark.parametrize("name", CLOUDS)
def test_an_unknown_key_of_a_node_type_is_refused(name: str) -> None:
    tree = read(name)
    tree["available_node_types"]["decode"]["lables"] = {}
    with pytest.raises(ValidationError, match="'lables' was unexpected"):
        checked(tree)


@pytest.mark.parametrize("name", [*CLOUDS, "local"])
def test_the_provider_is_told_only_what_rays_schema_knows(name: str) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    assert set(read(name)["provider"]) <= set(schema["properties"]["provider"]["properties"])


@pytest.mark.parametrize("name", CLOUDS)
def test_each_pool_finds_its_own_node_type_alone_and_a_gang_the_one_that_holds_it(name: str) -> None:
    config = load(FOLDER / "cluster.yaml")
    assert fitting(name, config, "prefill") == ["prefill", "prefill_gang"]
    assert fitting(name, config, "decode") == ["decode"]
    assert fitting(name, loads(GANG), "prefill") == ["prefill_gang"]
    assert fitting(name, loads(f"model: demo\n{DRAFT}"), "draft") == ["draft"]
    for kind in read(name)["available_node_types"].values():
        validate_node_label_syntax(kind["labels"])


def test_what_the_hosts_of_local_yaml_have_fits_the_config() -> None:
    tree = read("local")
    start = tree["worker_start_ray_commands"][1]
    pools = dict(re.findall(r"(10[\d.|]+)\) pool=(\w+)", start))
    by_host = {host: pool for hosts, pool in pools.items() for host in hosts.split("|")}
    assert sorted(by_host) == tree["provider"]["worker_ips"], "each host has a pool"
    config = load(FOLDER / "cluster.yaml")
    for pool in ("prefill", "decode"):
        need = Need.of(getattr(config.pools, pool), 0.0)
        resources = {"CPU": 8, f"baton_{pool}": 1}
        having = [host for host, of_host in by_host.items() if of_host == pool]
        node = Node(node_id="n", address="n", num_gpus=0, resources=resources, labels={"baton.dev/pool": pool})
        assert need.fits(node)
        assert len(having) == getattr(config.pools, pool).workers


@pytest.mark.parametrize("name", [*CLOUDS, "local"])
def test_every_node_has_the_token_the_same_versions_and_a_dashboard_on_loopback(name: str) -> None:
    tree = read(name)
    text = (FOLDER / f"{name}.yaml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tree["file_mounts"]["~/baton/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/baton/auth_token' >> ~/.bashrc" in tree["setup_commands"][-1]
    assert f"baton_serve-{project['version']}-*.whl" in text
    assert f"ray[default,serve]=={version('ray')}" in text
    assert "--dashboard-host=127.0.0.1" in tree["head_start_ray_commands"][1]
    assert "0.0.0.0" not in text
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in tree["head_start_ray_commands"][1]


@pytest.mark.parametrize("name", [*CLOUDS, "local"])
def test_bash_reads_every_command(name: str) -> None:
    tree = read(name)
    commands = [tree[key] for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")]
    for command in [one for several in commands for one in several]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_amazons_machines_are_asked_for_in_words_that_ec2_knows() -> None:
    session = pytest.importorskip("botocore.session", reason="botocore is not installed").get_session()
    validate = pytest.importorskip("botocore.validate").ParamValidator().validate
    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in read("aws")["available_node_types"].items():
        report = validate({**kind["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        unknown = set(kind["node_config"]) - set(shape.members)
        assert not unknown, f"{name}: {unknown}"


def test_azures_machines_are_asked_for_in_words_that_rays_template_knows() -> None:
    template = Path(ray.__file__).parent / "autoscaler/_private/_azure/azure-vm-template.json"
    known = set(json.loads(template.read_text())["parameters"])
    for name, kind in read("azure")["available_node_types"].items():
        assert set(kind["node_config"]) == {"azure_arm_parameters"}, name
        assert set(kind["node_config"]["azure_arm_parameters"]) <= known, name


def test_googles_machines_are_asked_for_in_words_that_rays_example_has() -> None:
    for name, kind in read("gcp")["available_node_types"].items():
        assert set(kind["node_config"]) <= {"machineType", "disks", "scheduling"}, name
        for disk in kind["node_config"]["disks"]:
            assert set(disk) == {"boot", "autoDelete", "type", "initializeParams"}, name
            assert set(disk["initializeParams"]) == {"diskSizeGb", "sourceImage"}, name
