"""What docs/sdk.md shows: each Python block runs, each grpcurl line is of the proto, and the tables are whole."""

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import grpc
import pytest
import trustme
from google.protobuf import json_format, message_factory

import baton
from baton.v1 import inference_pb2
from tests.grpc_server import FakeGrpcServer, written

PAGE = Path(__file__).parents[3] / "docs" / "sdk.md"
TEXT = PAGE.read_text(encoding="utf-8")
ERRORS = [getattr(baton, name) for name in baton.__all__ if name.endswith("Error") and name != "BatonError"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def plain() -> Iterator[FakeGrpcServer]:
    with FakeGrpcServer() as running:
        yield running


def run(block: str) -> None:
    exec(compile(block, str(PAGE), "exec"), {"__name__": "example"})  # noqa: S102


@pytest.mark.parametrize(
    "block", [block for block in blocks("python") if "tls=" not in block and "schema=" not in block]
)
def test_an_example_runs(block: str, plain: FakeGrpcServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "127.0.0.1:9000" in block
    before = len(plain.requests)
    run(block.replace("127.0.0.1:9000", plain.target))
    assert len(plain.requests) > before
    assert capsys.readouterr().out


def test_the_example_of_a_model_runs(plain: FakeGrpcServer, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (block for block in blocks("python") if "schema=" in block)
    plain.scripts.extend([written('{"name": "Paris", "population": 1}'), written('{"name": "Lyon", "population": 2}')])
    run(block.replace("127.0.0.1:9000", plain.target))
    assert capsys.readouterr().out == "Paris 1\n[City(name='Lyon', population=2)]\n"
    assert json.loads(plain.requests[-1].sampling.structured_output.json_schema)["title"] == "City"


def test_the_example_of_tls_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (block for block in blocks("python") if "tls=" in block)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    cert = ca.issue_cert("127.0.0.1")
    chain = b"".join(pem.bytes() for pem in cert.cert_chain_pems)
    with FakeGrpcServer(credentials=grpc.ssl_server_credentials([(cert.private_key_pem.bytes(), chain)])) as server:
        block = block.replace("baton.example:9000", server.target).replace("ca.crt", str(tmp_path / "ca.crt"))
        run(block)
        assert server.metadata[0]["authorization"] == "Bearer bt-..."
    assert "t0" in capsys.readouterr().out


def commands() -> list[list[str]]:
    return [shlex.split(command) for block in blocks("bash") for command in block.split("\n\n")]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command[-1])
def test_a_line_of_grpcurl_calls_a_method_with_fields_that_it_has(command: list[str]) -> None:
    assert command[0] == "grpcurl"
    service, _, method = command[-1].partition("/")
    if service == "grpc.health.v1.Health":
        return
    assert service == "baton.v1.Inference"
    wanted = inference_pb2.DESCRIPTOR.services_by_name["Inference"].methods_by_name[method].input_type
    body = json.loads(command[command.index("-d") + 1]) if "-d" in command else {}
    request = json_format.ParseDict(body, message_factory.GetMessageClass(wanted)())
    assert request.IsInitialized()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_error_has_its_line(error: type[baton.BatonError]) -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith(f"| `{error.__name__}`"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    is_local = error in (baton.ConfigError, baton.IncompleteAnswerError)
    status = "" if is_local else error.grpc_status
    assert (cells[1].strip("`"), cells[2]) == (error.code, status)
    assert cells[4] == ("yes" if error.retryable else "no")


@pytest.mark.parametrize(
    "name", [*get_type_hints(baton.Options), "schema", *inspect.signature(baton.Client).parameters]
)
def test_each_keyword_is_told(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)


def test_each_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        if not link.startswith("https://"):
            assert (PAGE.parent / link).exists(), link


def test_a_client_has_the_methods_of_the_table() -> None:
    public: list[Any] = [name for name in vars(baton.Client) if not name.startswith("_") and name != "close"]
    for name in public:
        assert f"`{name}(" in TEXT
        assert hasattr(baton.AsyncClient, name)
