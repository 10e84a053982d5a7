"""The HTTP API in the words of OpenAPI 3.1."""

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cluster.ingress.openapi.body_shape import BodyShape
from cluster.ingress.openapi.operations import OPERATIONS, Operation
from cluster.ingress.openapi.requests import REF, Schema, request_schemas, without_titles

_ANY_CALL: dict[int, str] = {
    401: "No API key, or none that is known, where the server wants one.",
    403: "The API key is not for this model.",
    500: "A fault of the server's own.",
}
_WITH_BODY: dict[int, str] = {
    400: "The request must be changed; the message says how.",
    404: "Another model.",
    408: "The body did not come in time.",
    413: "The body is over the server's limit.",
    415: "The body has an encoding that the server does not know.",
    429: "The queue is full, or a limit of the API key is used up.",
    503: "No worker can answer.",
    504: "The answer took longer than the server lets one take.",
}
_STREAM = (
    "Server-sent events, where `stream` is true; the last is {last}. An error after the first event is an event too."
)


@cache
def document() -> dict[str, Any]:
    """Not to be changed."""
    paths: dict[str, Any] = {}
    for one in OPERATIONS:
        paths[one.path] = {method: _operation(one, method) for method in one.methods}
        if "{name}" in one.path:
            paths[one.path]["parameters"] = [
                {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            ]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Baton", "version": version("baton-serve"), "description": "OpenAI's API, and vLLM's."},
        "security": [{}, {"apiKey": []}],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(one: Operation, method: str) -> dict[str, Any]:
    has_body = one.body is not None and method == "post"
    responses = {"200": _answer(one, method)}
    if one.unhealthy:
        responses["503"] = _answer(one, method) | {"headers": _headers(503)}
    else:
        errors = _ANY_CALL | (_WITH_BODY if has_body else {404: one.not_found} if "{" in one.path else {})
        if one.query:
            errors |= {400: "A parameter is unknown, or its value is."}
        responses |= {str(status): _error(one, status, text, method) for status, text in sorted(errors.items())}
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": f"{method}_{one.path.strip('/').replace('/', '_') or 'root'}".replace("{", "").replace("}", ""),
        "responses": responses,
    }
    if one.query:
        operation["parameters"] = [
            {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in one.query.items()
        ]
    if has_body:
        assert one.body is not None
        content = {"application/json": {"schema": _ref(one.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answer(one: Operation, method: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": one.summary, "headers": _headers(200)}
    if method == "head":
        return response
    if isinstance(one.answer, str):
        response["content"] = {one.answer: {}}
        return response
    response["content"] = {"application/json": {"schema": _ref(one.answer)}}
    if one.event is not None:
        response["content"]["text/event-stream"] = {"schema": _events(one.event, one.last_event)}
    return response


def _events(event: type[BaseModel], last: str) -> Schema:
    """Of each event: OpenAPI 3.1 has no word for a sequence of them."""
    data: Schema = {"contentMediaType": "application/json", "contentSchema": _ref(event)}
    if "[DONE]" in last:
        data = {"anyOf": [data, {"const": "[DONE]"}]}
    return {
        "type": "object",
        "description": _STREAM.format(last=last),
        "properties": {"data": {"type": "string", **data}, "event": {"type": "string"}},
        "required": ["data"],
    }


def _error(one: Operation, status: int, text: str, method: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": text, "headers": _headers(status)}
    if method != "head":
        response["content"] = {"application/json": {"schema": _ref(one.error)}}
    return response


def _headers(status: int) -> dict[str, Any]:
    headers = {"X-Request-Id": {"description": "The client's own where it sent one.", "schema": {"type": "string"}}}
    if status in (429, 503):
        seconds: Schema = {"type": "integer", "minimum": 1}
        headers["Retry-After"] = {"description": "In seconds.", "schema": seconds}
    return headers


def _ref(kind: type | BodyShape) -> Schema:
    return {"$ref": REF.format(model=kind.name if isinstance(kind, BodyShape) else kind.__name__)}


def _schemas() -> dict[str, Schema]:
    shapes: set[type[BaseModel]] = set()
    for one in OPERATIONS:
        shapes |= {kind for kind in (one.answer, one.event, one.error) if isinstance(kind, type)}
    ordered = sorted(shapes, key=lambda kind: kind.__name__)
    _, found = models_json_schema([(kind, "serialization") for kind in ordered], ref_template=REF)
    bodies = request_schemas([one.body for one in OPERATIONS if isinstance(one.body, type)])
    bodies |= {one.body.name: one.body.schema() for one in OPERATIONS if isinstance(one.body, BodyShape)}
    return dict(sorted((without_titles(found["$defs"]) | bodies).items()))
