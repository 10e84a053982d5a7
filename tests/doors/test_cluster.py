"""A whole cluster behind TLS and keys, two ingress replicas: what it lets in, what changes under it, what it tells."""

import asyncio
import contextlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

import baton
from cluster.host.state import ClusterState
from cluster.local import ray_node
from tests.cluster.served import ServedCluster
from tests.doors.certificates import Issued, issue
from tests.doors.handshakes import client_context, get, served_serial
from tests.doors.keyed import until

pytestmark = [pytest.mark.timeout(300), pytest.mark.cluster]
HF_TOKEN = "hf_" + "s3cret" * 5
BODY = {"model": "demo", "prompt": "Once", "max_tokens": 8, "ignore_eos": True}


class Guarded(ServedCluster):
    """Keeps all that its commands print."""

    def __init__(self, issued: Issued, keys: Path, *, mutual: bool = False, replicas: int = 2) -> None:
        tls = issued.tls(mutual=mutual)
        sections = {
            "load_format": "fake",
            "fake_step_s": 0.01,
            "http": {"host": "0.0.0.0", "port": 0, "replicas": replicas},
            "tls": asdict(tls),
            "auth": {"keys_file": str(keys)},
        }
        super().__init__(extra=json.dumps(sections), env={"HF_TOKEN": HF_TOKEN, "BATON_TLS_CA": issued.ca_file})
        self.issued = issued
        self.keys = keys
        self.made: dict[str, str] = {}
        self.printed: list[str] = []

    def baton(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = super().baton(*arguments, check=check)
        self.printed.append(done.stderr if arguments[:2] == ("key", "create") else done.stdout + done.stderr)
        return done

    def key(self, name: str, *options: str) -> str:
        made = self.baton("key", "create", name, "--file", str(self.keys), *options).stdout.strip()
        self.made[name] = made
        return made

    @property
    def port(self) -> int:
        return int(self.http.rsplit(":", 1)[1])

    def client(self, key: str | None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(base_url=self.http, verify=client_context(self.issued), headers=headers, timeout=60)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("doors")
    cluster = Guarded(issue(folder), folder / "keys.yaml")
    cluster.key("alice")
    cluster.key("limited", "--requests-per-minute", "5")
    cluster.key("single", "--max-concurrent", "1")
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


async def test_a_key_is_wanted_over_tls_by_http_grpc_and_the_commands(guarded: Guarded) -> None:
    assert guarded.http.startswith("https://127.0.0.1:")
    assert (await get(guarded.port, None)).startswith("refused")
    async with guarded.client(None) as nobody, guarded.client(guarded.made["alice"]) as alice:
        assert (await nobody.get("/health")).status_code == 200
        assert (await nobody.post("/v1/completions", json=BODY)).status_code == 401
        assert (await nobody.get("/metrics")).status_code == 401
        assert (await alice.post("/v1/completions", json=BODY)).json()["usage"]["completion_tokens"] == 8
        assert "baton_key_requests_total" in (await alice.get("/metrics")).text
    tls = baton.TLS(ca=guarded.issued.ca_file)
    with (
        baton.Client(guarded.grpc, api_key="bt-wrong", tls=tls, timeout_s=30) as wrong,
        pytest.raises(baton.UnauthenticatedError),
    ):
        wrong.generate("Once", max_tokens=4)
    guarded.env["BATON_API_KEY"] = guarded.made["alice"]
    assert guarded.baton("generate", "Once", "--max-tokens", "4").stdout
    assert guarded.baton("generate", "Once", "--max-tokens", "4", "--url", guarded.http).stdout
    bench = ("bench", "--num-prompts", "4", "--input-len", "8", "--output-len", "4")
    assert "4" in guarded.baton(*bench).stdout
    assert guarded.baton(*bench, "--backend", "grpc").returncode == 0
    assert guarded.status()["http"] == guarded.http
    del guarded.env["BATON_API_KEY"]
    assert guarded.baton("generate", "Once", check=False).returncode


async def test_limits_hold_over_both_replicas(guarded: Guarded) -> None:
    async with guarded.client(guarded.made["limited"]) as limited, guarded.client(guarded.made["single"]) as single:
        replies = [await limited.post("/v1/completions", json=BODY) for _ in range(12)]
        assert Counter(reply.status_code for reply in replies) == {200: 5, 429: 7}
        assert all(int(reply.headers["retry-after"]) > 30 for reply in replies if reply.status_code == 429)
        long = BODY | {"max_tokens": 100}
        codes = Counter(
            reply.status_code
            for reply in await asyncio.gather(*(single.post("/v1/completions", json=long) for _ in range(12)))
        )
        assert codes == {200: 1, 429: 11}

        async def is_free_again() -> bool:
            return (await single.post("/v1/completions", json=BODY)).status_code == 200

        await until(is_free_again)
    async with guarded.client(guarded.made["alice"]) as alice:
        text = (await alice.get("/metrics")).text
    replicas = {line.split('replica="')[1].split('"')[0] for line in text.splitlines() if "key_requests_total{" in line}
    assert len(replicas) == 2


async def test_keys_and_certificates_change_while_answers_run(guarded: Guarded) -> None:
    context = client_context(guarded.issued)
    long = BODY | {"max_tokens": 400, "stream": True}
    async with guarded.client(guarded.made["alice"]) as alice:
        async with alice.stream("POST", "/v1/completions", json=long) as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            serial = guarded.issued.renew()
            bob = guarded.key("bob")
            guarded.baton("key", "revoke", "limited", "--file", str(guarded.keys))

            async def has_new_certificate() -> bool:
                return await served_serial(guarded.port, context) == serial

            await until(has_new_certificate)
            async with guarded.client(bob) as http, guarded.client(guarded.made["limited"]) as revoked:

                async def are_changed() -> bool:  # at both replicas
                    replies = [await one.get("/v1/models") for one in (http, revoked) for _ in range(6)]
                    return [reply.status_code for reply in replies] == [200] * 6 + [401] * 6

                await until(are_changed, timeout_s=20)
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert len(rest) > 300


def processes(guarded: Guarded) -> list[psutil.Process]:
    return ray_node.processes(guarded.state())


def test_every_port_but_the_two_public_ones_is_this_machines_alone(guarded: Guarded) -> None:
    found = set()
    for process in processes(guarded):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            connections = process.net_connections("inet")
            found |= {tuple(one.laddr) for one in connections if one.status == psutil.CONN_LISTEN}
    public = {port for address, port in found if not address.removeprefix("::ffff:").startswith(("127.", "::1"))}
    assert public == {guarded.port, int(guarded.grpc.rsplit(":", 1)[1])}
    assert len(found) > 10
    assert "EVERYBODY" not in "".join(guarded.printed)  # it has keys


def test_ray_wants_its_token(guarded: Guarded) -> None:
    token = (guarded.folder / "ray_token").read_text().strip()
    method = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"

    def code(*metadata: tuple[str, str]) -> grpc.StatusCode:
        with grpc.insecure_channel(guarded.state().address) as channel:
            try:
                channel.unary_unary(method)(b"", timeout=20, metadata=metadata)
            except grpc.RpcError as error:
                found: grpc.StatusCode = error.code()
                return found
        return grpc.StatusCode.OK

    assert code() is grpc.StatusCode.UNAUTHENTICATED
    assert code(("authorization", "Bearer " + "0" * len(token))) is grpc.StatusCode.UNAUTHENTICATED
    assert code(("authorization", f"Bearer {token}")) is not grpc.StatusCode.UNAUTHENTICATED


def test_no_secret_is_printed_logged_or_in_a_command_line(guarded: Guarded) -> None:
    wrong = "bt-" + "wr0ng" * 8
    context, headers = client_context(guarded.issued), {"authorization": f"Bearer {wrong}"}
    for path in ("/v1/models", "/v1/completions"):
        assert httpx.get(guarded.http + path, headers=headers, verify=context, timeout=30).status_code == 401
    guarded.env["BATON_API_KEY"] = wrong
    assert guarded.baton("generate", "Once", check=False).returncode
    del guarded.env["BATON_API_KEY"]
    guarded.status()
    secrets = {
        "cluster secret": (guarded.folder / "secret").read_text().strip(),
        "Ray's token": (guarded.folder / "ray_token").read_text().strip(),
        "TLS key": Path(guarded.issued.tls().key).read_text().splitlines()[1],
        "Hub token": HF_TOKEN,
        "wrong key": wrong,
    } | guarded.made
    parts = {name: secret[3:19] if name in guarded.made else secret[:32] for name, secret in secrets.items()}
    texts = {"what commands printed": "\n".join(guarded.printed)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            texts[f"command line of {process.pid}"] = " ".join(process.cmdline())
    logs = [path for path in Path(guarded.state().folder).rglob("*") if path.is_file() and path.suffix != ".pem"]
    texts |= {str(path): path.read_bytes().decode("latin-1") for path in logs}
    assert len(logs) > 10
    found = [(name, where) for where, text in texts.items() for name, part in parts.items() if part in text]
    assert found == []
    assert os.stat(guarded.state().folder).st_mode & 0o077 == 0  # where HAProxy's copy of the TLS key is


@pytest.mark.slow
async def test_on_a_ray_of_the_users_serves_own_proxy_speaks_mutual_tls(
    ray_cluster: ClusterState, tmp_path: Path
) -> None:
    """The paths are its nodes'."""
    issued = issue(tmp_path)
    guarded = Guarded(issued, tmp_path / "keys.yaml", mutual=True, replicas=1)
    guarded.env |= ray_node.ray_env() | {"RAY_ADDRESS": ray_cluster.address}
    with pytest.raises(AssertionError, match=r"keys.yaml does not exist; .* \(on Ray's head node 127.0.0.1\)"):
        guarded.up()
    pair = issued.client("good")
    guarded.env |= {
        "BATON_API_KEY": guarded.key("alice"),
        "BATON_TLS_CERTIFICATE": pair[0],
        "BATON_TLS_KEY": pair[1],
    }
    good = client_context(issued, pair)
    try:
        guarded.up()
        assert guarded.state().folder == ""
        stranger = client_context(issued, issued.client("stranger", issued.ca))
        for context in (None, client_context(issued), stranger):
            assert (await get(guarded.port, context)).startswith("refused")
        assert await get(guarded.port, good) == "HTTP/1.1 200 OK"
        for where in ((), ("--url", guarded.http)):
            assert guarded.baton("generate", "Once", "--max-tokens", "4", *where).stdout
        serial = issued.renew()

        async def has_new_certificate() -> bool:
            return await served_serial(guarded.port, good) == serial

        await until(has_new_certificate, timeout_s=20)
        assert guarded.baton("generate", "Once", "--max-tokens", "4").stdout
    finally:
        guarded.down()
