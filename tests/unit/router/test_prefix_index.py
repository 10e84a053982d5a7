"""The prefix index: who holds which blocks."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.router.prefix_index import PrefixIndex


def test_a_match_counts_leading_blocks_alone() -> None:
    index = PrefixIndex()
    index.update("a", added=[1, 2, 4], removed=[])
    assert index.match("a", [1, 2, 3, 4]) == 2
    assert index.match("a", [1, 2]) == 2
    assert index.match("a", [2, 1]) == 2
    assert index.match("a", [3]) == 0
    assert index.match("b", [1]) == 0
    assert index.match("a", []) == 0


def test_removed_blocks_no_longer_match_and_may_come_back() -> None:
    index = PrefixIndex()
    index.update("a", added=[1, 2], removed=[])
    index.update("a", added=[], removed=[1, 7])
    assert index.match("a", [1, 2]) == 0
    index.update("a", added=[1], removed=[1])
    assert index.match("a", [1, 2]) == 2


def test_holders_are_those_of_the_deepest_known_block() -> None:
    index = PrefixIndex()
    index.update("a", added=[1, 2, 3], removed=[])
    index.update("b", added=[1, 2], removed=[])
    index.update("c", added=[1], removed=[])
    assert index.holders([1, 2, 3, 4], 8) == ["a"]
    assert index.holders([1, 2], 8) == ["a", "b"]
    assert index.holders([1, 2], 1) == ["a"]
    assert index.holders([9], 8) == []


def test_holders_keep_their_order_when_one_of_them_drops_the_block() -> None:
    index = PrefixIndex()
    for worker_id in ("a", "b", "c"):
        index.update(worker_id, added=[1], removed=[])
    index.update("b", added=[], removed=[1, 1])
    assert index.holders([1], 8) == ["a", "c"]
    index.update("b", added=[1], removed=[])
    index.forget("a")
    assert index.holders([1], 8) == ["c", "b"]
    index.check_integrity()


def test_a_forgotten_worker_leaves_nothing() -> None:
    index = PrefixIndex()
    index.update("a", added=range(100), removed=[])
    index.forget("a")
    index.forget("a")
    assert index.num_blocks == 0
    assert index.holders([1], 8) == []
    index.check_integrity()


def test_the_worker_with_more_than_its_share_gives_way() -> None:
    index = PrefixIndex(max_blocks=10)
    index.update("big", added=range(10), removed=[])
    index.update("new", added=range(100, 105), removed=[])
    assert index.match("new", range(100, 105)) == 5
    assert index.match("big", [9]) == 1
    assert index.match("big", [0]) == 0
    index.check_integrity()


def test_many_workers_with_a_share_each_make_room_in_few_looks_at_all_of_them() -> None:
    index = PrefixIndex(max_blocks=25_600)
    num_looks = 0
    make_room = index._make_room

    def counted(keep: str) -> None:
        nonlocal num_looks
        num_looks += 1
        make_room(keep)

    index._make_room = counted  # type: ignore[method-assign]
    for turn in range(20):
        for worker in range(256):
            first = worker * 1000 + turn * 10
            index.update(f"w{worker}", added=range(first, first + 10), removed=[])
    assert 25_600 * (1 - 1 / 256) <= index.num_blocks <= 25_600
    assert num_looks < 300  # of 2,560 updates that found no room
    assert all(index.match(f"w{worker}", range(worker * 1000 + 190, worker * 1000 + 200)) for worker in range(256))
    index.check_integrity()


class IndexMachine(RuleBasedStateMachine):
    """Without a bound that bites, against a dict of sets."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(max_blocks=1000)
        self.model: dict[str, set[int]] = {}

    @rule(worker=st.sampled_from("abc"), added=st.sets(st.integers(0, 9)), removed=st.sets(st.integers(0, 9)))
    def update(self, worker: str, added: set[int], removed: set[int]) -> None:
        self.index.update(worker, added=sorted(added), removed=sorted(removed))
        self.model[worker] = self.model.get(worker, set()) - removed | added

    @rule(worker=st.sampled_from("abc"))
    def forget(self, worker: str) -> None:
        self.index.forget(worker)
        self.model.pop(worker, None)

    @rule(worker=st.sampled_from("abc"), hashes=st.lists(st.integers(0, 9), unique=True))
    def match(self, worker: str, hashes: list[int]) -> None:
        held = self.model.get(worker, set())
        missing = [position for position, one in enumerate(hashes) if one not in held]
        assert self.index.match(worker, hashes) == (missing[0] if missing else len(hashes))

    @rule(hashes=st.lists(st.integers(0, 9), unique=True))
    def holders(self, hashes: list[int]) -> None:
        expected = next(
            (found for one in reversed(hashes) if (found := {w for w, held in self.model.items() if one in held})),
            set(),
        )
        assert set(self.index.holders(hashes, 8)) == expected

    @invariant()
    def is_whole(self) -> None:
        self.index.check_integrity()
        assert self.index.num_blocks == sum(len(held) for held in self.model.values())


class BoundedIndexMachine(RuleBasedStateMachine):
    """With a bound that bites: whatever it forgets, it stays whole and within it."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(max_blocks=7)

    @rule(worker=st.sampled_from("abcdefghij"), added=st.sets(st.integers(0, 9)), removed=st.sets(st.integers(0, 9)))
    def update(self, worker: str, added: set[int], removed: set[int]) -> None:
        self.index.update(worker, added=sorted(added), removed=sorted(removed))

    @invariant()
    def is_whole(self) -> None:
        self.index.check_integrity()


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestBoundedIndexMachine = BoundedIndexMachine.TestCase
TestBoundedIndexMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
