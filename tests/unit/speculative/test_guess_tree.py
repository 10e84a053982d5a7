import pytest

from workers.speculative.guess_tree import Chances, Node, listed


def test_a_nodes_chance_is_its_ranks_times_its_parents() -> None:
    chances, root = Chances((0.5, 0.2)), Node(-1, 10)
    chances.expand(root, [3, 4, 5])
    chances.expand(root.children[0], [6])
    assert [(node.token_id, node.end, node.chance) for node in root.below()] == [
        (3, 11, 0.5),
        (4, 11, 0.2),
        (6, 12, 0.25),
    ]
    assert not root.is_open
    assert [node.is_open for node in root.below()] == [False, True, True]


def test_chances_are_learnt_from_what_was_written() -> None:
    chances, root = Chances((0.5, 0.2)), Node(-1, 10)
    chances.expand(root, [3, 4])
    for turn in range(1000):
        chances.learn(root, 3 if turn % 10 < 7 else 4 if turn % 10 < 9 else 99)
    assert chances.of_rank == pytest.approx([0.7, 0.2], abs=0.15)


def test_a_tree_is_listed_parents_first() -> None:
    chances, root = Chances((0.5, 0.2)), Node(-1, 10)
    chances.expand(root, [3, 4])
    chances.expand(root.children[1], [7, 8])
    chances.expand(root.children[0], [5])
    assert listed(root) == ([3, 4, 5, 7, 8], [0, 0, 1, 2, 2])
    assert listed(root.children[1]) == ([7, 8], [0, 0])
    assert [node.token_id for node in root.children[1].children[0].above()] == [7, 4, -1]
