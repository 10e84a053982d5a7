"""Why a form cannot be followed, found out by compiling it as a worker would.

This may take as long as it likes, take all memory and end the process: run it where that harms nobody, which is what
`cluster.ingress.structured.compile_process` is for.
"""

import json
import re

from cluster.ingress.fields import shorten
from cluster.ingress.structured.grammar import grammar_text, user_lark
from cluster.ingress.structured.lark_rules import endless_rule, special_tokens
from cluster.ingress.structured.output import Choice, JsonSchema, Lark, Regex, StructuredOutput, Tagged
from cluster.ingress.structured.schema_refusal import brief, schema_refusal

NUM_TRIED_BYTES = 48  # of one text that the grammar allows
_OPTIONS = re.compile(r"\[[^\]\n]*\b(temperature|stop|max_tokens)\s*=")


def refusal(structured: StructuredOutput) -> str | None:
    """In words that follow the field's name; None: workers can follow it."""
    if not _is_unicode(structured):
        return "is not Unicode text: it has half a surrogate pair (\\ud800 to \\udfff); leave it out"
    if isinstance(structured, JsonSchema):
        found = schema_refusal(structured.schema)
    elif isinstance(structured, Tagged):
        found = _tags_refusal(structured)
    elif isinstance(structured, Lark):
        found = _lark_refusal(structured.grammar)
    else:
        found = None
    return found or _compile_refusal(structured)


def _tags_refusal(tagged: Tagged) -> str | None:
    """What the answer may be instead of tags is named by itself."""
    if tagged.instead is not None and (found := schema_refusal(tagged.instead.schema)):
        return found
    faults = ((tag.begin, schema_refusal(tag.schema)) for tag in tagged.tags)
    return next((f"{found} (in {shorten(begin)})" for begin, found in faults if found), None)


def _is_unicode(structured: StructuredOutput) -> bool:
    try:
        json.dumps(_shown(structured), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except RecursionError:  # for others to say
        pass
    return True


def _lark_refusal(text: str) -> str | None:
    try:
        lark = user_lark(text)
    except ValueError as error:
        return f"is {shorten(text)}, and {error}; correct it"
    option = _OPTIONS.search(lark)
    if option is not None:
        return f"has the rule option {option[1]}, which is not supported; leave it out"
    tokens = special_tokens(lark)
    if tokens:
        return f"has the special token {tokens[0]}; a grammar is of text alone: leave it out"
    rule = endless_rule(lark)
    if rule is not None:
        return f"never ends: each text of the rule {rule} would have to hold another one; give it a way to end"
    return None


def _compile_refusal(structured: StructuredOutput) -> str | None:
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), grammar_text(structured), log_level=0)
    shown = f"is {shorten(_shown(structured))}, which"
    if matcher.is_error():
        return f"{shown} cannot be compiled: {brief(matcher.get_error())}; correct or simplify it"
    if warnings := matcher.get_grammar_warnings():
        return f"{shown} has what cannot be enforced ({brief(warnings[0])}); leave that out"
    for tried in range(NUM_TRIED_BYTES):
        mask = matcher.compute_bitmask()
        if matcher.is_stopped() or matcher.is_error():
            break
        allowed = [number for number in range(256) if mask[number // 8] >> number % 8 & 1]
        if not allowed:
            break
        matcher.consume_token(allowed[tried % len(allowed)])
    if matcher.is_error():
        if matcher.get_error().startswith("NoExtension"):
            return f"{shown} allows nothing; send one that allows something"
        return f"{shown} is too complex to follow: {brief(matcher.get_error())}; simplify it"
    return None


def _shown(structured: StructuredOutput) -> object:
    if isinstance(structured, JsonSchema):
        return structured.schema
    if isinstance(structured, Regex):
        return structured.pattern
    if isinstance(structured, Choice):
        return list(structured.texts)
    if isinstance(structured, Lark):
        return structured.grammar
    return [tag.begin for tag in structured.tags]
