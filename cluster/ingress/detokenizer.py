"""Turns one choice's output tokens into text as they arrive.

Invariant: the pieces that `push` and `flush` return add up to the decoding of all tokens at once, and no piece ends in
a part of a character. Amortised cost per token does not grow with the answer: byte-level vocabularies go through an
incremental UTF-8 decoder, all others decode a window of recent tokens. That window begins one piece before what is
new, because their decoders treat the first token of a text in its own way (they strip its space).
"""

import codecs
import json
from functools import lru_cache
from typing import Protocol

from tokenizers import Tokenizer as FastTokenizer

REPLACEMENT = "\ufffd"
_incremental_utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    num_characters: int  # returned in all

    def push(self, token_id: int) -> str:
        """The text that this token makes final; "" while a character is incomplete or the token is hidden."""
        ...

    def flush(self) -> str:
        """What is still held back, at the end of the answer: an incomplete character becomes U+FFFD."""
        ...


class TokenBytes(dict[int, bytes]):
    """Token id -> the bytes it stands for, b"" for an id outside the vocabulary; filled on first use."""

    def __init__(self, fast: FastTokenizer, special_ids: frozenset[int]) -> None:
        super().__init__()
        self._fast = fast
        self.special_ids = special_ids
        decoders = decoder_types(fast)
        self.is_byte_level = decoders == ("ByteLevel",)
        self.has_byte_fallback = "ByteFallback" in decoders

    def __missing__(self, token_id: int) -> bytes:
        value = self._of(token_id)
        self[token_id] = value
        return value

    def is_fallback_byte(self, token_id: int) -> bool:
        return self.has_byte_fallback and _fallback_byte(self._fast.id_to_token(token_id) or "") is not None

    def _of(self, token_id: int) -> bytes:
        token = self._fast.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.special_ids:
            return token.encode()
        if self.is_byte_level:
            alphabet = byte_alphabet()
            known = all(character in alphabet for character in token)
            return bytes(alphabet[character] for character in token) if known else token.encode()
        byte = _fallback_byte(token) if self.has_byte_fallback else None
        return token.replace("\u2581", " ").encode() if byte is None else bytes([byte])


class ByteLevelDetokenizer:
    def __init__(self, token_bytes: TokenBytes, hidden_ids: frozenset[int]) -> None:
        self._token_bytes = token_bytes
        self._hidden_ids = hidden_ids
        self._decoder = _incremental_utf8("replace")
        self.num_characters = 0

    def push(self, token_id: int) -> str:
        if token_id in self._hidden_ids:
            return ""
        piece = self._decoder.decode(self._token_bytes[token_id])
        self.num_characters += len(piece)
        return piece

    def flush(self) -> str:
        piece = self._decoder.decode(b"", final=True)
        self.num_characters += len(piece)
        return piece


class WindowDetokenizer:
    def __init__(self, fast: FastTokenizer, token_bytes: TokenBytes, hidden_ids: frozenset[int]) -> None:
        self._fast = fast
        self._token_bytes = token_bytes
        self._hidden_ids = hidden_ids
        self._window: list[int] = []
        self._num_old = 0  # tokens [0, num_old) of the window are complete and their text was returned
        self._old_text = ""
        self._num_returned = 0  # characters of the window's text
        self.num_characters = 0

    def push(self, token_id: int) -> str:
        if token_id in self._hidden_ids or not self._token_bytes[token_id]:
            return ""
        self._window.append(token_id)
        if self._token_bytes.is_fallback_byte(token_id):
            return ""  # a run of single bytes is decoded as a whole: nothing of it is final until it ends
        return self._take(self._decode(), may_change=not self._token_bytes.has_byte_fallback)

    def flush(self) -> str:
        return self._take(self._decode(), may_change=False)

    def _take(self, text: str, *, may_change: bool) -> str:
        end = len(text)
        if may_change and text.endswith(REPLACEMENT):
            end -= 1  # at most the last character can still change
        piece = text[self._num_returned : end]
        self._num_returned = max(self._num_returned, end)
        self.num_characters += len(piece)
        if end == len(text) and end > len(self._old_text):
            self._slide()
        return piece

    def _slide(self) -> None:
        """What was new in the window becomes its old part."""
        self._window = self._window[self._num_old :]
        self._num_old = len(self._window)
        self._old_text = self._decode()
        self._num_returned = len(self._old_text)

    def _decode(self) -> str:
        return self._fast.decode(self._window, skip_special_tokens=False)


def decoder_types(fast: FastTokenizer) -> tuple[str, ...]:
    """Names of the decoders that a tokenizer applies, in order."""
    decoder = json.loads(fast.to_str()).get("decoder")
    if not isinstance(decoder, dict):
        return ()
    if decoder["type"] == "Sequence":
        return tuple(str(child["type"]) for child in decoder["decoders"])
    return (str(decoder["type"]),)


def _fallback_byte(token: str) -> int | None:
    """The byte of a token written `<0x0A>`; None for any other token."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return int(token[3:5], 16)
    return None


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 stands for itself, the other bytes for U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
