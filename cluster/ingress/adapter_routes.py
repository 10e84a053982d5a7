"""The two routes by which LoRA adapters are loaded and unloaded while the server runs, as vLLM has them."""

import asyncio
import time
from functools import partial

from fastapi import FastAPI, Request, Response

from baton.errors import InvalidRequestError, PermissionDeniedError, UnavailableError
from cluster.ingress.bodies import Bodies
from cluster.ingress.contract import AdapterLoading
from cluster.ingress.keyed_paths import pass_of
from cluster.ingress.openai import Body, parse_body
from cluster.ingress.service import Service

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
TOLD_TIMEOUT_S = 10.0  # until this replica's workers have told it of what they have loaded
LOOK_S = 0.02


class LoadAdapterBody(Body):
    lora_name: str
    lora_path: str  # a folder on every worker's node
    load_inplace: bool = False


class UnloadAdapterBody(Body):
    lora_name: str


def add_adapter_routes(app: FastAPI, service: Service, bodies: Bodies) -> None:
    routes = AdapterRoutes(service, bodies)
    app.add_api_route(LOAD, routes.load, methods=["POST"], response_model=None)
    app.add_api_route(UNLOAD, routes.unload, methods=["POST"], response_model=None)


class AdapterRoutes:
    def __init__(self, service: Service, bodies: Bodies) -> None:
        self._service = service
        self._bodies = bodies

    async def load(self, request: Request) -> Response:
        """Answers when every worker has it, and this replica knows."""
        adapters = self._allowed(request)
        body = await self._bodies.read(request, partial(parse_body, kind=LoadAdapterBody))
        if body.load_inplace:
            raise InvalidRequestError(
                "load_inplace: true is not supported, running answers would change weights; unload the adapter first",
                "load_inplace",
            )
        await adapters.load(body.lora_name, body.lora_path)
        await self._until(body.lora_name, is_there=True)
        return Response(f"Success: LoRA adapter '{body.lora_name}' added successfully.", media_type="text/plain")

    async def unload(self, request: Request) -> Response:
        """Answers when nobody may name it any more; what is being written is finished."""
        adapters = self._allowed(request)
        body = await self._bodies.read(request, partial(parse_body, kind=UnloadAdapterBody))
        await adapters.unload(body.lora_name)
        await self._until(body.lora_name, is_there=False)
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", media_type="text/plain")

    def _allowed(self, request: Request) -> AdapterLoading:
        """Raises: PermissionDeniedError."""
        if self._service.adapters is None:
            raise PermissionDeniedError(
                "adapters are not loaded or unloaded while this server runs; list their folders in "
                "adapters_dynamic.folders of its config"
            )
        admitted = pass_of(request.scope)
        if admitted is not None:
            admitted.check_every_model()
        return self._service.adapters

    async def _until(self, name: str, *, is_there: bool) -> None:
        """Workers tell of what they have within milliseconds."""
        deadline = time.monotonic() + TOLD_TIMEOUT_S
        while (name in self._service.dispatcher.adapters) is not is_there:
            if time.monotonic() > deadline:
                raise UnavailableError(f"lora_name: {name!r}: no worker has told of the change yet; see /v1/models")
            await asyncio.sleep(LOOK_S)
