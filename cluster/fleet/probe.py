"""What a node tells of itself before a worker may start there, and for what it is refused.

The question travels as code, not as a name: the node may have another Baton, or none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.host.cpus import counter

PACKAGES = {"Baton": "baton-serve", "Ray": "ray", "torch": "torch"}  # as it is called -> as it is installed


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """
    Attributes:
        cores: That processes may use, by number.
        is_capped: They may use so many of more at once, whichever: see `cluster.host.cpus`.
        versions: By a package's name; empty text: it is not installed.
        has_cuda: Whether torch is built for it, and its driver is there.
        missing: Of the paths that were asked for, those that are not there.
    """

    cores: tuple[int, ...]
    versions: Mapping[str, str]
    has_cuda: bool
    missing: tuple[str, ...] = ()
    is_capped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What workers need of a node."""

    paths: tuple[str, ...] = ()  # of the config's models, where it gives paths
    torch: bool = True
    cuda: bool = False


def refusal(facts: NodeFacts, own: NodeFacts, asked: Asked) -> str:
    """Why no worker may start on a node; empty: it may.

    Args:
        own: Of the node where the controller runs, which need not have torch.
    """
    for name in PACKAGES if asked.torch else [name for name in PACKAGES if name != "torch"]:
        here, there = own.versions[name], facts.versions[name]
        if not there:
            return f"it has no {name}; install {name} {here}".rstrip()
        if here and _public(there) != _public(here):
            return f"it has {name} {there}, and the head has {here}; install the same on both"
    if asked.cuda and not facts.has_cuda:
        torch = facts.versions["torch"]
        return f"its torch {torch} finds no CUDA; install its CUDA build and a driver, or set device: cpu"
    if facts.missing:
        return f"it has no {facts.missing[0]}; copy the model there, or put it on a shared disk"
    return ""


def _public(version: str) -> str:
    """Without the build: 2.11.0+cpu and 2.11.0+cu128 are one version."""
    return version.partition("+")[0]


def facts_of(answer: Mapping[str, Any]) -> NodeFacts:
    """Of what `question` returned."""
    return NodeFacts(
        cores=tuple(answer["cores"]),
        versions={name: answer["versions"][package] for name, package in PACKAGES.items()},
        has_cuda=answer["has_cuda"],
        missing=tuple(answer["missing"]),
        is_capped=answer["is_capped"],
    )


def question() -> Callable[[Sequence[str], Sequence[str]], dict[str, Any]]:
    """A function of packages and paths that runs on a node, and needs nothing there but Python.

    It is made here, within another, so that Ray sends its code along.
    """
    count = counter()

    def ask(packages: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
        import ctypes
        import importlib.metadata
        import importlib.util
        import os
        import runpy

        versions = {}
        for package in packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = ""
        torch = importlib.util.find_spec("torch")
        told = os.path.join(os.path.dirname(torch.origin), "version.py") if torch and torch.origin else ""
        has_cuda = bool(told and os.path.exists(told) and runpy.run_path(told).get("cuda"))
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            has_cuda = False
        cores, is_capped = count("/")
        return {
            "cores": cores,
            "is_capped": is_capped,
            "versions": versions,
            "has_cuda": has_cuda,
            "missing": [path for path in paths if not os.path.exists(path)],
        }

    return ask
