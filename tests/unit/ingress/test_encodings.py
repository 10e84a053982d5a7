"""Compressed bodies of requests."""

import gzip
import json
import tracemalloc
import zlib

import httpx
import pytest

from cluster.config.schema import LimitsConfig
from cluster.ingress.encodings import PIECE_BYTES, Inflater
from cluster.ingress.http_api import build_app
from tests.unit.ingress.fakes import demo_service

PLAIN = json.dumps({"prompt": "Once upon a time"}).encode()


@pytest.fixture
def http() -> httpx.AsyncClient:
    app = build_app(demo_service()[0], LimitsConfig(max_body_bytes=1 << 20))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")


async def sent(http: httpx.AsyncClient, body: bytes, encoding: str) -> httpx.Response:
    return await http.post("/tokenize", content=body, headers={"content-encoding": encoding})


async def test_a_compressed_body_is_what_it_was(http: httpx.AsyncClient) -> None:
    plain = await sent(http, PLAIN, "identity")
    assert plain.json()["count"] > 0
    for encoding, body in {
        "gzip": gzip.compress(PLAIN),
        "GZIP ": gzip.compress(PLAIN),
        "x-gzip": gzip.compress(PLAIN),
        "deflate": zlib.compress(PLAIN),
    }.items():
        reply = await sent(http, body, encoding)
        assert (reply.status_code, reply.json()) == (200, plain.json())


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "rot13"])
async def test_an_encoding_that_is_unknown_is_refused_by_name(http: httpx.AsyncClient, encoding: str) -> None:
    reply = await sent(http, gzip.compress(PLAIN), encoding)
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.json()["error"]["message"] == (
        f'Content-Encoding is "{encoding}"; send the body plain, or as gzip or deflate'
    )


async def test_a_body_that_is_not_of_its_encoding_is_the_clients_error(http: httpx.AsyncClient) -> None:
    whole = gzip.compress(PLAIN)
    for body in (PLAIN, whole[:-1], whole[:12], b"", whole + b"x", whole + whole, zlib.compress(PLAIN)):
        reply = await sent(http, body, "gzip")
        assert reply.status_code == 400
        assert "the body is not gzip, as Content-Encoding says" in reply.json()["error"]["message"]


async def test_a_bomb_is_refused_before_it_is_there(http: httpx.AsyncClient) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    reply = await sent(http, bomb, "gzip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reply.status_code == 413
    assert "when it is no gzip any more" in reply.json()["error"]["message"]
    assert peak < 8 << 20


async def test_a_stream_that_never_says_anything_is_bounded_by_what_it_sends(http: httpx.AsyncClient) -> None:
    packer = zlib.compressobj(wbits=31)
    body = packer.compress(PLAIN) + packer.flush(zlib.Z_FULL_FLUSH) + b"\x00\x00\x00\xff\xff" * 300_000
    assert (await sent(http, body, "gzip")).status_code == 413


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_pieces_add_up_however_it_comes(size: int, cut: int) -> None:
    data = bytes(size)
    packed = gzip.compress(data)
    inflater, found = Inflater("gzip"), bytearray()
    for start in range(0, len(packed), cut):
        inflater.push(packed[start : start + cut])
        while piece := inflater.read():
            assert len(piece) <= PIECE_BYTES
            found += piece
    inflater.finish()
    assert found == data
