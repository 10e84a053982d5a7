from queue import Queue

import pytest

from baton.errors import InternalError
from tests.unit.grammar.model import DEMO, demo_spec, regex
from workers.grammar.book import GrammarBook
from workers.grammar.cache import CompiledCache
from workers.grammar.follower import GrammarFollower
from workers.model.fake import FakeRunner


def test_those_used_last_stay() -> None:
    cache: CompiledCache[str] = CompiledCache(most=2, most_characters=100)
    for text in ("a", "b"):
        cache.settle(text, text.upper())
    assert cache.get("a") == "A"
    cache.settle("c", "C")
    assert [cache.get(text) for text in "abc"] == ["A", None, "C"]


def test_long_texts_push_out_more_and_one_alone_stays_however_long() -> None:
    cache: CompiledCache[str] = CompiledCache(most=10, most_characters=10)
    for text in ("a" * 4, "b" * 4, "c" * 4):
        cache.settle(text, text[0])
    assert [cache.get(letter * 4) for letter in "abc"] == [None, "b", "c"]
    cache.settle("d" * 40, "d")
    assert len(cache) == 1


def test_who_waits_for_the_same_is_told_the_same_and_errors_are_not_kept() -> None:
    cache: CompiledCache[str] = CompiledCache(most=2, most_characters=100)
    told: list[str | Exception] = []
    assert cache.wait("a", told.append)
    assert not cache.wait("a", told.append)
    error = ValueError("no")
    cache.settle("a", error)
    assert told == [error, error]
    assert cache.get("a") is None
    assert cache.wait("a", told.append)
    cache.settle("a", "A")
    assert told[-1] == "A"


def test_everybody_who_waits_is_told_though_a_copy_fails_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: Queue[object] = Queue()
    copy, fails = GrammarFollower.copy, iter([True, False])

    def broken(self: GrammarFollower) -> GrammarFollower:
        if next(fails):
            raise BaseException("panicked")
        return copy(self)

    monkeypatch.setattr(GrammarFollower, "copy", broken)
    book = GrammarBook(DEMO, FakeRunner(demo_spec()))
    for _ in range(2):
        assert book.follower(regex("yes|no"), told.put) is None
    found = [told.get(timeout=30) for _ in range(2)]
    assert [type(one) for one in found] == [InternalError, GrammarFollower]
    book.close()
