"""Walks along a tree of guesses, and what is below: by hand, and against the tree's own paths."""

import pytest

from workers.speculative.futures import ROOT, Futures

#        5 - 6 - 7
#   root   \ 8
#        9 - 10
TREE = Futures(12, [5, 9, 6, 8, 10, 7], [0, 0, 1, 1, 2, 3])


@pytest.mark.parametrize(
    ("written", "path"),
    [([], [5, 6, 7]), ([5], [6, 7]), ([5, 8], []), ([9], [10]), ([5, 6, 7], [])],
)
def test_below_what_was_written_stands_the_likeliest_path(written: list[int], path: list[int]) -> None:
    node = TREE.after(written)
    assert node is not None
    assert TREE.path(node, 9) == path
    assert TREE.path(node, 1) == path[:1]


@pytest.mark.parametrize("written", [[6], [5, 7], [9, 11], [5, 6, 7, 8]])
def test_a_text_that_left_the_tree_has_no_guess(written: list[int]) -> None:
    assert TREE.after(written) is None


def test_the_tree_below_a_node_is_cut_in_depth_and_width() -> None:
    assert TREE.below(ROOT, 9, 9) == ([5, 9, 6, 8, 10, 7], [-1, -1, 0, 0, 1, 2], [0, 1, 0, 1, 0, 0])
    assert TREE.below(ROOT, 2, 1) == ([5, 6], [-1, 0], [0, 0])
    node = TREE.after([5])
    assert node is not None
    assert TREE.below(node, 9, 9) == ([6, 8, 7], [-1, -1, 0], [0, 1, 0])


def test_of_equal_siblings_the_first_stays() -> None:
    tree = Futures(0, [5, 5, 7, 8], [0, 0, 1, 2])
    assert tree.below(ROOT, 2, 4) == ([5, 7], [-1, 0], [0, 0])


@pytest.mark.parametrize(("token_ids", "parents"), [([1], [1]), ([1, 2], [0]), ([1, 2], [0, 5])])
def test_what_is_no_tree_is_refused(token_ids: list[int], parents: list[int]) -> None:
    with pytest.raises(ValueError, match="no tree"):
        Futures(0, token_ids, parents)


def test_a_tree_that_no_draft_worker_makes_is_refused() -> None:
    with pytest.raises(ValueError, match="of 1025 tokens: at most 1024"):
        Futures(0, range(1025), [0] * 1025)
