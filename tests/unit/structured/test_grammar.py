"""The grammars' texts, by what the library allows under them."""

from typing import Any

import pytest

from cluster.ingress.structured.grammar import grammar_text
from cluster.ingress.structured.json_rule import MAX_BLANKS
from cluster.ingress.structured.output import Choice, JsonSchema, Lark, Regex, StructuredOutput, Tag, Tagged
from cluster.ingress.structured.vocabulary import Vocabulary
from tests.unit.structured.following import allows, allows_tokens, special_ids

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
HERMES = (
    Tag('<tool_call>\n{"name": "x", "arguments": ', SCHEMA, "}\n</tool_call>"),
    Tag('<tool_call>\n{"name": "y", "arguments": ', SCHEMA, "}\n</tool_call>"),
)
CALL = ("<tool_call>", '\n{"name": "y", "arguments": {"a": 1}}\n', "</tool_call>")
SPELLED_CALL = "".join(CALL)


def vocabulary() -> Vocabulary:
    ids = special_ids()
    return Vocabulary(specials=ids, ends={ids["<|call|>"]})


def hermes(*, required: bool = False, at_most_one: bool = False) -> Tagged:
    return Tagged(HERMES, ("<tool_call>",), required=required, at_most_one=at_most_one)


FORMS: list[tuple[StructuredOutput, str, str]] = [
    (JsonSchema(SCHEMA), '{"a":1}', '{"a":"b"}'),
    (JsonSchema({"type": "object"}), '{"b": [1, {}]}', "[1]"),
    (JsonSchema(True), "[1]", "x"),
    (Regex("[a-c]+/x"), "abc/x", "abd/x"),
    (Regex("^ab$"), "ab", "abc"),
    (Regex(r"\d+"), "12", "\N{ARABIC-INDIC DIGIT THREE}"),
    (Choice(("yes", "no", 'say "é\n🙂"')), 'say "é\n🙂"', "maybe"),
    (Choice(("a", "ab")), "ab", "abc"),
    (Choice(("", "a")), "", "b"),
    (Lark('start: "a" b\nb: /[0-9]+/\n%ignore " "'), "a 12", "ab"),
    (Lark('root ::= "yes" | no\nno ::= "no" [0-9]'), "no7", "no"),
    (Tagged((Tag("<f=x>", SCHEMA, "</f>"),), ("<f=",)), 'hi <f=x>{"a": 1}</f> bye', "hi <f=y>"),
]


@pytest.mark.parametrize(("form", "good", "bad"), FORMS)
def test_a_form_allows_what_it_says_and_no_more(form: StructuredOutput, good: str, bad: str) -> None:
    grammar = grammar_text(form)
    assert allows(grammar, good)
    assert not allows(grammar, bad)


@pytest.mark.parametrize(("form", "good", "bad"), FORMS)
def test_a_form_begins_after_the_thinking(form: StructuredOutput, good: str, bad: str) -> None:
    grammar = grammar_text(form, reasoning_ends="</think>")
    assert allows(grammar, f"hm, <b> {good}\n</think>{good}")
    assert allows(grammar, f"</think>{good}")
    assert not allows(grammar, good)
    assert not allows(grammar, f"hm</think>{bad}")


def test_thinking_that_may_come_begins_with_its_marker() -> None:
    grammar = grammar_text(JsonSchema(SCHEMA), reasoning_begins="<think>", reasoning_ends="</think>")
    assert allows(grammar, '<think>hm</think>{"a":1}')
    assert allows(grammar, '{"a":1}')
    assert not allows(grammar, 'hm</think>{"a":1}')


def test_markers_of_thinking_may_be_tokens_of_their_own() -> None:
    grammar = grammar_text(
        JsonSchema(SCHEMA), reasoning_begins="<think>", reasoning_ends="</think>", vocabulary=vocabulary()
    )
    assert allows_tokens(grammar, "<think>", "hm", "</think>", '{"a":1}')
    assert allows_tokens(grammar, "<think>", "hm", "<|channel|>", "b", "</think>", '{"a":1}')
    assert allows_tokens(grammar, "<think>", "hm </th", 'ink>{"a":1}')
    assert not allows_tokens(grammar, "<think>", "hm", "<|call|>")


def test_blanks_have_an_end() -> None:
    grammar = grammar_text(JsonSchema(SCHEMA))
    assert allows(grammar, '{\n    "a" : 1\n}')
    assert allows(grammar, "{" + " " * MAX_BLANKS + '"a":1}')
    assert not allows(grammar, "{" + " " * (MAX_BLANKS + 1) + '"a":1}')
    assert not allows(grammar_text(JsonSchema(SCHEMA, whitespace=False)), '{"a": 1}')


def test_a_name_cannot_come_twice_by_another_spelling() -> None:
    grammar = grammar_text(JsonSchema({"type": "object", "properties": {"a": {"type": "integer"}}}))
    assert allows(grammar, '{"a":1,"b":"x"}')
    assert not allows(grammar, '{"b":1,"\\u0061":"x"}')


def test_required_tags_are_all_of_the_answer() -> None:
    many = grammar_text(hermes(required=True), vocabulary=vocabulary())
    assert allows_tokens(many, *CALL)
    assert allows_tokens(many, *CALL, *CALL)
    assert allows_tokens(many, *CALL, "\n", *CALL)
    assert not allows_tokens(many, *CALL, "bye")
    assert not allows_tokens(many, "hello")
    one = grammar_text(hermes(required=True, at_most_one=True), vocabulary=vocabulary())
    assert allows_tokens(one, *CALL)
    assert not allows_tokens(one, *CALL, *CALL)


def test_required_tags_are_text_where_no_token_says_them() -> None:
    grammar = grammar_text(hermes(required=True))
    assert allows(grammar, SPELLED_CALL + "\n" + SPELLED_CALL)
    assert not allows(grammar, SPELLED_CALL + "bye")
    assert not allows(grammar, "hello")


def test_free_text_may_have_tags_from_where_a_trigger_stands() -> None:
    grammar = grammar_text(hermes(), vocabulary=vocabulary())
    assert allows_tokens(grammar, "hello")
    assert allows_tokens(grammar, "hi ", *CALL, " and ", *CALL, "bye")
    assert allows_tokens(grammar, "hi <tool", "_call>" + CALL[1], "</tool_call>", "bye")  # spelled, not the token
    assert allows_tokens(grammar, "a", "<|channel|>", "b")
    assert not allows_tokens(grammar, "a", "<|call|>", "b")
    assert not allows_tokens(grammar, "<tool_call>", "hello")
    assert not allows_tokens(grammar, "<tool_call>", '\n{"name": "z", "arguments": {"a": 1}}\n', "</tool_call>")


def test_an_answer_of_one_tag_at_most_ends_with_it() -> None:
    grammar = grammar_text(hermes(at_most_one=True), vocabulary=vocabulary())
    assert allows_tokens(grammar, "hello")
    assert allows_tokens(grammar, "hi ", *CALL)
    assert not allows_tokens(grammar, "hi ", *CALL, "bye")
    plain = grammar_text(hermes(at_most_one=True))
    assert allows(plain, "hi " + SPELLED_CALL)
    assert not allows(plain, SPELLED_CALL + "bye")


@pytest.mark.parametrize("at_most_one", [False, True])
def test_a_trigger_of_a_token_and_text_forces_where_both_are_there(at_most_one: bool) -> None:
    tag = Tag("<|channel|>commentary to=functions.x<|message|>", SCHEMA, "<|call|>")
    form = Tagged((tag,), ("<|channel|>commentary to=",), at_most_one=at_most_one)
    grammar = grammar_text(form, vocabulary=vocabulary())
    thought = ("<|channel|>", "analysis", "<|message|>", "hm")
    assert allows_tokens(grammar, *thought)
    call = ("<|channel|>", "commentary to=functions.x", "<|message|>", '{"a":1}')
    assert allows_tokens(grammar, *thought, *call)  # the token that ends an answer is the model's to write
    assert allows_tokens(grammar, "<|channel|>", "commentary", "<|message|>", "hi")
    assert not allows_tokens(grammar, *thought, "<|channel|>", "commentary to=functions.y")
    assert not allows_tokens(grammar, "<|channel|>", "commentary to=functions.x", "<|message|>", '{"b"')


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "2023-02-28", "1999-12-31"], ["2023-02-29", "1900-02-29", "0000-01-01"]),
        ("date-time", ["2024-02-29T23:59:59Z", "1999-04-30T00:00:00.5+01:00"], ["2023-02-29T00:00:00Z"]),
        ("time", ["23:59:59Z"], ["23:59:60Z", "25:00:00Z"]),
    ],
)
def test_dates_are_days_that_there_are(kind: str, good: list[str], bad: list[str]) -> None:
    schema = {"type": "array", "items": {"anyOf": [{"type": "null"}, {"type": "string", "format": kind}]}}
    grammar = grammar_text(JsonSchema(schema))
    assert all(allows(grammar, f'["{text}"]') for text in good)
    assert not any(allows(grammar, f'["{text}"]') for text in bad)
    both = grammar_text(
        JsonSchema({"type": "string", "format": kind, "pattern": "^[12]", "allOf": [{"maxLength": 40}]})
    )
    assert allows(both, f'"{good[0]}"')
    assert not allows(both, f'"{bad[0]}"')


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"const": "a\u0000b"}, '"a\\u0000b"', '"ab"'),
        ({"type": "string", "pattern": "^a\\x01b$"}, '"a\\u0001b"', '"ab"'),
        ({"const": "a\nb\u00e9/"}, '"a\\nb\u00e9/"', '"ab"'),
        ({"const": "a\x7f"}, '"a\\u007f"', '"a"'),
        ({"type": "string", "pattern": "^[^\\x00-\\x1f]{2}$"}, '"ab"', '"a"'),
    ],
)
def test_control_characters_are_not_lost(schema: dict[str, Any], good: str, bad: str) -> None:
    grammar = grammar_text(JsonSchema(schema))
    assert allows(grammar, good)
    assert not allows(grammar, bad)
