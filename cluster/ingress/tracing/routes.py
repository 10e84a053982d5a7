"""`/cluster/requests`: how requests went."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Scope

from baton.errors import InvalidRequestError, UnknownRequestError
from cluster.config.api_key import APIKey
from cluster.ingress.fields import shorten
from cluster.ingress.tracing.asking import Question

PATH = "/cluster/requests"
Ask = Callable[[Question], Awaitable[list[dict[str, Any]]]]
KeyOf = Callable[[Scope], APIKey | None]
_QUERY = ("order", "limit")


def add_request_routes(app: FastAPI, ask: Ask, key_of: KeyOf) -> None:
    routes = RequestRoutes(ask, key_of)
    app.add_api_route(PATH, routes.several, methods=["GET", "HEAD"], response_model=None)
    app.add_api_route(f"{PATH}/{{name:path}}", routes.one, methods=["GET", "HEAD"], response_model=None)


class RequestRoutes:
    """`key_of`: whose key came with a request; it sees its own requests alone."""

    def __init__(self, ask: Ask, key_of: KeyOf) -> None:
        self._ask = ask
        self._key_of = key_of

    async def one(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = await self._ask(Question(request_id=name, key_name=self._key_name(request)))
        if not found:
            raise UnknownRequestError(
                f"request {shorten(name)} is not remembered: no replica has had it lately (each keeps its last "
                "tracing.keep requests), or it was sent with another API key",
                "request_id",
            )
        return _json(found[0])

    async def several(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if unknown := sorted(asked.keys() - set(_QUERY)):
            raise InvalidRequestError(f"{unknown[0]} is no parameter of {PATH}; it has order and limit", unknown[0])
        limit = asked.get("limit", "20")
        if not (limit.isascii() and limit.isdecimal() and len(limit) < 10):
            raise InvalidRequestError(f"limit is {shorten(limit)}; give a number", "limit")
        question = Question(order=asked.get("order", "last"), limit=int(limit), key_name=self._key_name(request))
        return _json({"requests": await self._ask(question)})

    def _key_name(self, request: Request) -> str | None:
        key = self._key_of(request.scope)
        return None if key is None else key.name


def _json(body: Any) -> Response:
    return Response(json.dumps(body), media_type="application/json", headers={"Cache-Control": "no-store"})
