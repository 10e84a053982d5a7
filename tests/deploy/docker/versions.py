"""Which versions the images are built with: those of this environment, of everything that the packages need.

python -m tests.deploy.docker.versions > deploy/docker/constraints.txt
"""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
HEAD = """\
# The versions that the tests ran with, and the images are built with (python -m tests.deploy.docker.versions).
# What is of one platform (nvidia-*, triton) torch pins itself.
"""
_OF_A_PLATFORM = ("nvidia-", "cuda-", "triton")


def extras() -> dict[str, list[Requirement]]:
    """Of pyproject.toml; "" is what every install brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = {"": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(text) for text in lines] for name, lines in texts.items()}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Versions of what the images' extras need, and of what that needs."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    waiting = [one for name in ("", "control", "worker") for one in extras()[name] if one.name != "baton-serve"]
    while waiting:
        requirement = waiting.pop()
        key = normal(requirement.name), tuple(sorted(requirement.extras))
        if key in found or key[0].startswith(_OF_A_PLATFORM):
            continue
        distribution = importlib.metadata.distribution(requirement.name)
        found[key] = distribution.version.split("+")[0]
        waiting += _needed(distribution, key[1])
    return {name: version for (name, _), version in sorted(found.items())}


def _needed(distribution: importlib.metadata.Distribution, wanted: tuple[str, ...]) -> Iterator[Requirement]:
    here: dict[str, str] = {str(name): str(value) for name, value in default_environment().items()}
    for text in distribution.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate(here | {"extra": extra}) for extra in ("", *wanted)):
            yield requirement


if __name__ == "__main__":
    print(HEAD + "\n".join(f"{name}=={version}" for name, version in installed().items()))
