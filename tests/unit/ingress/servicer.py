"""The gRPC routes as a servicer for a plain grpc.aio server."""

from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2_grpc

from baton.v1 import inference_pb2_grpc
from cluster.ingress.grpc_api import GRPCRoutes
from cluster.ingress.service import Service


class Servicer(inference_pb2_grpc.InferenceServicer, health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    def __init__(self, service: Service) -> None:
        self._routes = GRPCRoutes(service)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for response in self._routes.generate(request, context):
            yield response

    async def Tokenize(self, request: Any, context: Any) -> Any:
        return await self._routes.tokenize(request, context)

    async def Detokenize(self, request: Any, context: Any) -> Any:
        return await self._routes.detokenize(request, context)

    async def ListModels(self, request: Any, context: Any) -> Any:
        return await self._routes.list_models(context)

    async def Check(self, request: Any, context: Any) -> Any:
        return await self._routes.check(request, context)

    async def List(self, request: Any, context: Any) -> Any:
        return await self._routes.list()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for response in self._routes.watch(request):
            yield response
