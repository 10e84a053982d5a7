"""Reads special tokens that clients write as text, and those that a chat template writes as tokens.

Before a template sees a client's texts, a mark is put into whatever could be a special token's text or a part of one;
what the template then writes itself has none. For encoding, special tokens without a mark become twins, added tokens of
a second tokenizer that reads special tokens as text; marks go, and twins' ids become those of their tokens. So the
library splits the prompt exactly where it would split it otherwise.

Marks and twins are drawn for each process from code points that are no characters: nobody can write them. A template
may cut texts, trim and join them. What it would have to do to let one through is to cut a text amid a special token's
first three characters and to write the rest itself.
"""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from baton.errors import InvalidRequestError
from cluster.ingress.fields import shorten
from cluster.ingress.messages import ROLES

NUM_FIRST = 3  # characters of a special token by which it is known
_NO_CHARACTERS = [chr(point) for point in range(0xFDD0, 0xFDF0)]
# Words that templates ask for, and make special tokens of, where they stand under these names.
_WORDS: Mapping[str, frozenset[str]] = {
    "role": ROLES,
    "type": frozenset({"array", "boolean", "function", "integer", "null", "number", "object", "string"}),
}


class LiteralText:
    def __init__(self, fast: FastTokenizer) -> None:
        """`fast` stays as it is."""
        special = {token_id: one for token_id, one in fast.get_added_tokens_decoder().items() if one.special}
        texts = [one.content for one in special.values()]
        self._mark, self._start = _drawn(), _drawn()  # behind a first character; before a text's
        self._dangers = _dangers(texts)
        self._rests = {text[at : at + NUM_FIRST] for text in texts for at in range(1, len(text))}
        self._within = {rest[:size] for rest in self._rests for size in range(1, NUM_FIRST)}
        written = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
        self._written = re.compile(f"(?:{written})(?!{self._mark})") if texts else None
        prefix = _drawn()
        self._twins = {one.content: f"{prefix}{token_id:x}{_NO_CHARACTERS[0]}" for token_id, one in special.items()}
        self._fast = FastTokenizer.from_str(fast.to_str())
        self._fast.add_tokens([_twin(one, self._twins[one.content]) for one in special.values()])
        self._fast.encode_special_tokens = True
        twin_ids = {token_id: self._fast.token_to_id(self._twins[one.content]) for token_id, one in special.items()}
        self._ids = {twin: token_id for token_id, twin in twin_ids.items()}
        unknown = getattr(fast.model, "unk_token", None)
        self._forbidden = frozenset(token_id for token_id, one in special.items() if one.content != unknown)

    def marked(self, value: Any) -> Any:
        """A copy of what a client sent for a template: its texts cannot make special tokens."""
        if isinstance(value, str):
            return self._marked(value)
        if isinstance(value, Mapping):
            return {self._marked_name(key): self._member(key, one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.marked(one) for one in value]
        return value

    def encode(self, text: str, *, add_special_tokens: bool, rendered: bool, name: str) -> list[int]:
        """
        Args:
            rendered: By a template that was given `marked` texts; else all of it is the client's.
        Raises: InvalidRequestError: This tokenizer has no other way to read a special token's text.
        """
        if rendered and self._written is not None:
            text = self._written.sub(lambda found: self._twins[found[0]], text)
            text = text.replace(self._mark, "").replace(self._start, "")
        encoding = self._fast.encode_batch([text], add_special_tokens=add_special_tokens)[0]  # drops the GIL
        ids: list[int] = encoding.ids
        if not self._forbidden.isdisjoint(ids):
            self._check(encoding, name)
        return [self._ids.get(token_id, token_id) for token_id in ids]

    def _check(self, encoding: Any, name: str) -> None:
        """Those at the ends that the tokenizer adds are no text's. Raises: InvalidRequestError."""
        for token_id, is_added in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
            if token_id in self._forbidden and not is_added:
                raise InvalidRequestError(
                    f"{name} has {shorten(self._fast.id_to_token(token_id))}, a special token that this model's "
                    "tokenizer cannot read as text, and allow_special_tokens is false; leave it out",
                    field=name,
                )

    def _member(self, name: Any, value: Any) -> Any:
        is_word = isinstance(value, str) and value in _WORDS.get(name, ())
        return value if is_word else self.marked(value)

    def _marked_name(self, name: Any) -> Any:
        """Templates ask for members by name, so that no mark goes before one."""
        return self._dangers.sub(lambda found: found[0] + self._mark, name) if isinstance(name, str) else name

    def _marked(self, text: str) -> str:
        marked: str = self._marked_name(text)
        head = text.lstrip()[:NUM_FIRST]
        if head in self._within or any(head[:size] in self._rests for size in range(1, len(head) + 1)):
            begin = len(text) - len(text.lstrip())
            marked = marked[:begin] + self._start + marked[begin:]
        return marked


def _dangers(texts: list[str]) -> re.Pattern[str]:
    """The first character of what may be a special token's, or may become one with what a template writes after it."""
    firsts = {text[:NUM_FIRST] for text in texts}
    ends = {text[:size] for text in texts for size in range(1, min(len(text), NUM_FIRST))}
    ways = [*(re.escape(first) for first in firsts), *(re.escape(end) + r"\s*\Z" for end in ends)]
    return re.compile(f"(?=(?:{'|'.join(sorted(ways))})).", re.DOTALL) if ways else re.compile(r"(?!)")


def _drawn() -> str:
    return "".join(secrets.choice(_NO_CHARACTERS) for _ in range(8))


def _twin(token: AddedToken, text: str) -> AddedToken:
    return AddedToken(
        text,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=False,
    )
