"""Whether a grammar allows a text, asked of the library itself: what workers will do."""

import json
from functools import cache

from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from tests.unit.ingress.fakes import DEMO

SPECIALS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|channel|>", "<|message|>", "<|call|>")


@cache
def byte_tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


@cache
def demo_with_specials() -> Tokenizer:
    """The demo's tokenizer with special tokens that its texts never hold."""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


def special_ids() -> dict[str, int]:
    tokenizer = demo_with_specials()
    return {text: tokenizer.token_to_id(text) for text in SPECIALS}


@cache
def _demo_for_grammars() -> LLTokenizer:
    return LLTokenizer(demo_with_specials().to_str(), eos_token=[0, special_ids()["<|call|>"]])


@cache
def _plain_demo() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def allows(grammar: str, text: str) -> bool:
    """The whole text, over single bytes."""
    return _allows(byte_tokenizer(), grammar, list(text.encode()))


def allows_tokens(grammar: str, *parts: str) -> bool:
    """Parts that are special tokens' texts are those tokens; others are spelled with ordinary ones."""
    ids = special_ids()
    tokens = [
        token
        for part in parts
        for token in ([ids[part]] if part in ids else _plain_demo().encode(part, add_special_tokens=False).ids)
    ]
    return _allows(_demo_for_grammars(), grammar, tokens)


def _allows(tokenizer: LLTokenizer, grammar: str, tokens: list[int]) -> bool:
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def spelled(text: str) -> list[str]:
    """A special token's text in parts that are none."""
    return [text[:2], text[2:]]


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
