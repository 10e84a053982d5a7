"""The two routes by which LoRA adapters are loaded and unloaded while the server runs, as vLLM has them."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from fastapi import FastAPI, Request, Response

from baton.errors import InvalidRequestError, PermissionDeniedError, UnavailableError
from cluster.ingress.bodies import Bodies
from cluster.ingress.contract import AdapterLoading
from cluster.ingress.keyed_paths import pass_of
from cluster.ingress.openai import Body, parse_body
from cluster.ingress.service import Service
from cluster.ingress.services import Services

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
TOLD_TIMEOUT_S = 10.0  # until this replica's workers have told it of what they have loaded
LOOK_S = 0.02


class LoadAdapterBody(Body):
    lora_name: str
    lora_path: str  # a folder on every worker's node
    load_inplace: bool = False
    model: str | None = None  # that gets it; where the server has several


class UnloadAdapterBody(Body):
    lora_name: str
    model: str | None = None  # that loses it; where several have one of that name


def add_adapter_routes(app: FastAPI, services: Services, bodies: Bodies) -> None:
    routes = AdapterRoutes(services, bodies)
    app.add_api_route(LOAD, routes.load, methods=["POST"], response_model=None)
    app.add_api_route(UNLOAD, routes.unload, methods=["POST"], response_model=None)


class AdapterRoutes:
    def __init__(self, services: Services, bodies: Bodies) -> None:
        self._services = services
        self._bodies = bodies

    async def load(self, request: Request) -> Response:
        """Answers when every worker has it, and this replica knows."""
        self._check_allowed(request)
        body = await self._bodies.read(request, partial(parse_body, kind=LoadAdapterBody))
        if body.load_inplace:
            raise InvalidRequestError(
                "load_inplace: true is not supported, running answers would change weights; unload the adapter first",
                "load_inplace",
            )
        service = self._only(body.model, [version.service for version in self._services])
        self._check_new(body.lora_name, service)
        await _adapters_of(service).load(body.lora_name, body.lora_path)
        await _until(service, body.lora_name, is_there=True)
        return Response(f"Success: LoRA adapter '{body.lora_name}' added successfully.", media_type="text/plain")

    async def unload(self, request: Request) -> Response:
        """Answers when nobody may name it any more; what is being written is finished."""
        self._check_allowed(request)
        body = await self._bodies.read(request, partial(parse_body, kind=UnloadAdapterBody))
        having = self._services.with_adapter(body.lora_name) or [version.service for version in self._services][:1]
        service = self._only(body.model, having)
        await _adapters_of(service).unload(body.lora_name)
        await _until(service, body.lora_name, is_there=False)
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", media_type="text/plain")

    def _check_allowed(self, request: Request) -> None:
        """Raises: PermissionDeniedError."""
        if all(version.service.adapters is None for version in self._services):
            raise _not_allowed()
        admitted = pass_of(request.scope)
        if admitted is not None:
            admitted.check_every_model()

    def _only(self, model: str | None, services: Sequence[Service]) -> Service:
        """Raises: InvalidRequestError: several could be meant; ModelNotFoundError."""
        if model is None and len(services) == 1:
            return services[0]
        found = self._services.of_entry(model) if model else None
        if found is not None:
            return found
        if model and self._services.about(model):
            raise InvalidRequestError(f"model: {model!r} has several versions; name one, {_names(services)}", "model")
        raise InvalidRequestError(f"model: is left out, and could be {_names(services)}; name one", "model")

    def _check_new(self, name: str, service: Service) -> None:
        """Raises: InvalidRequestError: requests that name it mean another model."""
        having = self._services.with_adapter(name)
        is_other = any(other.model != service.model for other in having)
        if name in self._services.names and (is_other or not having):
            raise InvalidRequestError(f"lora_name: {name!r} is another model's name here; choose another", "lora_name")


def _adapters_of(service: Service) -> AdapterLoading:
    if service.adapters is None:
        raise _not_allowed()
    return service.adapters


def _not_allowed() -> PermissionDeniedError:
    return PermissionDeniedError(
        "adapters are not loaded or unloaded while this server runs; list their folders in adapters_dynamic.folders of "
        "its config"
    )


def _names(services: Sequence[Service]) -> str:
    return ", ".join(name for service in services for name in service.aliases or [service.model])


async def _until(service: Service, name: str, *, is_there: bool) -> None:
    """Workers tell of what they have within milliseconds."""
    deadline = time.monotonic() + TOLD_TIMEOUT_S
    while (name in service.dispatcher.adapters) is not is_there:
        if time.monotonic() > deadline:
            raise UnavailableError(f"lora_name: {name!r}: no worker has told of the change yet; see /v1/models")
        await asyncio.sleep(LOOK_S)
