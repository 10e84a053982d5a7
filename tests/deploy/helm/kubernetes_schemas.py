"""Kubernetes' own JSON schemas, every unknown field refused, and ours of custom resources on top of them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

OLDEST = "1.31"  # that the chart takes
NEWER = ("1.33", "1.37")
OWN = {
    "RayCluster": "raycluster",
    "HTTPRoute": "httproute",
    "GRPCRoute": "grpcroute",
    "ServiceMonitor": "servicemonitor",
    "PodMonitor": "podmonitor",
    "PrometheusRule": "prometheusrule",
}


def faults(one: dict[str, Any], version: str) -> list[str]:
    """What is wrong with an object; empty: nothing."""
    validator = _validator(one["kind"], one["apiVersion"], version)
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(one)]


@cache
def _validator(kind: str, api_version: str, version: str) -> Any:
    package = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    from jsonschema import Draft202012Validator

    folder = Path(package.__file__).parent / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    if kind in OWN:
        schema = yaml.safe_load((Path(__file__).parent / "schemas" / f"{OWN[kind]}.yaml").read_text(encoding="utf-8"))
    else:
        group = "".join(part + "-" for part in api_version.split("/")[:-1]).partition(".")[0].rstrip("-")
        name = "-".join(part for part in (kind.lower(), group, api_version.rpartition("/")[2]) if part)
        schema = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema, registry=_registry(folder))


@cache
def _registry(folder: Path) -> Any:
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    definitions = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    resource = Resource.from_contents(definitions, default_specification=DRAFT202012)
    return Registry().with_resource("/api/_definitions.json", resource)
