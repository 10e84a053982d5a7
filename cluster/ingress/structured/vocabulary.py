"""Which texts are tokens of their own, as far as grammars need to know, and how exact text is written in Lark.

What such a token says cannot be spelled with others there: in llguidance, text never matches a special token.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """
    Attributes:
        specials: Text -> token id, of the special tokens that an answer may show.
        ends: Those of them that end an answer. Free text has none, and no grammar asks for one: an answer may end where
            it is whole.
    """

    specials: Mapping[str, int] = field(default_factory=dict)
    ends: Collection[int] = ()

    @property
    def free(self) -> list[int]:
        """Those that free text may have."""
        return [token_id for token_id in self.specials.values() if token_id not in self.ends]

    def pieces(self, text: str) -> Iterator[str | int]:
        """Stretches of the text, and the ids of special tokens between them."""
        if not self.specials:
            yield from filter(None, [text])
            return
        longest_first = "|".join(map(re.escape, sorted(self.specials, key=len, reverse=True)))
        for piece in re.split(f"({longest_first})", text):
            if piece:
                yield self.specials.get(piece, piece)

    def literal(self, text: str) -> str:
        """The text, up to a token that ends an answer, as an expression of Lark; empty for no text."""
        written = []
        for piece in self.pieces(text):
            if piece in self.ends:
                break
            written.append(token(piece) if isinstance(piece, int) else quoted(piece))
        return " ".join(written)


NO_SPECIALS = Vocabulary()


def token(token_id: int) -> str:
    return f"<[{token_id}]>"


def quoted(text: str) -> str:
    return json.dumps(text)
