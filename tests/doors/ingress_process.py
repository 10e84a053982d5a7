"""The ingress without Ray: its real app, gRPC routes and dispatcher, with the servers that Serve makes, in one process.

    python -m tests.doors.ingress_process

Prints its two ports as JSON and serves until its standard input closes. One worker with a script answers.
"""

import asyncio
import json
import socket
import sys
from functools import partial

import grpc
import uvicorn
from fastapi import Request
from fastapi.responses import PlainTextResponse
from grpc_health.v1 import health_pb2_grpc

from baton.v1 import inference_pb2_grpc
from cluster.config.schema import HealthConfig, LimitsConfig, RouterConfig
from cluster.ingress.http_api import build_app
from cluster.ingress.http_protocol import BoundedProtocol
from cluster.ingress.limits import grpc_options
from cluster.ingress.service import Service
from cluster.router.dispatcher import Dispatcher
from tests.fake_worker import SECRET, FakeCluster, Script
from tests.unit.ingress.fakes import demo_tokenizer
from tests.unit.ingress.servicer import Servicer
from workers.server import RequestGuard
from workers.spec import Role

PAGE = "https://app.example.com"  # of whose web pages the answers may be read
HEALTHY = b"\n\x07success"  # what HAProxy looks for in an answer to Serve's own gRPC health check
LIMITS = LimitsConfig(max_body_bytes=1 << 20, max_header_bytes=16 << 10, header_timeout_s=2, body_timeout_s=2)


async def serve_health() -> str:
    """What HAProxy asks a replica of Serve's."""
    return "success"


async def repeat_id(request: Request) -> PlainTextResponse:
    """As Serve does, which repeats whatever id came."""
    request_id = request.headers["x-request-id"]
    return PlainTextResponse(request_id, headers={"X-Request-ID": request_id})


class ServeHealth(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        async def health(request: bytes, context: object) -> bytes:
            return HEALTHY

        return grpc.unary_unary_rpc_method_handler(health) if details.method.endswith("/Healthz") else None


async def serve(limits: LimitsConfig) -> None:
    async with FakeCluster(script=Script(step_s=0.0005)) as fleet:
        await fleet.add(Role.MIXED, max_model_len=64)
        dispatcher = Dispatcher(
            ingress_id="i", secret=SECRET, config=RouterConfig(), health=HealthConfig(), fetch_workers=fleet.fetch
        )
        await dispatcher.start()
        while not dispatcher.max_model_len:  # noqa: ASYNC110, the worker has not reported yet
            await asyncio.sleep(0.01)
        service = Service(dispatcher=dispatcher, tokenizer=demo_tokenizer(), model="demo", router=RouterConfig())
        listener = socket.create_server(("127.0.0.1", 0))
        protocol = partial(BoundedProtocol, limits, (PAGE,))
        app = build_app(service, limits, cors_origins=(PAGE,))
        app.add_api_route("/-/healthz", serve_health)
        app.add_api_route("/-/repeats", repeat_id)
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_level="warning")  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        grpc_server = grpc.aio.server(interceptors=[RequestGuard(limits.body_timeout_s)], options=grpc_options(limits))
        inference_pb2_grpc.add_InferenceServicer_to_server(Servicer(service), grpc_server)
        grpc_server.add_generic_rpc_handlers([ServeHealth()])
        health_pb2_grpc.add_HealthServicer_to_server(Servicer(service), grpc_server)
        ports = {"http": listener.getsockname()[1], "grpc": grpc_server.add_insecure_port("127.0.0.1:0")}
        await grpc_server.start()
        print(json.dumps(ports), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving
        await grpc_server.stop(None)
        await dispatcher.close()


if __name__ == "__main__":
    asyncio.run(serve(LIMITS))
