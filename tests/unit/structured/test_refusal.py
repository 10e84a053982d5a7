"""What cannot be followed is refused in words that name the keyword or the value, and the fix."""

import re
from typing import Any

import pytest

from cluster.ingress.structured.output import Choice, JsonSchema, Lark, Regex, StructuredOutput, Tag, Tagged
from cluster.ingress.structured.refusal import refusal


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


BAD_SCHEMAS: list[tuple[Any, str]] = [
    (False, "is false, which allows nothing"),
    ({"properties": {"tags": {"type": "array", "uniqueItems": True}}}, "$.properties.tags.uniqueItems true, and uniq"),
    ({"not": {"type": "string"}}, 'has $.not {"type": "string"}, and not is not supported; leave not out'),
    ({"if": {"type": "string"}, "then": {"minLength": 3}}, "$.if "),
    ({"type": "array", "contains": {}}, "$.contains {}, and contains is not supported"),
    ({"items": {"dependentRequired": {"a": ["b"]}}}, "$.items.dependentRequired"),
    ({"propertyNames": {"pattern": "^a"}}, "propertyNames is not supported"),
    ({"unevaluatedProperties": False}, "unevaluatedProperties is not supported"),
    ({"$dynamicRef": "#a"}, "$dynamicRef is not supported"),
    ({"properties": {"a": {"type": "string", "format": "zip"}}}, '$.properties.a.format "zip"'),
    ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "oneOf constraints are not supported"),
    ({"type": "object", "minProperties": 2}, "$.minProperties 2, which cannot be enforced: a name could come twice"),
    ({"patternProperties": {"^a": True, "b$": {"type": "null"}}}, "patternProperties"),
    ({"$ref": "http://example.com/schema"}, '$.$ref "http://example.com/schema"'),
    ({"$ref": "#/$defs/none"}, '$.$ref "#/$defs/none"'),
    ({"type": "foo"}, '$.type "foo", which cannot be enforced (Invalid type: foo)'),
    ({"type": "string", "pattern": "("}, 'has $.pattern "("'),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around, including look-ahead and look-behind, is not supported"),
    ({"type": "string", "minLength": -1}, "$.minLength -1"),
    ({"properties": []}, "properties must be an object"),
    ({"type": "string", "minLenght": 1}, "$.minLenght, which is no keyword of JSON Schema; did you mean minLength?"),
    ({"x-guidance": {"lenient": True}, "uniqueItems": True}, "$.x-guidance; options of the grammar library"),
    ({"type": "string", "minLength": 5, "maxLength": 2}, "allows nothing: Unsatisfiable schema: minLength (5)"),
    ({"enum": []}, "allows nothing"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "allows nothing: Unsatisfiable schema: incompatible types"),
    ({"$ref": "#"}, "never ends: what $ asks for"),
    ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "never ends"),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "never ends: what $.properties.a asks"),
    ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "never ends"),
    ({"anyOf": [{"type": "null"}, {"type": "array", "prefixItems": [{"$ref": "#/anyOf/1"}], "minItems": 1}]}, "never"),
    (nested(60), "is nested 121 levels deep; nest at most 100"),
    (nested(1000), "is nested 2001 levels deep"),
    ({"enum": list(range(5001))}, "has 5001 values in enum; send at most 5000"),
    ({"properties": {f"p{i}": True for i in range(2001)}}, "has 2001 properties; send at most 2000"),
    ({"type": "number", "multipleOf": 1e-9, "minimum": 0.123456789, "maximum": 1e30}, "multipleOf"),
    (
        {"allOf": [{"anyOf": [{"properties": {f"a{i}": {"const": j}}} for j in range(4)]} for i in range(10)]},
        "schema too large",
    ),
]
BAD_FORMS: list[tuple[StructuredOutput, str]] = [
    (Regex("("), 'is "(", which cannot be compiled: invalid regex'),
    (Regex(r"(a)\1"), "backreferences are not supported"),
    (Regex("(?<=a)b"), "look-around"),
    (Regex(r"[^\s\S]"), "allows nothing; send one that allows something"),
    (Regex("a[^\\s\\S]"), "allows nothing"),
    (Regex("\ud800"), "is not Unicode text"),
    (Choice(("\udc00",)), "is not Unicode text"),
    (Lark(""), 'is "", which cannot be compiled: no start rule found'),
    (Lark("hello %%%"), "cannot be compiled: lexer error"),
    (Lark("start: foo"), 'unknown name: "foo"'),
    (Lark('start: "a" start'), "never ends: each text of the rule start would have to hold another one"),
    (Lark('start: "c" | "a" b\nb: "x" b'), "never ends: each text of the rule b"),
    (Lark("start: a+\na: (start)"), "never ends"),
    (Lark('root ::= "a" root'), "never ends"),
    (Lark("root ::= x"), "is no GBNF (Rule 'x' not found)"),
    (Lark("root ::= " + "(" * 2000 + '"a"' + ")" * 2000), "nested too deeply"),
    (Lark("start: X\nX: /a/ & /b/"), "allows nothing"),
    (Lark("start: <|im_end|>"), "has the special token <|im_end|>"),
    (Lark("start: <[5]>"), "has the special token <[5]>"),
    (Lark("start[temperature=0.5]: /a*/"), "rule option temperature"),
    (Lark("start: x\nx[max_tokens=3]: /a*/"), "rule option max_tokens"),
    (Lark('start: %json {"uniqueItems": true}'), "uniqueItems"),
    (Lark('start: %json {"x-guidance": {"lenient": true}, "uniqueItems": true}'), "uniqueItems"),
    (Lark("start: X\nX: /.*a.{20}/ & /.*b.{20}/ & ~/.*c.{20}/"), "cannot be compiled: fuel exhausted"),
    (
        Tagged((Tag("<f>", {"not": {}}, "</f>"),), ("<f>",)),
        'not is not supported; leave not out, or change it (in "<f>")',
    ),
]
GOOD: list[StructuredOutput] = [
    JsonSchema(True),
    JsonSchema({"title": "t", "$comment": "c", "default": 1, "examples": [1], "x-order": 3, "deprecated": True}),
    JsonSchema({"$defs": {"loop": {"$ref": "#/$defs/loop"}}, "type": "string"}),  # nothing refers to it
    JsonSchema({"type": "object", "properties": {"next": {"$ref": "#"}}}),
    JsonSchema(
        {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]}
    ),
    JsonSchema({"type": "object", "properties": {"not": {"type": "string"}, "x-guidance": {}}}),
    JsonSchema({"type": "object", "required": ["a"], "minProperties": 2}),
    JsonSchema({"oneOf": [{"type": "string"}, {"type": "integer"}]}),
    JsonSchema(nested(49)),
    Lark('start: e\ne: e "+" e | "1" | "(" e ")"'),
    Lark('start: [start] "x"'),
    Lark('start: "a" b{0,2}\nb: "x"~3\n// c: c\n'),
    Lark('?start: item+ -> list\nitem: %json {"type": "object"}\n%ignore /\\s/'),
    Regex(""),
    Regex(r"(x+x+)+y"),
    Choice(("", "a")),
]


@pytest.mark.parametrize(("schema", "message"), BAD_SCHEMAS)
def test_a_schema_that_cannot_be_followed_is_refused_by_its_keyword(schema: Any, message: str) -> None:
    found = refusal(JsonSchema(schema))
    assert found is not None
    assert message in found
    assert re.search("[;:,] ", found)  # a fix follows


@pytest.mark.parametrize(("form", "message"), BAD_FORMS)
def test_a_form_that_cannot_be_followed_is_refused_by_its_value(form: StructuredOutput, message: str) -> None:
    found = refusal(form)
    assert found is not None
    assert message in found
    assert "<state>" not in found
    assert "\n" not in found
    assert len(found) < 500


@pytest.mark.parametrize("form", GOOD)
def test_what_can_be_followed_is_not_refused(form: StructuredOutput) -> None:
    assert refusal(form) is None
