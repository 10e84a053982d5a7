"""The gRPC service `baton.v1.Inference` and the standard health check, independent of who serves them.

A failed call sets status, details and trailing metadata (`baton-error-code`, `baton-error-field`, `retry-after`) and
ends; nothing is raised into the server, which would log it as a fault of ours. Serve's Python proxy is the exception:
it drops the status of a stream that ends without raising.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2

from baton.errors import BatonError, InvalidRequestError
from baton.v1 import inference_pb2
from cluster.doors.guard import Pass
from cluster.ingress.answer import Delta
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.errors import error_metadata
from cluster.ingress.generation_defaults import effective
from cluster.ingress.messages import parse_messages
from cluster.ingress.openai import Prompt
from cluster.ingress.prompt_tokens import PromptToken, to_message
from cluster.ingress.request_ids import HEADER, sane_id
from cluster.ingress.sampling import check_token_ids, from_message
from cluster.ingress.service import Call, OpenCall, Service
from cluster.ingress.services import Services, services_of
from cluster.ingress.structured.message import form_of_message
from cluster.ingress.tracing.context import TRACEPARENT, TRACERESPONSE, TRACESTATE
from cluster.ingress.tracing.visit import GRPC, Visit, current_visit

SERVICE_NAME = "baton.v1.Inference"
_WATCH_INTERVAL_S = 1.0
_TRACE_HEADERS = (TRACEPARENT, TRACESTATE)
MAX_WATCHES = 1024  # of one replica: they need no key, and last as long as their clients like


class Context(Protocol):
    """What Serve's and grpc.aio's contexts have in common."""

    def invocation_metadata(self) -> Any: ...
    def set_code(self, code: Any) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, metadata: Any) -> None: ...


class GRPCRoutes:
    def __init__(self, served: Service | Services, *, raises: bool = False) -> None:
        self._services = services_of(served)
        self._raises = raises
        self._num_watches = 0

    async def generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        with self._visiting(context, "Generate", raises=self._raises):
            async with self._admitted(context) as admitted:
                service = self._services.of(request.model, admitted)
                call = await _call(service, request)
                run = service.run(call, admitted)
                async with aclosing(run.deltas()) as batches:
                    async for batch in batches:
                        if batch[0].prompt is not None:
                            yield _prompt(service, call, batch[0].prompt)
                            continue
                        yield inference_pb2.GenerateResponse(
                            request_id=call.request_id, deltas=[_delta(service, delta) for delta in batch]
                        )
                yield inference_pb2.GenerateResponse(request_id=call.request_id, usage=_usage(run))

    async def tokenize(
        self, request: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        response = inference_pb2.TokenizeResponse()
        with self._visiting(context, "Tokenize"):
            async with self._admitted(context) as admitted:
                response = await _tokenized(self._services.of(request.model, admitted), request)
        return response

    async def detokenize(
        self, request: inference_pb2.DetokenizeRequest, context: Context
    ) -> inference_pb2.DetokenizeResponse:
        response = inference_pb2.DetokenizeResponse()
        with self._visiting(context, "Detokenize"):
            async with self._admitted(context) as admitted:
                service = self._services.of(request.model, admitted)
                token_ids = tuple(request.token_ids)
                check_token_ids(token_ids, service.limits(), "token_ids")
                response.text = await service.tokenizer.decode_async(token_ids)
        return response

    async def list_models(self, context: Context) -> inference_pb2.ListModelsResponse:
        services = self._services
        response = inference_pb2.ListModelsResponse()
        with self._visiting(context, "ListModels") as visit:
            key = services.guard.identify(_authorization(context)) if services.guard is not None else None
            visit.key_name = None if key is None else key.name
            names = [name for name in services.names if key is None or key.may_use(name)]
            response = inference_pb2.ListModelsResponse(models=[_model(services.about(name), name) for name in names])
        return response

    async def check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        if request.service not in ("", SERVICE_NAME):
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"service is {request.service!r}; this server has {SERVICE_NAME}")
            return health_pb2.HealthCheckResponse()
        return health_pb2.HealthCheckResponse(status=self._health())

    async def list(self) -> health_pb2.HealthListResponse:
        """The status of each service."""
        status = health_pb2.HealthCheckResponse(status=self._health())
        return health_pb2.HealthListResponse(statuses={"": status, SERVICE_NAME: status})

    async def watch(
        self, request: health_pb2.HealthCheckRequest
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """The status now and at every change, until the client cancels; now alone where MAX_WATCHES go on."""
        last = None
        is_known = request.service in ("", SERVICE_NAME)
        is_one_too_many = self._num_watches >= MAX_WATCHES
        self._num_watches += 1
        try:
            while True:
                status = self._health() if is_known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                if status != last:
                    last = status
                    yield health_pb2.HealthCheckResponse(status=status)
                if is_one_too_many or self._services.leaving.is_set():
                    return
                await asyncio.sleep(_WATCH_INTERVAL_S)
        finally:
            self._num_watches -= 1

    @contextmanager
    def _visiting(self, context: Context, method: str, *, raises: bool = False) -> Iterator[Visit]:
        """Around one call; ends it with the status of what is wrong with it. `raises`: and says so to the server."""
        visits = self._services.visits
        trace_headers = [(name, value) for name in _TRACE_HEADERS if (value := _sent(context, name)) is not None]
        visit = visits.begin(
            sane_id(_sent(context, HEADER)), trace_headers, protocol=GRPC, method=method, path=SERVICE_NAME
        )
        traced = [(TRACERESPONSE, visit.trace.response)] if visit.trace is not None and visits.are_collected else []
        context.set_trailing_metadata([*traced, (HEADER, visit.request_id)])
        try:
            yield visit
            visit.status = grpc.StatusCode.OK.name
        except BatonError as error:
            visit.status, visit.error_code = error.grpc_status, error.code
            end_with(context, error, [*traced, (HEADER, visit.request_id)])
            if raises:
                raise
        except (asyncio.CancelledError, GeneratorExit):
            visit.status = grpc.StatusCode.CANCELLED.name
            raise
        finally:
            visits.end(visit)

    @asynccontextmanager
    async def _admitted(self, context: Context) -> AsyncIterator[Pass | None]:
        """Raises: UnauthenticatedError, PermissionDeniedError, RateLimitError, once entered."""
        guard = self._services.guard
        if guard is None:
            yield None
            return
        async with guard.admitted(_authorization(context)) as admitted:
            visit = current_visit()
            if visit is not None:
                visit.key_name = admitted.key_name
            yield admitted

    def _health(self) -> int:
        ok = self._services.health().ok
        status = health_pb2.HealthCheckResponse
        return int(status.SERVING if ok else status.NOT_SERVING)


def end_with(context: Context, error: BatonError, metadata: Sequence[tuple[str, str]]) -> None:
    """Ends the call with the error's status once the handler returns; the ids of the call go last, as in HTTP's
    answers."""
    context.set_code(grpc.StatusCode[error.grpc_status])
    context.set_details(error.message)
    context.set_trailing_metadata([*error_metadata(error), *metadata])


def _authorization(context: Context) -> str | None:
    return _sent(context, "authorization")


def _sent(context: Context, name: str) -> str | None:
    """Of the client's metadata; None: it is not there, or no text."""
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else None
    return None


def _model(service: Service, name: str) -> inference_pb2.Model:
    return inference_pb2.Model(
        id=name,
        max_model_len=service.dispatcher.max_model_len,
        vocab_size=service.tokenizer.vocab_size,
        generation_defaults=inference_pb2.SamplingParams(**effective(service.defaults)),
        chat_templates=service.tokenizer.chat_templates,
        parent=service.model if name in service.dispatcher.adapters else "",
    )


async def _tokenized(service: Service, request: inference_pb2.TokenizeRequest) -> inference_pb2.TokenizeResponse:
    tokenizer = service.tokenizer
    kind = request.WhichOneof("input")
    if kind is None:
        raise InvalidRequestError("input is missing; set text or chat", field="input")
    if kind == "chat":
        token_ids = await service.chat_token_ids(_chat(request.chat))
    else:
        token_ids = await tokenizer.encode_async(request.text, name="text")
    limit = service.limits().max_model_len
    return inference_pb2.TokenizeResponse(token_ids=token_ids, max_model_len=limit)


async def _call(service: Service, request: inference_pb2.GenerateRequest) -> Call:
    limits = service.limits()
    kind = request.WhichOneof("input")
    if not 0 <= request.timeout_s < float("inf"):
        raise InvalidRequestError(
            f"timeout_s is {request.timeout_s:g}; it must be above 0, or 0 for the server's own", field="timeout_s"
        )
    options, timeout_s = from_message(request.sampling), request.timeout_s
    if kind == "chat":
        chat = replace(_chat(request.chat), options=options, structured=form_of_message(request.sampling))
        return await service.chat_call(
            chat, model=request.model, route="grpc", prompt_field="chat", timeout_s=timeout_s, parse=False
        )
    if kind == "prompt":
        if not request.prompt:
            raise InvalidRequestError("prompt is empty; send at least one character", field="prompt")
        token_ids = await service.token_ids(Prompt(text=request.prompt), limits)
    elif kind == "prompt_token_ids":
        token_ids = await service.token_ids(Prompt(token_ids=tuple(request.prompt_token_ids.ids)), limits)
    else:
        raise InvalidRequestError("input is missing; set prompt, prompt_token_ids or chat", field="input")
    form = form_of_message(request.sampling)
    return service.call(
        [token_ids],
        options,
        model=request.model,
        route="grpc",
        timeout_s=timeout_s,
        grammar=await service.grammar(form),
    )


def _prompt(service: Service, call: Call, tokens: Sequence[PromptToken]) -> inference_pb2.GenerateResponse:
    entries = [to_message(token, service.tokenizer) for token in tokens]
    return inference_pb2.GenerateResponse(request_id=call.request_id, prompt_logprobs=entries)


def _delta(service: Service, delta: Delta) -> inference_pb2.ChoiceDelta:
    for entry in delta.logprobs:
        for token in (entry.sampled, *entry.top):
            token.text = service.tokenizer.token_text(token.token_id)
    return inference_pb2.ChoiceDelta(
        choice=delta.choice,
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=delta.logprobs,
        finish_reason=delta.finish_reason,
        stop_reason=delta.stop_reason,
    )


def _chat(chat: inference_pb2.Chat) -> ChatRequest:
    messages = [{"role": message.role, "content": message.content} for message in chat.messages]
    return ChatRequest(messages=parse_messages(messages), template=chat.chat_template)


def _usage(run: OpenCall) -> inference_pb2.Usage:
    usage = run.usage
    return inference_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )
