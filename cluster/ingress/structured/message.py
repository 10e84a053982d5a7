"""What a gRPC request asks of an answer's form."""

from collections.abc import Callable, Mapping
from typing import Any

from baton.errors import InvalidRequestError
from baton.v1 import inference_pb2
from cluster.ingress.structured.output import JsonSchema, StructuredOutput
from cluster.ingress.structured.parsing import parse_choice, parse_grammar, parse_regex, parse_schema_text
from cluster.ingress.structured.structural_tags import parse_structural_tag

FIELD = "structured_output"


def form_of_message(sampling: inference_pb2.SamplingParams) -> StructuredOutput | None:
    """None: any text. Raises: InvalidRequestError."""
    if not sampling.HasField("structured_output"):
        return None
    message = sampling.structured_output
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequestError(f"{FIELD} says nothing; set one of {', '.join(_PARSERS)}", field=FIELD)
    value = message.choice.texts if kind == "choice" else getattr(message, kind)
    form = _PARSERS[kind](list(value) if kind == "choice" else value, f"{FIELD}.{kind}")
    if not message.no_whitespace:
        return form
    if not isinstance(form, JsonSchema):
        raise InvalidRequestError(
            f"{FIELD}.no_whitespace is true, which is for JSON alone, not for {kind}; leave it out", field=FIELD
        )
    return JsonSchema(form.schema, whitespace=False, named=form.named)


def _json_object(value: Any, named: str) -> JsonSchema:
    if not value:
        raise InvalidRequestError(f"{named} is false; set it to true, or leave {FIELD} out", field=FIELD)
    return JsonSchema({"type": "object"}, named=named)


_PARSERS: Mapping[str, Callable[[Any, str], StructuredOutput]] = {
    "json_schema": parse_schema_text,
    "json_object": _json_object,
    "regex": parse_regex,
    "choice": parse_choice,
    "grammar": parse_grammar,
    "structural_tag": parse_structural_tag,
}
