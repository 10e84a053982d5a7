"""The API's description as one HTML page that needs nothing else: no script, and nothing from another server."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from cluster.ingress.openapi.document import document
from cluster.ingress.openapi.requests import Schema

_FOLDER = Path(__file__).parent.parent / "web"


@cache
def page() -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"shown": _shown, "described": _described, "style": Markup(_style())}
    template = environment.from_string((_FOLDER / "docs.html").read_text(encoding="utf-8"))
    return template.render(document())


@cache
def security_policy() -> str:
    """For Content-Security-Policy: the page's own style, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def _style() -> str:
    return (_FOLDER / "docs.css").read_text(encoding="utf-8")


def _shown(schema: Schema) -> Markup:
    """What a value may be, in a few words, with links to shapes."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if "data" in schema.get("properties", {}):
        return Markup("events, each ") + _shown(schema["properties"]["data"])
    if "contentSchema" in schema:
        return _shown(schema["contentSchema"])
    if "anyOf" in schema:
        return Markup(" or ").join(_shown(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return Markup(" or ").join(_code(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return Markup("list of ") + (_shown(schema["items"]) if schema.get("items") else Markup("anything"))
    return Markup.escape(" ".join([str(schema.get("type", "anything")), *_bounds(schema)]))


def _code(value: Any) -> Markup:
    return Markup("<code>{}</code>").format(json.dumps(value))


def _bounds(schema: Schema) -> list[str]:
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}"}
    return [words[name].format(schema[name]) for name in words if name in schema]


def _described(schema: Schema) -> str:
    """The first description in it."""
    found = [schema, *schema.get("anyOf", ())]
    return next((str(one["description"]) for one in found if "description" in one), "")
