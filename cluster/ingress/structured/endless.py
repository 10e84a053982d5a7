"""Schemas that no finite value can satisfy, because each value would have to hold another of the same kind.

The grammar library compiles them; an answer would go on until it is cut off. What is not understood counts as finite.
"""

from collections.abc import Callable, Mapping
from typing import Any

from cluster.ingress.structured.subschemas import ROOT, children, subschemas


def endless_path(schema: Mapping[str, Any]) -> str | None:
    """Where the schema asks for what has no finite value; None: it has finite values."""
    paths = {id(one): (path, one) for path, one in subschemas(schema)}
    open_ones = [one for _, one in reversed(paths.values())]  # the innermost first: most are known after one pass
    finite: set[int] = set()
    is_new = True
    while is_new:
        is_new = False
        for one in open_ones:
            if _is_finite(one, schema, finite):
                finite.add(id(one))
                is_new = True
        open_ones = [one for one in open_ones if id(one) not in finite]
    reached = {id(one) for one in _reached(schema)}
    endless = [(path, one) for path, one in paths.values() if id(one) in reached - finite]
    return next((path for path, one in endless if "$ref" in one), ROOT) if endless else None


def _reached(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What values are checked against: all but definitions that nothing refers to."""
    found, seen = [schema], {id(schema)}
    for one in found:
        new = [child for path, child in children("", one) if not path.startswith((".$defs.", ".definitions."))]
        reference = one.get("$ref")
        new.append(_target(schema, reference) if isinstance(reference, str) else None)
        for child in new:
            if isinstance(child, Mapping) and id(child) not in seen:
                seen.add(id(child))
                found.append(child)
    return found


def _is_finite(schema: Mapping[str, Any], root: Mapping[str, Any], finite: set[int]) -> bool:
    def known(child: Any) -> bool:
        return not isinstance(child, Mapping) or id(child) in finite

    reference = schema.get("$ref")
    if isinstance(reference, str) and not known(_target(root, reference)):
        return False
    if not all(map(known, _list(schema, "allOf"))):
        return False
    for keyword in ("anyOf", "oneOf"):
        options = _list(schema, keyword)
        if options and not any(map(known, options)):
            return False
    if "const" in schema or "enum" in schema:
        return True
    kinds = schema.get("type")
    if kinds in ("object", ["object"]):
        return _object_is_finite(schema, known)
    if kinds in ("array", ["array"]):
        return _array_is_finite(schema, known)
    return True


def _object_is_finite(schema: Mapping[str, Any], known: Callable[[Any], bool]) -> bool:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return True
    return all(known(properties.get(name)) for name in required if isinstance(name, str))


def _array_is_finite(schema: Mapping[str, Any], known: Callable[[Any], bool]) -> bool:
    least = schema.get("minItems")
    if not isinstance(least, int) or least < 1:
        return True
    first = _list(schema, "prefixItems")[:least]
    return all(map(known, first)) and (len(first) == least or known(schema.get("items")))


def _list(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def _target(root: Mapping[str, Any], reference: str) -> Any:
    """What a reference within the schema names; None: it is of another kind, or names nothing."""
    if not reference.startswith("#") or (len(reference) > 1 and reference[1] != "/"):
        return None
    node: Any = root
    for part in reference[2:].split("/") if len(reference) > 1 else ():
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            return None
    return node
