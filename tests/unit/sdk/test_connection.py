"""TLS and the key: what goes over the wire, what is refused, and that nothing shows the key."""

import datetime
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

import baton
from baton._connection import Connection, is_loopback
from tests.grpc_server import Fail, FakeGrpcServer, Hang

KEY = "bt-0123456789abcdef"
PAST = {"not_before": datetime.datetime(2019, 1, 1), "not_after": datetime.datetime(2020, 1, 1)}  # noqa: DTZ001


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.crt"
    ca.cert_pem.write_to_path(str(path))
    return path


def credentials(cert: trustme.LeafCert, client_ca: trustme.CA | None = None) -> grpc.ServerCredentials:
    chain = b"".join(pem.bytes() for pem in cert.cert_chain_pems)
    root = None if client_ca is None else client_ca.cert_pem.bytes()
    return grpc.ssl_server_credentials([(cert.private_key_pem.bytes(), chain)], root, client_ca is not None)


def written(cert: trustme.LeafCert, folder: Path) -> tuple[Path, Path]:
    """The files of a certificate and of its key."""
    chain, key = folder / "tls.crt", folder / "tls.key"
    chain.write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
    cert.private_key_pem.write_to_path(str(key))
    return chain, key


@pytest.fixture
def tls_server(ca: trustme.CA) -> Iterator[FakeGrpcServer]:
    with FakeGrpcServer(credentials=credentials(ca.issue_cert("127.0.0.1"))) as running:
        yield running


def refusal(target: str, **arguments: Any) -> str:
    with (
        baton.Client(target, max_retries=0, timeout_s=20, **arguments) as client,
        pytest.raises(baton.UnavailableError) as caught,
    ):
        client.models()
    return caught.value.message


def test_every_call_carries_the_key(server: FakeGrpcServer) -> None:
    with baton.Client(server.target, timeout_s=20, api_key=KEY) as client:
        client.generate("Once")
        client.detokenize(client.tokenize("On"))
        client.models()
    assert [sent["authorization"] for sent in server.metadata] == [f"Bearer {KEY}"] * 4


async def test_every_call_of_the_asyncio_client_carries_the_key(server: FakeGrpcServer) -> None:
    async with baton.AsyncClient(server.target, timeout_s=20, api_key=KEY) as client:
        await client.generate("Once")
        await client.detokenize(await client.tokenize("On"))
        await client.models()
    assert [sent["authorization"] for sent in server.metadata] == [f"Bearer {KEY}"] * 4


async def test_health_carries_the_key_too() -> None:
    seen: list[Any] = []

    async def check(_: bytes, context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata()).get("authorization"))
        return b"\x08\x01"

    method = grpc.unary_unary_rpc_method_handler(check)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with baton.AsyncClient(target, api_key=KEY) as client:
        assert await client.health() == "serving"
    await server.stop(None)
    assert seen == [f"Bearer {KEY}"]


def test_the_key_may_come_from_the_environment(server: FakeGrpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_API_KEY", KEY + "\n")
    for given, sent in ((None, f"Bearer {KEY}"), ("bt-other", "Bearer bt-other"), ("", None)):
        with baton.Client(server.target, timeout_s=20, api_key=given) as client:
            client.models()
        assert server.metadata[-1].get("authorization") == sent


def test_without_a_key_none_is_sent(server: FakeGrpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATON_API_KEY", raising=False)
    with baton.Client(server.target, timeout_s=20) as client:
        client.models()
    assert "authorization" not in server.metadata[0]


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY[:8]} {KEY[8:]}", f"{KEY}\x00", f"{KEY}ü"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(baton.ConfigError, match=r"api_key holds a character that no key has, at place \d+") as caught:
        baton.Client("127.0.0.1:1", api_key=key)
    assert KEY[:8] not in str(caught.value)


def test_a_key_of_another_type_is_refused() -> None:
    wrong: Any = b"bt-bytes"
    with pytest.raises(baton.ConfigError, match="api_key is of type bytes; give the key as text"):
        baton.Client("127.0.0.1:1", api_key=wrong)


def test_neither_repr_nor_errors_nor_logs_show_the_key(
    server: FakeGrpcServer, dead_target: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.scripts.append([Fail(status=grpc.StatusCode.UNAUTHENTICATED, details="the API key is not known")])
    server.scripts.append([Hang()])
    seen: list[str] = []
    with baton.Client(server.target, api_key=KEY, timeout_s=20, max_retries=0) as client:
        seen.append(repr(client))
        for timeout_s in (20, 0.1):
            with pytest.raises(baton.BatonError) as caught:
                client.generate("Once", timeout_s=timeout_s)
            seen.append(f"{caught.value!r} {caught.value.__cause__!r}")
    with baton.Client(dead_target, api_key=KEY, max_retries=0) as client, pytest.raises(baton.BatonError) as caught:
        client.models()
    seen.append(f"{caught.value!r} {caught.value.__cause__!r} {Connection(dead_target, api_key=KEY)!r}")
    assert len(seen) == 4
    assert KEY not in "".join(seen) + caplog.text


@pytest.mark.parametrize(
    ("target", "is_here"),
    [
        ("127.0.0.1:9000", True),
        ("127.8.0.1:9000", True),
        ("localhost:9000", True),
        ("localhost", True),
        ("[::1]:9000", True),
        ("::1", True),
        ("unix:/run/baton.sock", True),
        ("unix:///run/baton.sock", True),
        ("dns:///localhost:9000", True),
        ("dns:localhost:9000", True),
        ("ipv4:127.0.0.1:9000,127.0.0.2:9000", True),
        ("ipv6:[::1]:9000", True),
        ("ipv4:127.0.0.1:9000,10.0.0.1:9000", False),
        ("10.0.0.1:9000", False),
        ("0.0.0.0:9000", False),
        ("[2001:db8::1]:9000", False),
        ("baton.example:9000", False),
        ("127.0.0.1.example:9000", False),
        ("localhost.example:9000", False),
        ("dns://127.0.0.1/baton.example:9000", False),
        ("xds:///localhost", False),
        ("", False),
    ],
)
def test_a_plain_key_goes_to_this_machine_alone(target: str, is_here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATON_ALLOW_PLAIN_KEY", raising=False)
    assert is_loopback(target) is is_here
    if is_here:
        assert Connection(target, api_key=KEY).metadata
        return
    with pytest.raises(baton.ConfigError, match=r"api_key would go to .* in plain text.* give tls=True") as caught:
        Connection(target, api_key=KEY)
    assert KEY not in str(caught.value)
    assert not Connection(target, api_key="").metadata
    assert Connection(target, api_key=KEY, tls=True).metadata
    assert Connection(target, api_key=KEY, allow_plain_key=True).metadata
    monkeypatch.setenv("BATON_ALLOW_PLAIN_KEY", "1")
    assert Connection(target, api_key=KEY).metadata
    with pytest.raises(baton.ConfigError, match="in plain text"):
        Connection(target, api_key=KEY, allow_plain_key=False)


def test_no_proxy_stands_between_a_client_and_this_machine(
    server: FakeGrpcServer, dead_target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{dead_target}")
    monkeypatch.setenv("no_proxy", "")
    with baton.Client(server.target, timeout_s=20, max_retries=0) as client:
        assert client.models()


def test_tls_with_an_authority_of_ones_own(tls_server: FakeGrpcServer, ca_file: Path) -> None:
    with baton.Client(tls_server.target, timeout_s=20, api_key=KEY, tls=baton.TLS(ca=ca_file)) as client:
        assert client.generate("Once", max_tokens=1).text == "t0 "
        assert client.health() == "serving"
    assert tls_server.metadata[0]["authorization"] == f"Bearer {KEY}"


async def test_the_asyncio_client_speaks_tls_too(tls_server: FakeGrpcServer, ca_file: Path) -> None:
    async with baton.AsyncClient(tls_server.target, timeout_s=20, tls=baton.TLS(ca=ca_file)) as client:
        assert (await client.generate("Once", max_tokens=1)).text == "t0 "


def test_a_certificate_that_does_not_hold_is_refused_with_the_fix(
    tls_server: FakeGrpcServer, ca: trustme.CA, ca_file: Path
) -> None:
    assert "does not hold; name who signed it: tls=baton.TLS(ca=...)" in refusal(tls_server.target, tls=True)
    with FakeGrpcServer(credentials=credentials(ca.issue_cert("127.0.0.1", **PAST))) as expired:
        message = refusal(expired.target, tls=baton.TLS(ca=ca_file))
        assert "does not hold" in message
        assert "expired" in message


def test_a_certificate_for_another_name_wants_that_name(ca: trustme.CA, ca_file: Path) -> None:
    with FakeGrpcServer(credentials=credentials(ca.issue_cert("baton.example"))) as server:
        assert "is for another name" in refusal(server.target, tls=baton.TLS(ca=ca_file))
        named = baton.TLS(ca=ca_file, server_name="baton.example")
        with baton.Client(server.target, timeout_s=20, tls=named) as client:
            assert client.models()


def test_plain_text_and_tls_do_not_understand_each_other(
    server: FakeGrpcServer, tls_server: FakeGrpcServer, ca_file: Path
) -> None:
    assert "closed the connection; if it speaks TLS give tls=True" in refusal(tls_server.target)
    assert "does not speak TLS; leave tls out" in refusal(server.target, tls=baton.TLS(ca=ca_file))


def test_mutual_tls_shows_who_the_client_is(ca: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    certificate, key = written(ca.issue_cert("client.example"), tmp_path)
    with FakeGrpcServer(credentials=credentials(ca.issue_cert("127.0.0.1"), client_ca=ca)) as server:
        assert "mutual TLS baton.TLS(certificate=...)" in refusal(server.target, tls=baton.TLS(ca=ca_file))
        mutual = baton.TLS(ca=ca_file, certificate=certificate, key=str(key))
        with baton.Client(server.target, timeout_s=20, tls=mutual) as client:
            assert client.models()


def _missing(folder: Path, ca: trustme.CA) -> baton.TLS:
    return baton.TLS(ca=folder / "none.crt")


def _not_pem(folder: Path, ca: trustme.CA) -> baton.TLS:
    (folder / "junk").write_text("junk")
    return baton.TLS(ca=folder / "junk")


def _no_key(folder: Path, ca: trustme.CA) -> baton.TLS:
    return baton.TLS(certificate=written(ca.issue_cert("c"), folder)[0])


def _no_certificate(folder: Path, ca: trustme.CA) -> baton.TLS:
    return baton.TLS(key=written(ca.issue_cert("c"), folder)[1])


def _no_pair(folder: Path, ca: trustme.CA) -> baton.TLS:
    (folder / "other").mkdir()
    other = written(ca.issue_cert("d"), folder / "other")[1]
    return baton.TLS(certificate=written(ca.issue_cert("c"), folder)[0], key=other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, r"tls\.ca .*none\.crt cannot be read: No such file"),
        (_not_pem, r"tls\.ca .*junk holds no certificate \(PEM\)"),
        (_no_key, r"tls\.certificate is given without tls\.key; mutual TLS needs both"),
        (_no_certificate, r"tls\.key is given without tls\.certificate"),
        (_no_pair, r"tls\.certificate .* and tls\.key .* are no pair"),
        (lambda folder, ca: "ca.crt", r"tls is of type str; give True, False or baton\.TLS"),
    ],
    ids=["missing", "not-pem", "no-key", "no-certificate", "no-pair", "no-tls"],
)
def test_files_that_cannot_be_are_refused_by_name(
    make: Callable[[Path, trustme.CA], Any], message: str, tmp_path: Path, ca: trustme.CA
) -> None:
    with pytest.raises(baton.ConfigError, match=message):
        baton.Client("127.0.0.1:1", tls=make(tmp_path, ca))
