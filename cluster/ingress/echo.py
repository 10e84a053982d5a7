"""A prompt as its answer begins with it, where a client wants to see it again: its text, and where tokens lie in it.

A text comes back as it was sent, token ids as the text that they stand for, special tokens left out, as of an answer.
"""

from collections.abc import Sequence
from functools import cached_property

from cluster.ingress.tokenizer import Tokenizer


class Echo:
    """
    Args:
        text: The prompt as it was sent, if it was a text.
    """

    def __init__(self, tokenizer: Tokenizer, token_ids: Sequence[int], text: str | None) -> None:
        self._tokenizer = tokenizer
        self._token_ids = token_ids
        self._sent = text

    @property
    def text(self) -> str:
        return self._sent if self._sent is not None else self._decoded[0]

    @cached_property
    def offsets(self) -> list[int]:
        """Where each token's text begins in `text`, in characters. Of one that is not in it, where it would be."""
        return self._decoded[1] if self._sent is None else _places(self._tokenizer, self._token_ids, self._sent)

    @cached_property
    def _decoded(self) -> tuple[str, list[int]]:
        """The text of token ids, without a character that is cut off at its end: the answer may complete it."""
        detokenizer = self._tokenizer.detokenizer()
        parts, offsets = [], []
        for token_id in self._token_ids:
            offsets.append(detokenizer.num_characters)
            parts.append(detokenizer.push(token_id))
        return "".join(parts), offsets

    def piece(self, start: int, end: int) -> str:
        """The text of tokens [start, end); the pieces of all tokens add up to `text`."""
        first = self.offsets[start] if start else 0
        return self.text[first : self.offsets[end]] if end < len(self.offsets) else self.text[first:]


def _places(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """Of each token in a text that it was read from.

    Tokens that were put before the text are nowhere in it; where a tokenizer changes texts (composed characters, a
    space before the first word), the next tokens that are found go on from there.
    """
    content = text.encode()
    starts = _character_starts(text)
    at, places = 0, []
    for token_id in token_ids:
        token = tokenizer.token_bytes(token_id)
        found = _find(content, token, at)
        places.append(starts[at if found is None else found[0]])
        at = at if found is None else found[1]
    return places


def _find(content: bytes, token: bytes, at: int) -> tuple[int, int] | None:
    """Where a token lies in a text, at `at` or near: (start, end) in bytes."""
    for form in (token, token.removeprefix(b" ")):
        if form and content.startswith(form, at):
            return at, at + len(form)
    near = content.find(token, at, at + len(token) + MAX_GAP) if token else -1
    return None if near < 0 else (near, near + len(token))


MAX_GAP = 16  # bytes that a tokenizer may have made others of


def _character_starts(text: str) -> list[int]:
    """Of each byte of a text in UTF-8, and of its end, the number of the character that it is part of."""
    numbers: list[int] = []
    for number, character in enumerate(text):
        numbers += [number] * len(character.encode())
    return [*numbers, len(text)]
