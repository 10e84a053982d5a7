"""Server-sent events whose kind stands in the event and in its data, as OpenAI's responses and Anthropic's messages."""

import json
from collections.abc import Mapping
from typing import Any

# ASCII alone, by C code: half a surrogate pair cannot break a stream.
dump_text = json.JSONEncoder().encode
dumps = json.JSONEncoder(separators=(",", ":")).encode


def typed_event(kind: str, body: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {dumps({'type': kind, **body})}\n\n"
