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
_PLAIN = re.compile(r'"truncation":\s*null.*"padding":\s*null', re.DOTALL)


def has_vocabulary(folder: Path) -> bool:
    return (folder / TOKENIZER_FILE).is_file()


def load_vocabulary(folder: Path, vocab_size: int, eos_token_ids: Collection[int]) -> llguidance.LLTokenizer:
    """Of the model in `folder`. Takes 0.3 s for 49,152 tokens, and keeps the interpreter's lock for that long.

    Args:
        vocab_size: Of the model. The tokenizer's own may be larger or smaller.
        eos_token_ids: Each ends a text; none: the tokenizer's own.
    Raises: ConfigError: llguidance cannot read the tokenizer.
    """
    text = _without_limits((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    eos = sorted(eos_token_ids) or None
    for num_tokens in (vocab_size, None):  # as many as the model has, or as the tokenizer, where that has more
        try:
            return llguidance.LLTokenizer(text, n_vocab=num_tokens, eos_token=eos)
        except Exception as error:  # llguidance has no errors of its own
            fault = error
    raise ConfigError(f"{folder / TOKENIZER_FILE}: no grammar can be followed with it: {fault}")


def _without_limits(text: str) -> str:
    """Tokens that grammars force are cut from texts, which no limit of the tokenizer's must shorten or pad."""
    if _PLAIN.search(text[:_HEAD]):
        return text
    tokenizer: dict[str, Any] = json.loads(text)
    return json.dumps(tokenizer | {"truncation": None, "padding": None})
