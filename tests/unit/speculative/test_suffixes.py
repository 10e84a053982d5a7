"""What followed the longest earlier occurrence of a text's end."""

from hypothesis import given
from hypothesis import strategies as st

from workers.speculative.suffixes import LEAST, MOST, PLACES, Suffixes


def of(token_ids: list[int]) -> Suffixes:
    text = Suffixes()
    text.extend(token_ids)
    return text


def test_what_followed_the_same_words_is_proposed() -> None:
    assert of([1, 2, 3, 4, 5, 9, 1, 2]).following(3) == ([3, 4, 5], 2)


def test_longer_agreement_goes_before_a_later_place() -> None:
    assert of([7, 1, 2, 3, 9, 1, 2, 4, 8, 7, 1, 2]).following(1) == ([3], 3)


def test_the_latest_of_equal_places_is_taken() -> None:
    assert of([1, 2, 3, 0, 1, 2, 4, 9, 1, 2]).following(1) == ([4], 2)


def test_a_repeating_text_is_expected_to_go_on() -> None:
    assert of([5, 6, 5, 6, 5, 6]).following(5)[0] == [5, 6, 5, 6, 5]


def test_a_new_end_gives_nothing() -> None:
    for text in ([], [1], [1, 2], [1, 2, 3, 4]):
        assert of(text).following(4) == ([], 0)


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 9))
def test_as_a_search_through_the_whole_text(token_ids: list[int], max_tokens: int) -> None:
    guess, agreed = of(token_ids).following(max_tokens)
    end = len(token_ids)
    places = [at for at in range(LEAST, end) if token_ids[at - LEAST : at] == token_ids[end - LEAST :]][-PLACES:]
    if not places:
        assert (guess, agreed) == ([], 0)
        return

    def agreement(place: int) -> int:
        return max(
            n for n in range(LEAST, min(place, MOST) + 1) if token_ids[place - n : place] == token_ids[end - n :]
        )

    best = max(places, key=lambda place: (agreement(place), place))
    assert agreed == agreement(best)
    known = token_ids[best:]
    assert guess[: len(known)] == known[:max_tokens]
    assert len(guess) == max_tokens


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 40))
def test_a_text_may_come_in_pieces(token_ids: list[int], cut: int) -> None:
    text = of(token_ids[:cut])
    text.extend(token_ids[cut:])
    assert text.following(4) == of(token_ids).following(4)
