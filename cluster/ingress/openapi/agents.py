"""The bodies and answers of /v1/responses and /v1/messages, for the API's description alone.

Fields are those of the tables by which bodies are checked; what a field of several levels holds is OpenAI's and
Anthropic's to say, and is not repeated here.
"""

from typing import Any, Literal

from pydantic import BaseModel

from cluster.ingress.messages_api import fields as messages_fields
from cluster.ingress.openapi.answers import Count
from cluster.ingress.openapi.body_shape import BodyShape
from cluster.ingress.openapi.requests import Schema, row_schema
from cluster.ingress.responses_api import fields as responses_fields
from workers.model.sampling_params import ROWS

_OBJECT: Schema = {"type": "object"}
_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_OBJECTS: Schema = {"type": "array", "items": _OBJECT}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_TEXT_OR_OBJECTS: Schema = {"anyOf": [_TEXT, _OBJECTS]}
_SHARED = {
    "chat_template": _TEXT,
    "chat_template_kwargs": _OBJECT,
    "metadata": _OBJECT,
    "model": _TEXT,
    "stream": _FLAG,
}

RESPONSES_BODY = BodyShape(
    name="ResponsesBody",
    known=responses_fields.KNOWN,
    harmless=responses_fields.HARMLESS,
    refused=responses_fields.REFUSED,
    required=("input",),
    own=_SHARED
    | {
        "include": _TEXTS,
        "input": _TEXT_OR_OBJECTS,
        "instructions": _TEXT,
        "max_output_tokens": row_schema(ROWS["max_tokens"]),
        "parallel_tool_calls": _FLAG,
        "reasoning": _OBJECT,
        "stream_options": _OBJECT,
        "text": _OBJECT,
        "tool_choice": {"anyOf": [_TEXT, _OBJECT]},
        "tools": _OBJECTS,
        "top_logprobs": row_schema(ROWS["logprobs"]),
    },
)
_MESSAGES_OWN = _SHARED | {
    "max_tokens": row_schema(ROWS["max_tokens"]),
    "messages": {**_OBJECTS, "minItems": 1},
    "output_config": _OBJECT,
    "output_format": _OBJECT,
    "stop_sequences": _TEXTS,
    "system": _TEXT_OR_OBJECTS,
    "thinking": _OBJECT,
    "tool_choice": _OBJECT,
    "tools": _OBJECTS,
}
MESSAGES_BODY = BodyShape(
    name="MessagesBody",
    known=messages_fields.KNOWN,
    harmless=messages_fields.HARMLESS,
    refused=messages_fields.REFUSED,
    required=("max_tokens", "messages"),
    own=_MESSAGES_OWN,
)
COUNT_TOKENS_BODY = BodyShape(
    name="CountTokensBody",
    known=messages_fields.OF_PROMPT,
    harmless=messages_fields.HARMLESS | (messages_fields.KNOWN - messages_fields.OF_PROMPT),
    refused=messages_fields.REFUSED,
    required=("messages",),
    own=_MESSAGES_OWN,
)


class ResponsesUsage(BaseModel):
    input_tokens: Count
    output_tokens: Count
    total_tokens: Count


class Response(BaseModel):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[dict[str, Any]]
    usage: ResponsesUsage | None
    error: dict[str, Any] | None


class ResponseInputTokens(BaseModel):
    object: Literal["response.input_tokens"]
    input_tokens: Count


class MessagesUsage(BaseModel):
    input_tokens: Count
    output_tokens: Count


class Message(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage


class MessageInputTokens(BaseModel):
    input_tokens: Count


class MessagesErrorDetail(BaseModel):
    type: str
    message: str


class MessagesError(BaseModel):
    type: Literal["error"]
    error: MessagesErrorDetail
    request_id: str


class ResponseEvent(BaseModel):
    type: str
    sequence_number: Count


class MessageEvent(BaseModel):
    type: str
