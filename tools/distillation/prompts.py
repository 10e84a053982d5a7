"""What the teacher is asked while it writes answers to learn from: questions of many kinds, drawn by a seed.

`OWN` stands for a question that the teacher writes itself: it goes on from where a user's turn begins (Magpie, arXiv
2406.08464). The rest are templates over lists of words (`prompts.toml`), and passages of the books that are given.
"""

import random
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

OWN = ""
OWN_SHARE = 0.4
TRANSLATED_SHARE = 0.1
PASSAGE_CHARACTERS = (300, 1100)
NUMBERS = {"a": (2, 12), "b": (2, 30), "c": (2, 7), "d": (40, 400)}  # ranges, ends included


class Prompts:
    """An endless series; the same seed and books give the same."""

    def __init__(self, books: Sequence[str], seed: int) -> None:
        """`books`: texts; without one, nothing is asked about passages."""
        lists = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
        self._words: Mapping[str, Sequence[str]] = lists["words"]
        self._german: Sequence[Sequence[str]] = lists["german"]["parts"]
        self._templates = [lists["templates"][name] for name in ("asks", "writes", "sums", "programs")]
        self._templates += [lists["templates"]["reads"]] * 2 * bool(books)
        self._books = books
        self._random = random.Random(seed)

    def draw(self) -> str:
        """A user's message, or `OWN`."""
        if self._random.random() < OWN_SHARE:
            return OWN
        if self._random.random() < TRANSLATED_SHARE:
            return self._translate()
        return self._fill(self._random.choice(self._random.choice(self._templates)))

    def _translate(self) -> str:
        sentence = " ".join(self._random.choice(part) for part in self._german)
        return f"Translate German to English: {sentence}."

    def _fill(self, template: str) -> str:
        words = {name: self._random.choice(choices) for name, choices in self._words.items()}
        words["topic"], words["other"] = self._random.sample(self._words["topic"], 2)
        words["person"], words["friend"] = self._random.sample(self._words["person"], 2)
        numbers = {name: self._random.randint(*ends) for name, ends in NUMBERS.items()}
        passages = {name: self._passage() for name in ("passage", "another") if f"{{{name}}}" in template}
        return template.format(**words, **numbers, **passages)

    def _passage(self) -> str:
        """Whole sentences where there are any within the length drawn."""
        book = self._random.choice(self._books)
        length = self._random.randint(*PASSAGE_CHARACTERS)
        start = self._random.randrange(max(1, len(book) - length))
        text = book[start : start + length]
        first, last = text.find(". ") + 1, text.rfind(". ") + 1
        return " ".join((text[first:last] if last > first else text).split())
