"""JSON of a schema as an expression of Lark, in llguidance's variant."""

import json
from collections.abc import Mapping
from typing import Any

# Between two tokens of JSON: room for a line's end and deep indentation. Without an end, a model that has lost its way
# would write blanks up to `max_tokens`.
MAX_BLANKS = 64
_BLANKS = {"whitespace_pattern": rf"[\x20\x0A\x0D\x09]{{1,{MAX_BLANKS}}}"}
_NONE = {"whitespace_flexible": False}
# Without \u: a property's name could be written a second time as "\u0061", past the schema of "a".
_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}


def json_rule(schema: Mapping[str, Any] | bool, *, whitespace: bool = True) -> str:
    """
    Args:
        whitespace: Between JSON's tokens there may be some.
    """
    if schema is False:
        return "%json false"
    options = {"x-guidance": (_BLANKS if whitespace else _NONE) | _ESCAPES}
    return "%json " + json.dumps(options if schema is True else {**schema, **options})
