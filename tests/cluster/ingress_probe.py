"""Run by test_ingress_serve: deploys the application on a Ray cluster of its own and writes what it saw as JSON."""

import asyncio
import json
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from baton.errors import ConfigError
from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from bench.ingress import DEMO, ingress

PROMPT = "Once upon a time"


def over_http(port: int) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        health = http.get("/health")
        seen["health"] = [health.status_code, health.json()]
        body = {"prompt": PROMPT, "max_tokens": 5}
        seen["completion"] = http.post("/v1/completions", json=body).json()
        bad = http.post("/v1/completions", json=body | {"temperature": -1})
        seen["http_error"] = [bad.status_code, bad.json()["error"]["param"]]
        unknown = http.post("/v1/completions", json=body | {"model": "other"})
        seen["unknown_model"] = [unknown.status_code, unknown.json()["error"]["code"]]
        seen["seconds_to_free"] = seconds_to_free(http)
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        seen["models"] = [model.id for model in client.models.list()]
        stream = client.completions.create(model="demo", prompt=PROMPT, max_tokens=5, stream=True)
        seen["streamed"] = "".join(chunk.choices[0].text for chunk in stream)
    return seen


def seconds_to_free(http: httpx.Client) -> float:
    """From a client's leaving in mid-stream until nothing is open."""
    with http.stream("POST", "/v1/completions", json={"prompt": PROMPT, "max_tokens": 1000, "stream": True}) as reply:
        next(reply.iter_lines())
    return seconds_until_none_is_open(http)


def seconds_until_none_is_open(http: httpx.Client) -> float:
    left_s = time.monotonic()
    while "baton_requests_open 0.0" not in http.get("/metrics").text:
        if time.monotonic() - left_s > 10:
            break
    return time.monotonic() - left_s


async def leave_many_streams(port: int, count: int) -> None:
    """Each right after its first token, so that the server stands at any place, in a write too."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)

        async def leave() -> None:
            call = stub.Generate(pb.GenerateRequest(prompt=PROMPT, sampling=pb.SamplingParams(max_tokens=1000)))
            await call.read()
            call.cancel()

        await asyncio.gather(*(leave() for _ in range(count)))


def over_grpc(port: int) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        request = pb.GenerateRequest(prompt=PROMPT, sampling=pb.SamplingParams(max_tokens=5))
        seen["grpc"] = "".join(delta.text for response in stub.Generate(request) for delta in response.deltas)
        request.sampling.temperature = -1
        try:
            list(stub.Generate(request))
        except grpc.RpcError as error:
            seen["grpc_error"] = [error.code().name, error.details()]
        health = health_pb2_grpc.HealthStub(channel)
        seen["grpc_health"] = [check(health, name) for name in ("", "baton.v1.Inference", "other")]
        seen["reflection"] = list(ProtoReflectionDescriptorDatabase(channel).get_services())
    return seen


def check(stub: Any, service: str) -> int | str:
    try:
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service)).status)
    except grpc.RpcError as error:
        return str(error.code().name)


async def over_many_streams(port: int, count: int) -> list[int]:
    """More at once on one connection than HTTP/2 servers allow by default."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)

        async def tokens() -> int:
            request = pb.GenerateRequest(prompt=PROMPT, sampling=pb.SamplingParams(max_tokens=8))
            return sum([len(delta.token_ids) async for response in stub.Generate(request) for delta in response.deltas])

        return list(await asyncio.gather(*(tokens() for _ in range(count))))


def port_taken() -> str:
    from cluster.config.schema import BatonConfig, HTTPConfig
    from cluster.ingress.app import check_ports

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        try:
            check_ports(BatonConfig(http=HTTPConfig(port=holder.getsockname()[1])))
        except ConfigError as error:
            return error.message
    return ""


def open_ports(public: set[int]) -> list[str]:
    """Servers of Serve and HAProxy off loopback. Ray's own per-process server, the first one, asks for its token."""
    found = []
    for process in psutil.Process().children(recursive=True) + haproxies(public):
        title = " ".join(process.cmdline())
        listening = [each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        listening.sort(key=lambda each: each.fd)
        ours = listening[1:] if title.startswith(("ray::Serve", "ray::Proxy", "ray::HAProxy")) else []
        if "haproxy" in title and not title.startswith("ray::"):
            ours = listening
        found += [f"{title[:40]} {each.laddr}" for each in ours if "127.0.0.1" not in each.laddr.ip]
    return found


def haproxies(public: set[int]) -> list[psutil.Process]:
    """HAProxy runs in a session of its own; known by the public port that it holds."""
    return [
        process
        for process in psutil.process_iter()
        if "haproxy" in process.name() and any(each.laddr.port in public for each in process.net_connections("tcp"))
    ]


def main() -> None:
    proxy, output = sys.argv[1:]
    with (
        tempfile.TemporaryDirectory(prefix="baton-", dir="/tmp") as folder,
        ingress(proxy == "haproxy", folder) as (http_port, grpc_port, _),
    ):
        seen = over_http(http_port) | over_grpc(grpc_port)
        seen["concurrent"] = asyncio.run(over_many_streams(grpc_port, 150))
        asyncio.run(leave_many_streams(grpc_port, 50))
        with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=30) as http:
            seen["seconds_to_free_many"] = seconds_until_none_is_open(http)
        seen["port_taken"] = port_taken()
        seen["open_ports"] = open_ports({http_port, grpc_port})
    Path(output).write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    assert DEMO.is_dir()
    main()
