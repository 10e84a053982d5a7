"""The SDK as a user gets it: a small wheel, in an empty environment, with grpcio and protobuf alone."""

import json
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.grpc_server import FakeGrpcServer

ROOT = Path(__file__).parents[3]
MAX_IMPORT_S = 0.3
MAX_WHEEL_BYTES = 100_000
# Of this process's own time: what others do on a busy machine is not the import's.
IMPORT = "import time; t = time.process_time(); import baton; baton.Client; print(time.process_time() - t)"
TALK = """
import asyncio, sys, baton
with baton.Client(sys.argv[1], timeout_s=60) as client:
    print(client.generate("Once", max_tokens=2).text, client.health())
async def main():
    async with baton.AsyncClient(sys.argv[1], timeout_s=60) as client:
        print((await client.generate("Once", max_tokens=2)).text)
asyncio.run(main())
"""


def project(path: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]
    return table


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("key", ["version", "dependencies", "requires-python", "license"])
def test_client_and_server_say_the_same_of_the_sdk(key: str) -> None:
    assert project("client/pyproject.toml")[key] == project("pyproject.toml")[key]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")  # a build leaves folders beside what it builds
    ignored = shutil.ignore_patterns("__pycache__", "build")
    for name in ("baton", "client"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", folder / "out", folder / "client")
    (built,) = (folder / "out").iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    install = [interpreter, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", wheel]
    done = subprocess.run(list(map(str, install)), capture_output=True, text=True, timeout=170)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip(f"pip has neither an index nor grpcio and protobuf: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    yield interpreter
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_wheel_holds_the_sdk_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"baton"}
    assert {"baton/py.typed", "baton/v1/inference_pb2.pyi"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


@pytest.mark.slow
def test_it_brings_grpcio_and_protobuf_alone(python: Path) -> None:
    listed = json.loads(run(python, "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"))
    of_grpcio = {"typing_extensions"}
    of_the_environment = {"pip", "setuptools"}
    names = {each["name"].replace("-", "_") for each in listed} - of_the_environment
    assert names == {"baton_client", "grpcio", "protobuf"} | of_grpcio


@pytest.mark.slow
def test_it_imports_fast(python: Path, tmp_path: Path) -> None:
    run(python, "-c", IMPORT, cwd=tmp_path)  # compiles
    took_s = min(float(run(python, "-c", IMPORT, cwd=tmp_path)) for _ in range(5))
    print(f"import baton, to the client: {took_s * 1000:.0f} ms")
    assert took_s < MAX_IMPORT_S


@pytest.mark.slow
def test_it_talks_to_a_server(python: Path, tmp_path: Path) -> None:
    with FakeGrpcServer() as server:
        assert run(python, "-c", TALK, server.target, cwd=tmp_path) == "t0 t1  serving\nt0 t1 \n"
