"""The images' files: linted, pinned, not root, and of the right parts; what can run without an engine is run."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from cluster.config.load import load
from tests.deploy.docker import versions
from tests.deploy.docker.dockerfile import FOLDER, ROOT, arguments, lineage, stages

IMAGES = ("control", "cpu", "cuda")
TORCH = ("torch", "transformers", "accelerate", "safetensors", "gguf")
BLOCKED = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import cluster
for module in pkgutil.walk_packages(cluster.__path__, "cluster."):
    importlib.import_module(module.name)
print("all of them")
"""


def _tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


def test_the_dockerfile_has_no_lint() -> None:
    done = subprocess.run(
        [_tool("hadolint"), "--no-color", str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_is_valid_against_composes_schema() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    tool = [sys.executable, "-m", "check_jsonschema"]
    command = [*tool, "--builtin-schema", "vendor.compose-spec", str(FOLDER / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_base_image_has_an_exact_tag_or_a_digest() -> None:
    known, given = stages(), arguments()
    for stage in known.values():
        base = re.sub(r"\$\{(\w+)\}", lambda match: given[match[1]], stage.base)
        assert base in known or re.search(r":\d+\.\d+\.\d+-|@sha256:", base), base
    for service in _compose()["services"].values():
        assert re.search(r":\d+\.\d+\.\d+", service["image"])


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_with_an_init_a_health_check_and_labels(image: str) -> None:
    family = lineage(image)
    assert family[0].of("USER") == ["10001:10001"]
    assert family[0].instructions[-1].name == "USER"
    everything = {name for stage in family for name in (one.name for one in stage.instructions)}
    assert {"ENTRYPOINT", "CMD", "HEALTHCHECK", "LABEL"} <= everything
    (entry,) = [text for stage in family for text in stage.of("ENTRYPOINT")]
    assert json.loads(entry) == ["/usr/bin/tini", "--"]
    labels = " ".join(text for stage in family for text in stage.of("LABEL"))
    assert "org.opencontainers.image.version" in labels
    assert "org.opencontainers.image.licenses" in labels


def test_a_login_shell_finds_ray_and_baton(tmp_path: Path) -> None:
    """`ray up` runs its commands in one, and /etc/profile sets PATH anew there."""
    (line,) = [text for text in stages()["base"].of("COPY") if "/etc/profile.d/" in text]
    program = f"PATH=/usr/bin:/bin; . {ROOT / line.split()[0]}; echo $PATH"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split(":")[0] == "/opt/baton/bin"


def test_no_run_line_leaves_a_cache_behind() -> None:
    for stage in stages().values():
        for line in stage.of("RUN"):
            assert line.count("pip install") + line.count("pip wheel") == line.count("--no-cache-dir"), line
            assert "apt-get install" not in line or "rm -rf /var/lib/apt/lists/*" in line, line


def test_the_control_plane_has_no_torch() -> None:
    (copied,) = lineage("control")[0].of("COPY")
    assert "--from=control-packages" in copied
    packages = " ".join(text for stage in lineage("control-packages") for text in stage.of("RUN"))
    assert "'baton-serve[control]'" in packages
    assert "worker" not in packages
    names = {versions.normal(one.name) for one in versions.extras()["control"]}
    assert names.isdisjoint(TORCH)
    program = BLOCKED.format(names=set(TORCH))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "all of them", done.stderr


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in stages().values():
        for text in stage.of("COPY"):
            if "--from=" in text:
                continue
            for source in text.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == path or source.startswith(f"{path}/") for path in allowed), source


def test_the_pinned_versions_are_ones_that_the_packages_allow() -> None:
    lines = (FOLDER / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    for name in ("", "control", "worker"):
        for requirement in versions.extras()[name]:
            if requirement.name != "baton-serve":
                version = Version(pinned[versions.normal(requirement.name)])
                assert SpecifierSet(str(requirement.specifier)).contains(version), requirement


def test_the_tags_are_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert arguments()["VERSION"] == version
    assert {service["image"].split(":")[1].removesuffix("-cuda") for service in _compose()["services"].values()} == {
        version
    }


def test_compose_serves_a_config_that_baton_takes_to_this_machine_alone_with_few_rights() -> None:
    config = load(FOLDER / "cluster.yaml")
    for service in _compose()["services"].values():
        assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in (config.http.port, config.grpc.port)]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")
        assert f":{config.http.port}/health" in service["healthcheck"]["test"][1]
        assert "cache:/cache" in service["volumes"]
        assert (ROOT / "deploy" / "docker" / service["build"]["context"]).resolve() == ROOT
        assert service["build"]["target"] in IMAGES
