"""The HTTP routes: OpenAI's API, tokenizing, health and metrics. What a route does is `cluster.ingress.service`'s."""

import asyncio
import json
from collections.abc import Collection, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from baton.errors import BatonError, InternalError, PermissionDeniedError
from cluster.config.schema import LimitsConfig
from cluster.ingress.adapter_routes import add_adapter_routes
from cluster.ingress.bodies import Bodies
from cluster.ingress.chat.body import ChatBody
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.cluster_api.own_view import own_view
from cluster.ingress.cluster_api.routes import add_cluster_routes
from cluster.ingress.cluster_api.view import ClusterView
from cluster.ingress.continuous_usage import ContinuousUsage
from cluster.ingress.cross_origin import cross_origin
from cluster.ingress.error_answers import error_answer
from cluster.ingress.formats import ChatFormat, CompletionFormat, Format
from cluster.ingress.generation_defaults import effective
from cluster.ingress.keyed_paths import KeyedPaths, key_of, pass_of
from cluster.ingress.limits import DEFAULT_LIMITS
from cluster.ingress.messages_api.routes import add_messages_routes
from cluster.ingress.messages_errors import is_of_messages, messages_error_of
from cluster.ingress.metrics import CONTENT_TYPE
from cluster.ingress.openai import CompletionBody, DetokenizeBody, Prompt, SamplingBody, parse_body, parse_prompts
from cluster.ingress.openapi.document import document
from cluster.ingress.openapi.page import page, security_policy
from cluster.ingress.refused_paths import instead_of
from cluster.ingress.request_ids import RequestIds, request_id_of
from cluster.ingress.responses import AnswerResponse
from cluster.ingress.responses_api.routes import add_responses_routes
from cluster.ingress.route_names import route_name
from cluster.ingress.sampling import check_token_ids
from cluster.ingress.service import Call, Service
from cluster.ingress.services import Services, Version, services_of
from cluster.ingress.tokenize_body import TokenizeBody
from cluster.ingress.tokenizer import INLINE_TOKENS
from cluster.ingress.tracing.routes import add_request_routes
from cluster.ingress.tracing.visit import Visits, note_error
from cluster.ingress.truncation import num_kept, truncated
from cluster.ingress.web_page import add_page_routes, page_response, wants_page


def build_app(
    served: Service | Services,
    limits: LimitsConfig = DEFAULT_LIMITS,
    *,
    cors_origins: Collection[str] = (),
    metrics_token: str = "",
    view: ClusterView | None = None,
) -> FastAPI:
    """The ASGI app of one ingress replica.

    Args:
        cors_origins: Of web pages that may use it.
        metrics_token: Does for a key where metrics are read; empty: nothing does.
        view: What /cluster shows; None: what this replica knows by itself.
    """
    services, bodies = services_of(served), Bodies(limits)
    routes = HTTPRoutes(services, bodies)
    app = IngressApp(cors_origins, services.visits)
    for path, handler in {
        "/v1/completions": routes.completions,
        "/v1/chat/completions": routes.chat_completions,
        "/tokenize": routes.tokenize,
        "/detokenize": routes.detokenize,
    }.items():
        app.add_api_route(path, handler, methods=["POST"], response_model=None)
    add_responses_routes(app, services, bodies)
    add_messages_routes(app, services, bodies)
    for path, handler in {
        "/v1/models": routes.models,
        "/v1/models/{name:path}": routes.model,
        "/": routes.root,  # what load balancers ask where nobody has told them another path
        "/health": routes.health,
        "/healthz": routes.health,
        "/ping": routes.health,
        "/metrics": routes.metrics,
        "/metrics/targets": routes.metrics_targets,
        "/version": routes.version,
        "/openapi.json": routes.openapi,
        "/docs": routes.docs,
    }.items():
        app.add_api_route(path, handler, methods=["GET", "HEAD"], response_model=None)
    add_adapter_routes(app, services, routes.bodies)
    add_request_routes(app, services.calls, key_of)
    add_cluster_routes(app, view or own_view(services, limits))
    add_page_routes(app)
    app.add_api_route("/ping", routes.health, methods=["POST"], response_model=None)  # as SageMaker's
    if services.guard is not None:
        app.add_middleware(KeyedPaths, guard=services.guard, metrics=services.metrics, metrics_token=metrics_token)
    app.add_middleware(TrimmedPaths)
    app.add_exception_handler(BatonError, routes.on_error)
    app.add_exception_handler(HTTPException, routes.on_http_error)
    app.add_exception_handler(Exception, routes.on_fault)
    return app


class IngressApp(FastAPI):
    """Also what Starlette answers by itself, a fault of ours too, has an id and may be read by web pages."""

    def __init__(self, cors_origins: Collection[str], visits: Visits) -> None:
        super().__init__(title="Baton", openapi_url=None, redirect_slashes=False)
        self._cors_origins = cors_origins
        self._visits = visits

    def build_middleware_stack(self) -> ASGIApp:
        return RequestIds(cross_origin(super().build_middleware_stack(), self._cors_origins), self._visits)


class TrimmedPaths:
    """A path with slashes at its end is the same path without: a redirect (307) would lose many a client's body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await self._app(scope, receive, send)


class HTTPRoutes:
    def __init__(self, services: Services, bodies: Bodies) -> None:
        self._services = services
        self.bodies = bodies

    async def completions(self, request: Request) -> Response:
        body, asked_prompts = await self.bodies.read(request, _completion)
        service = self._services.of(body.model, pass_of(request.scope), session=body.session)
        limits = service.limits()
        prompts, sent, kept = [], [], num_kept(body, limits)
        for asked in asked_prompts:
            prompt, token_ids = truncated(asked, await service.token_ids(asked, limits), kept)
            prompts.append(token_ids)
            sent.append(prompt)
            await asyncio.sleep(0)  # streams go on between the prompts of a long batch
        grammar = await service.grammar(body.form)
        call = service.call(prompts, body.options(), model=body.model, route="completions", grammar=grammar)
        if not body.skip_special_tokens:
            call = call.showing_special_tokens()
        view = body.view(sent, prompts, service.tokenizer)
        if view is not None and sum(map(len, prompts)) > INLINE_TOKENS:
            await asyncio.to_thread(view.locate)
        shape = CompletionFormat(
            request_id=call.request_id,
            model=call.model,
            tokenizer=service.tokenizer,
            usage=body.include_usage,
            prompts=view,
        )
        return self._answer(request, service, call, body, shape)

    async def chat_completions(self, request: Request) -> Response:
        body, chat = await self.bodies.read(request, _chat)
        service = self._services.of(body.model, pass_of(request.scope), session=body.session)
        call = await service.chat_call(chat, model=body.model, route="chat", stream=body.stream)
        if not body.skip_special_tokens:
            call = call.showing_special_tokens()
        shape = ChatFormat(
            request_id=call.request_id, model=call.model, tokenizer=service.tokenizer, usage=body.include_usage
        )
        return self._answer(request, service, call, body, shape)

    def _answer(self, request: Request, service: Service, call: Call, body: SamplingBody, shape: Format) -> Response:
        run = service.run(call, pass_of(request.scope))
        if body.continuous_usage:
            shape = ContinuousUsage(shape, lambda: run.usage)
        return AnswerResponse(run, shape, stream=body.stream, usage=body.include_usage)

    async def tokenize(self, request: Request) -> Response:
        body, chat = await self.bodies.read(request, _tokenized)
        service = self._services.of(body.model, pass_of(request.scope))
        if chat is not None:
            tokens = await service.chat_token_ids(chat)
        else:
            has_added = body.add_special_tokens is not False
            tokens = await service.tokenizer.encode_async(body.prompt or "", add_special_tokens=has_added)
        strings = await service.tokenizer.token_strings_async(tokens) if body.return_token_strs else None
        limit = service.limits().max_model_len
        return json_response({"tokens": tokens, "count": len(tokens), "max_model_len": limit, "token_strs": strings})

    async def detokenize(self, request: Request) -> Response:
        body = await self.bodies.read(request, partial(parse_body, kind=DetokenizeBody))
        service = self._services.of(body.model, pass_of(request.scope))
        check_token_ids(body.tokens, service.limits(), "tokens")
        return json_response({"prompt": await service.tokenizer.decode_async(body.tokens)})

    async def models(self, request: Request) -> Response:
        key = key_of(request.scope)
        names = [name for name in self._services.names if key is None or key.may_use(name)]
        return json_response({"object": "list", "data": [_model(self._services.about(name), name) for name in names]})

    async def model(self, request: Request) -> Response:
        name, key = request.path_params["name"], key_of(request.scope)
        if key is not None and not key.may_use(name):
            raise PermissionDeniedError(f"the API key {key.name} is not for model {name!r}")
        return json_response(_model(self._services.about(name), name))

    async def health(self, request: Request) -> Response:
        """200 while this replica can answer for some model, idle included; 503 with the reason otherwise."""
        health = self._services.health()
        models = {version.entry: _health(version) for version in self._services if version.entry}
        more = {"models": models} if models else {}
        if health.ok:
            return json_response({"status": "ok", **more})
        body = {"status": "unhealthy", "reason": health.reason, **more}
        return json_response(body, 503, {"Retry-After": "1"})

    async def root(self, request: Request) -> Response:
        """The page for browsers; health for all others."""
        if wants_page(request):
            return page_response(request)
        answer = await self.health(request)
        answer.headers["Vary"] = "Accept"
        return answer

    async def metrics(self, request: Request) -> Response:
        return Response(await self._services.metrics.text(), media_type=CONTENT_TYPE)

    async def metrics_targets(self, request: Request) -> Response:
        return json_response(self._services.metrics.targets())

    async def version(self, request: Request) -> Response:
        return json_response({"version": version("baton-serve")})

    async def openapi(self, request: Request) -> Response:
        return json_response(document())

    async def docs(self, request: Request) -> Response:
        return Response(page(), media_type="text/html", headers={"Content-Security-Policy": security_policy()})

    async def on_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, BatonError)
        note_error(error.code)
        self._services.metrics.requests.labels(route_name(request.url.path), error.code).inc()
        body, headers = error_answer(request.scope, error)
        return json_response(body, error.http_status, headers)

    async def on_fault(self, request: Request, error: Exception) -> Response:
        """A fault of our own, in OpenAI's shape; the server logs its traceback."""
        return await self.on_error(
            request, InternalError(f"{request.method} {request.url.path} failed: {type(error).__name__}")
        )

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        """An unknown path or method, in OpenAI's shape."""
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        path, allowed = request.url.path, headers.get("Allow")
        if allowed:
            code, message = "method_not_allowed", f"{request.method} {path}: this path takes {allowed} alone"
        elif instead := instead_of(path):
            code, message = "not_supported", f"{request.method} {path}: {instead}"
        else:
            code, message = "not_found", f"{request.method} {path}: no such path; the API is below /v1"
        body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
        if is_of_messages(path):
            body = messages_error_of(error.status_code, message, request_id_of(request.scope))
        return json_response(body, error.status_code, headers)


def _model(service: Service, name: str) -> dict[str, Any]:
    """Of an adapter: what it is served on is its parent."""
    max_model_len = service.dispatcher.max_model_len or None
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "baton",
        "root": service.model,
        "parent": service.model if name in service.dispatcher.adapters else None,
        "permission": [permission(service.created)],
        "max_model_len": max_model_len,
        "context_length": max_model_len,  # as OpenRouter's clients read it
        "context_window": max_model_len,  # as Groq's do
        "vocab_size": service.tokenizer.vocab_size,
        "generation_defaults": effective(service.defaults),
        "chat_templates": service.tokenizer.chat_templates,
    }


def _health(version: Version) -> dict[str, Any]:
    health = version.service.dispatcher.health()
    shown = {"status": "ok"} if health.ok else {"status": "unhealthy", "reason": health.reason}
    return {"served_name": version.service.model, "weight": version.weight, **shown}


def _completion(sent: Mapping[str, Any]) -> tuple[CompletionBody, list[Prompt]]:
    body = parse_body(sent, CompletionBody)
    return body, parse_prompts(body.prompt)


def _chat(sent: Mapping[str, Any]) -> tuple[ChatBody, ChatRequest]:
    body = parse_body(sent, ChatBody)
    return body, body.request()


def _tokenized(sent: Mapping[str, Any]) -> tuple[TokenizeBody, ChatRequest | None]:
    body = parse_body(sent, TokenizeBody)
    return body, body.chat()


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status, headers, media_type="application/json")


def permission(created: int) -> dict[str, Any]:
    """As OpenAI's API listed them once; clients of that time read it."""
    return {
        "id": "modelperm-baton",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
