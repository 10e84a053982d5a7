from hypothesis import given
from hypothesis import strategies as st

from cluster.ingress.stops import StopFinder


def run(pieces: list[str], stops: list[str], include: bool = False) -> tuple[str, str | None]:
    finder = StopFinder(stops, include=include)
    returned = ""
    for piece in pieces:
        text, stop = finder.push(piece)
        returned += text
        if stop is not None:
            return returned, stop
    return returned + finder.release(), None


def test_a_stop_string_across_three_pieces_is_found_and_cut() -> None:
    assert run(["one E", "N", "D two"], ["END"]) == ("one ", "END")


def test_a_stop_string_may_be_kept() -> None:
    assert run(["one E", "ND two"], ["END"], include=True) == ("one END", "END")


def test_a_false_beginning_is_released() -> None:
    assert run(["one E", "Nd"], ["END"]) == ("one ENd", None)
    assert run(["one EN"], ["END"]) == ("one EN", None)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    finder = StopFinder(["\n\n"])
    assert finder.push("a\n") == ("a", None)
    assert finder.push("b\n") == ("\nb", None)
    assert finder.push("\n") == ("", "\n\n")


def test_of_two_stop_strings_the_one_complete_first_wins() -> None:
    assert run(["xabcd"], ["abcd", "bc"]) == ("xa", "bc")
    assert run(["xabc"], ["bc", "abc"]) == ("x", "abc")


@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
)
def test_the_split_into_pieces_does_not_change_the_answer(pieces: list[str], stops: list[str]) -> None:
    assert run(pieces, stops) == run(list("".join(pieces)), stops)
