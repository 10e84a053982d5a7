"""Where the end of a text occurred in it before: what followed there is a guess at what comes next.

Prompt lookup with the longest suffix that can be had (CopySpec): every place where the last tokens stood is looked at
backwards, as far as it agrees.
"""

from collections.abc import Sequence

LEAST = 2  # tokens that must agree
MOST = 32  # compared; longer agreement tells nothing more
PLACES = 8  # remembered for each run of LEAST tokens, the latest
Run = tuple[int, ...]


class Suffixes:
    """Of one text, which only grows."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._places: dict[Run, list[int]] = {}  # the position after each occurrence, in order

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, token_ids: Sequence[int]) -> None:
        """The text goes on by `token_ids`."""
        for token_id in token_ids:
            self._remember()
            self._tokens.append(token_id)

    def _remember(self) -> None:
        """The last tokens, now that another follows: a place that nothing follows is of no use."""
        end = len(self._tokens)
        if end < LEAST:
            return
        places = self._places.setdefault(tuple(self._tokens[end - LEAST :]), [])
        places.append(end)
        if len(places) > PLACES:
            del places[0]

    def following(self, max_tokens: int) -> tuple[list[int], int]:
        """What followed the longest earlier occurrence of the text's end, the latest of equals; and its length.

        A guess that reaches the end of the text goes on with itself: a text that repeats a part is expected to go on
        doing so. Nothing and 0 where the end is new.
        """
        best, longest = 0, 0
        for place in reversed(self._ends()):
            agreed = self._agreed(place)
            if agreed > longest:
                best, longest = place, agreed
        return (self._after(best, max_tokens), longest) if longest else ([], 0)

    def continuations(self, max_tokens: int) -> list[tuple[list[int], int]]:
        """As `following`, after each earlier occurrence that is remembered, the longest first, the latest of equals."""
        found = [(self._agreed(place), place) for place in self._ends()]
        return [(self._after(place, max_tokens), agreed) for agreed, place in sorted(found, reverse=True)]

    def _ends(self) -> Sequence[int]:
        """The positions after earlier occurrences of the last tokens, in order."""
        end = len(self._tokens)
        return self._places.get(tuple(self._tokens[end - LEAST :]), ()) if end >= LEAST else ()

    def _after(self, place: int, max_tokens: int) -> list[int]:
        tokens, period = self._tokens, len(self._tokens) - place
        return [tokens[place + at % period] for at in range(max_tokens)]

    def _agreed(self, place: int) -> int:
        """How many tokens before `place` are the text's last ones."""
        tokens, end = self._tokens, len(self._tokens)
        most = min(place, MOST)
        agreed = LEAST
        while agreed < most and tokens[place - agreed - 1] == tokens[end - agreed - 1]:
            agreed += 1
        return agreed
