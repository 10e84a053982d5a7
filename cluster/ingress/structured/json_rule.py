"""JSON of a schema as an expression of Lark, in llguidance's variant."""

import json
import re
from collections.abc import Mapping
from typing import Any

from cluster.ingress.structured.exact_formats import with_exact_formats

# Between two tokens of JSON: room for a line's end and deep indentation. Without an end, a model that has lost its way
# would write blanks up to `max_tokens`.
MAX_BLANKS = 64
_BLANKS = {"whitespace_pattern": rf"[\x20\x0A\x0D\x09]{{1,{MAX_BLANKS}}}"}
_NONE = {"whitespace_flexible": False}
# Without \u: a property's name could be written a second time as "\u0061", past the schema of "a". Where a schema's own
# texts have control characters there is no other way to write these; the library would leave them out.
_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}
_CONTROL = re.compile(  # in JSON, and in its patterns
    r"\\u00(?:0[0-7be-f]|1[0-9a-f]|7f)|\\\\(?:x[01]|x7[fF]|u00[01]|u007[fF]|0|c[A-Za-z])"
)


def json_rule(schema: Mapping[str, Any] | bool, *, whitespace: bool = True) -> str:
    """
    Args:
        whitespace: Between JSON's tokens there may be some.
    """
    if schema is False:
        return "%json false"
    escapes = {} if _CONTROL.search(json.dumps(schema)) else _ESCAPES
    options = {"x-guidance": (_BLANKS if whitespace else _NONE) | escapes}
    return "%json " + json.dumps(options if schema is True else {**with_exact_formats(schema), **options})
