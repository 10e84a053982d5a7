"""OpenAI's /v1/responses: an answer to items, and how many tokens items are. Nothing of a response is stored."""

from functools import partial

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from cluster.ingress.agent_calls import with_any_template
from cluster.ingress.bodies import Bodies
from cluster.ingress.generation_defaults import effective
from cluster.ingress.keyed_paths import pass_of
from cluster.ingress.responses_api.body import parse_body
from cluster.ingress.responses_api.output import OutputItems
from cluster.ingress.responses_api.response import ResponseAnswer
from cluster.ingress.services import Services
from cluster.ingress.typed_response import TypedResponse


class ResponsesRoutes:
    def __init__(self, services: Services, bodies: Bodies) -> None:
        self._services = services
        self._bodies = bodies

    async def create(self, request: Request) -> Response:
        body = await self._bodies.read(request, parse_body)
        service = self._services.of(body.model, pass_of(request.scope), session=body.session)
        make = partial(service.chat_call, model=body.model, route="responses", prompt_field="input", stream=body.stream)
        call = await with_any_template(body.chat, make)
        said = {**effective(service.defaults), **body.said}
        output = OutputItems(call.request_id, service.tokenizer, seal=body.sealed, groups=body.groups)
        shape = ResponseAnswer(call.request_id, body.model or service.model, said, output, stream=body.stream)
        return TypedResponse(service.run(call, pass_of(request.scope)), shape, stream=body.stream)

    async def count(self, request: Request) -> Response:
        body = await self._bodies.read(request, parse_body)
        service = self._services.of(body.model, pass_of(request.scope))
        num_tokens = len(await with_any_template(body.chat, service.chat_token_ids))
        return JSONResponse({"object": "response.input_tokens", "input_tokens": num_tokens})


def add_responses_routes(app: FastAPI, services: Services, bodies: Bodies) -> None:
    routes = ResponsesRoutes(services, bodies)
    app.add_api_route("/v1/responses", routes.create, methods=["POST"], response_model=None)
    app.add_api_route("/v1/responses/input_tokens", routes.count, methods=["POST"], response_model=None)
