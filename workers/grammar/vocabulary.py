"""A model's tokens as llguidance reads them: the bytes of each, and how it cuts text.

Rows of the model's embedding beyond its tokenizer's vocabulary have no text, so that no grammar ever allows them.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import llguidance

from baton.errors import ConfigError

TOKENIZER_FILE = "tokenizer.json"
_HEAD = (
    4096  # characters in which a tokenizer.json says how it cuts and pads texts, in the order that `tokenizers` writes
)
_UNWRITTEN = "\ufdd0{}\ufdd1"  # what Unicode keeps for a program's own use, and calls no characters
_PLAIN = re.compile(r'"truncation":\s*null.*"padding":\s*null', re.DOTALL)


def has_vocabulary(folder: Path) -> bool:
    return (folder / TOKENIZER_FILE).is_file()


def load_vocabulary(folder: Path, vocab_size: int, eos_token_ids: Collection[int]) -> llguidance.LLTokenizer:
    """Of the model in `folder`. Takes 0.5 s for 49,152 tokens, and keeps the interpreter's lock for that long.

    Args:
        vocab_size: Of the model. The tokenizer's own may be larger or smaller.
        eos_token_ids: Each ends a text; none: the tokenizer's own.
    Raises: ConfigError: llguidance cannot read the tokenizer.
    """
    text = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
    eos = sorted(eos_token_ids) or None
    fault: Exception | None = None
    for changed in (_with_unwritten_specials, _without_limits):
        for num_tokens in (vocab_size, None):  # as many as the model has, or as the tokenizer, where that has more
            try:
                return llguidance.LLTokenizer(changed(text), n_vocab=num_tokens, eos_token=eos)
            except Exception as error:  # llguidance has no errors of its own
                fault = error
    raise ConfigError(f"{folder / TOKENIZER_FILE}: no grammar can be followed with it: {fault}")


def _with_unwritten_specials(text: str) -> str:
    """With special tokens whose names no text has, and without limits.

    Text that a grammar forces is cut as the tokenizer cuts it, which would find special tokens in it; but what a text
    says is never one, and an answer whose text has `<|im_end|>` does not end there.
    """
    tokenizer: dict[str, Any] = json.loads(text)
    added, model = tokenizer["added_tokens"], tokenizer["model"]
    unwritten = {token["content"]: _UNWRITTEN.format(token["content"]) for token in added if token["special"]}
    for token in added:
        token["content"] = unwritten.get(token["content"], token["content"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {unwritten.get(token, token): number for token, number in model["vocab"].items()}
    else:  # Unigram
        model["vocab"] = [[unwritten.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in unwritten:
        model["unk_token"] = unwritten[model["unk_token"]]
    return json.dumps(tokenizer | {"truncation": None, "padding": None})


def _without_limits(text: str) -> str:
    """Tokens that grammars force are cut from texts, which no limit of the tokenizer's must shorten or pad."""
    if _PLAIN.search(text[:_HEAD]):
        return text
    tokenizer: dict[str, Any] = json.loads(text)
    return json.dumps(tokenizer | {"truncation": None, "padding": None})
