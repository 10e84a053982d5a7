"""What `bench.speculation_load` counts and compares."""

from bench.speculation_load import Texts, loads_up_to, ratio
from bench.speculation_load_side import Slice, joined


def test_the_load_rises_to_its_peak_and_falls_again() -> None:
    assert loads_up_to(8) == [1, 2, 4, 8, 4, 2, 1]
    assert loads_up_to(6) == [1, 2, 4, 6, 4, 2, 1]
    assert loads_up_to(1) == [1]


def test_answers_cut_off_agree_with_whole_ones_and_others_are_counted() -> None:
    texts = Texts()
    for token_ids in ([1, 2], [1, 2, 3, 4], [1], []):
        texts.add(0, token_ids)
    texts.add(1, [9])
    assert texts.told() == "texts of all sides are equal (5 answers)"
    texts.add(0, [1, 2, 5])
    assert texts.told() == "OTHER TOKENS in 1 of 6 answers"


def test_turns_of_unlike_depth_add_up() -> None:
    plain = Slice(num_tokens=10, took_s=1.0, num_decodes=10, drafted=(), right=())
    deep = Slice(num_tokens=30, took_s=1.0, num_decodes=10, drafted=(10, 10), right=(10, 5))
    whole = joined([plain, deep])
    assert (whole.rate, whole.drafts_per_decode) == (20.0, 1.0)
    assert [whole.share_right(place) for place in range(3)] == [1.0, 0.5, None]


def test_auto_is_held_to_the_best_of_the_others() -> None:
    assert ratio({"auto": 90.0, "k=0": 60.0, "k=2": 100.0}) == 0.9
