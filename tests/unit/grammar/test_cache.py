from workers.grammar.cache import CompiledCache


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
