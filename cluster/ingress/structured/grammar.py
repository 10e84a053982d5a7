"""The text that a worker's grammar library, llguidance, makes masks by, for every form that an answer may have.

Pure. Where a model thinks before it answers, that is a part of the text, so that workers know nothing of it.
"""

import json

from cluster.ingress.structured.json_rule import json_rule
from cluster.ingress.structured.output import Choice, JsonSchema, Lark, Regex, StructuredOutput
from cluster.ingress.structured.tagged import tagged_rules
from cluster.ingress.structured.vocabulary import NO_SPECIALS, Vocabulary, quoted, token

_TEXT = "THOUGHT: /(.|\\n)*/"


def grammar_text(
    structured: StructuredOutput,
    *,
    reasoning_ends: str | None = None,
    reasoning_begins: str | None = None,
    vocabulary: Vocabulary = NO_SPECIALS,
) -> str:
    """What `llguidance.LLMatcher` takes. Whether it can be compiled is for `refusal` to say.

    Args:
        reasoning_ends: The text that ends the model's thinking, which comes first; None: there is none.
        reasoning_begins: The answer may begin with this, and thinks only then; None: it begins within the thinking.
    Raises: ValueError: A text that looks like GBNF and is none.
    """
    rules = _rules(structured, vocabulary)
    start = ["start: answer"]
    if reasoning_ends is not None:
        start = _thinking(reasoning_begins, reasoning_ends, vocabulary)
    lark = "\n".join(["%llguidance {}", *start, *rules]) + "\n"
    if not isinstance(structured, Lark):
        return lark
    grammars = [{"lark_grammar": lark}, {"name": "user", "lark_grammar": user_lark(structured.grammar)}]
    return json.dumps({"grammars": grammars[1:] if reasoning_ends is None else grammars})


def user_lark(text: str) -> str:
    """A user's grammar as Lark. Raises: ValueError: It looks like GBNF and is none."""
    if "::=" not in text:
        return text
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return gbnf_to_lark(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # the library's own
        raise ValueError(f"it is no GBNF ({error})") from error


def _rules(structured: StructuredOutput, vocabulary: Vocabulary) -> list[str]:
    if isinstance(structured, JsonSchema):
        return [f"answer: {json_rule(structured.schema, whitespace=structured.whitespace)}"]
    if isinstance(structured, Regex):
        return [f"answer: {_regex(structured.pattern)}"]
    if isinstance(structured, Choice):
        return ["answer: CHOICE", f"CHOICE: {' | '.join(map(quoted, structured.texts))}"]
    if isinstance(structured, Lark):
        return ["answer: @user"]
    return tagged_rules(structured, vocabulary)


def _regex(pattern: str) -> str:
    """`\\d`, `\\w` and `\\s` are ASCII's, as in JSON schemas and in most servers of models."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, 'dws')}/" if pattern else '""'


def _thinking(begins: str | None, ends: str, vocabulary: Vocabulary) -> list[str]:
    """Free text up to the marker, be it a token of its own or spelled."""
    last = next(vocabulary.pieces(ends))
    free = [token(one) for one in vocabulary.free if one != last]
    alternatives = ["spelled"] + ([f"THOUGHT {vocabulary.literal(ends)}"] if isinstance(last, int) else [])
    steps = f"(THOUGHT ({' | '.join(free)}))* " if free else ""
    start = "thinking answer" if begins is None else f"({vocabulary.literal(begins)} thinking)? answer"
    return [
        f"start: {start}",
        f"thinking: {steps}({' | '.join(alternatives)})",
        f"spelled[lazy]: THOUGHT {quoted(ends)}",
        _TEXT,
    ]
