"""What the HTTP API can be asked, path by path: one row each, for its description."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from cluster.ingress.adapter_routes import LOAD, UNLOAD, LoadAdapterBody, UnloadAdapterBody
from cluster.ingress.chat.body import ChatBody
from cluster.ingress.openai import Body, CompletionBody, DetokenizeBody
from cluster.ingress.openapi import agents, answers, timelines
from cluster.ingress.openapi.body_shape import BodyShape
from cluster.ingress.tokenize_body import TokenizeBody
from cluster.ingress.tracing.asking import MAX_LIMIT, ORDERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    Attributes:
        methods: Of the path, which all answer alike.
        answer: The shape of a 200; text: its media type, where it is no JSON.
        body: Of the request; None: it has none.
        error: The shape of what is no 200.
        event: Of a streamed answer, where the request may ask for one.
        last_event: What ends a stream.
        unhealthy: It answers 503 with the same shape.
        query: Parameters after the path, by name.
        not_found: What a 404 says, where a part of the path is a name.
    """

    path: str
    methods: Sequence[str]
    summary: str
    answer: type[BaseModel] | str
    body: type[Body] | BodyShape | None = None
    event: type[BaseModel] | None = None
    last_event: str = ""
    error: type[BaseModel] = answers.Error
    unhealthy: bool = False
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    not_found: str = "Another model."


POST, GET, BOTH = ("post",), ("get", "head"), ("get", "head", "post")

OPERATIONS: Sequence[Operation] = (
    Operation(
        path="/v1/completions",
        methods=POST,
        summary="Continue a prompt, or several",
        body=CompletionBody,
        answer=answers.Completion,
        event=answers.CompletionChunk,
        last_event="`data: [DONE]`",
    ),
    Operation(
        path="/v1/chat/completions",
        methods=POST,
        summary="Answer messages",
        body=ChatBody,
        answer=answers.ChatCompletion,
        event=answers.ChatCompletionChunk,
        last_event="`data: [DONE]`",
    ),
    Operation(
        path="/v1/responses",
        methods=POST,
        summary="Answer items, as OpenAI's Responses API does; nothing is stored",
        body=agents.RESPONSES_BODY,
        answer=agents.Response,
        event=agents.ResponseEvent,
        last_event="of type response.completed, response.incomplete or response.failed",
    ),
    Operation(
        path="/v1/responses/input_tokens",
        methods=POST,
        summary="How many tokens a response's items are",
        body=agents.RESPONSES_BODY,
        answer=agents.ResponseInputTokens,
    ),
    Operation(
        path="/v1/messages",
        methods=POST,
        summary="Answer messages, as Anthropic's API does",
        body=agents.MESSAGES_BODY,
        answer=agents.Message,
        event=agents.MessageEvent,
        last_event="of type message_stop",
        error=agents.MessagesError,
    ),
    Operation(
        path="/v1/messages/count_tokens",
        methods=POST,
        summary="How many tokens messages are",
        body=agents.COUNT_TOKENS_BODY,
        answer=agents.MessageInputTokens,
        error=agents.MessagesError,
    ),
    Operation(
        path="/tokenize",
        methods=POST,
        summary="Token ids of a prompt, or of messages: send one of the two",
        body=TokenizeBody,
        answer=answers.Tokens,
    ),
    Operation(
        path="/detokenize", methods=POST, summary="The text of token ids", body=DetokenizeBody, answer=answers.Text
    ),
    Operation(
        path=LOAD,
        methods=POST,
        summary="Load a LoRA adapter on all workers, where adapters_dynamic.folders allows it",
        body=LoadAdapterBody,
        answer="text/plain",
    ),
    Operation(
        path=UNLOAD,
        methods=POST,
        summary="Unload one; answers that are being written are finished",
        body=UnloadAdapterBody,
        answer="text/plain",
    ),
    Operation(path="/v1/models", methods=GET, summary="What is served", answer=answers.Models),
    Operation(path="/v1/models/{name}", methods=GET, summary="One of them", answer=answers.Model),
    Operation(
        path="/cluster/requests",
        methods=GET,
        summary="How the last requests went, or the slowest of those that are remembered",
        answer=timelines.RequestList,
        query={
            "order": {"type": "string", "enum": list(ORDERS), "default": "last"},
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 20},
        },
    ),
    Operation(
        path="/cluster/requests/{name}",
        methods=GET,
        summary="How one of them went, by its answer's id or X-Request-Id",
        answer=timelines.RequestTimeline,
        not_found="Nobody remembers it, or it is another key's.",
    ),
    Operation(path="/health", methods=GET, summary="Whether it can answer", answer=answers.Health, unhealthy=True),
    Operation(path="/healthz", methods=GET, summary="The same", answer=answers.Health, unhealthy=True),
    Operation(path="/ping", methods=BOTH, summary="The same", answer=answers.Health, unhealthy=True),
    Operation(
        path="/",
        methods=GET,
        summary="The same; browsers, which ask for text/html, get a page",
        answer=answers.Health,
        unhealthy=True,
    ),
    Operation(path="/cluster", methods=GET, summary="Pools, workers, times and events, now", answer="application/json"),
    Operation(
        path="/cluster/events",
        methods=GET,
        summary="The same as server-sent events: a picture, then what changes in it",
        answer="text/event-stream",
    ),
    Operation(path="/web/{name}", methods=GET, summary="Files of the page at /", answer="text/plain"),
    Operation(path="/metrics", methods=GET, summary="Counts and times, for Prometheus", answer="text/plain"),
    Operation(
        path="/metrics/targets",
        methods=GET,
        summary="Where workers tell their own, for Prometheus's http_sd_configs",
        answer="application/json",
    ),
    Operation(path="/version", methods=GET, summary="Of this server", answer=answers.Version),
    Operation(path="/openapi.json", methods=GET, summary="This description", answer="application/json"),
    Operation(path="/docs", methods=GET, summary="This description, to be read", answer="text/html"),
)
