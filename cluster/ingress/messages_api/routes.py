"""Anthropic's /v1/messages: an answer to messages, and how many tokens messages are."""

from functools import partial

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from cluster.ingress.agent_calls import with_any_template
from cluster.ingress.bodies import Bodies
from cluster.ingress.keyed_paths import pass_of
from cluster.ingress.messages_api.body import parse_body, parse_count_body
from cluster.ingress.messages_api.message import MessageAnswer
from cluster.ingress.request_ids import request_id_of
from cluster.ingress.services import Services
from cluster.ingress.typed_response import TypedResponse


class MessagesRoutes:
    def __init__(self, services: Services, bodies: Bodies) -> None:
        self._services = services
        self._bodies = bodies

    async def create(self, request: Request) -> Response:
        body = await self._bodies.read(request, parse_body)
        service = self._services.of(body.model, pass_of(request.scope), session=body.session)
        make = partial(service.chat_call, model=body.model, route="messages", stream=body.stream)
        call = await with_any_template(body.chat, make)
        shape = MessageAnswer(
            call.request_id,
            request_id_of(request.scope),
            body.model or service.model,
            body.chat.options.stop,
            has_room=call.jobs[0].sampling.max_tokens == body.max_tokens,
            shows_thoughts=body.shows_thoughts,
            stream=body.stream,
        )
        return TypedResponse(service.run(call, pass_of(request.scope)), shape, stream=body.stream)

    async def count(self, request: Request) -> Response:
        body = await self._bodies.read(request, parse_count_body)
        service = self._services.of(body.model, pass_of(request.scope))
        return JSONResponse({"input_tokens": len(await with_any_template(body.chat, service.chat_token_ids))})


def add_messages_routes(app: FastAPI, services: Services, bodies: Bodies) -> None:
    routes = MessagesRoutes(services, bodies)
    app.add_api_route("/v1/messages", routes.create, methods=["POST"], response_model=None)
    app.add_api_route("/v1/messages/count_tokens", routes.count, methods=["POST"], response_model=None)
