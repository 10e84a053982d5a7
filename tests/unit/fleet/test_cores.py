from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.cores import share, split, thread_env


def place(cores: list[int], num_workers: int) -> list[tuple[int, ...]]:
    taken: list[tuple[int, ...]] = []
    for _ in range(num_workers):
        taken.append(share(cores, taken, num_workers))
    return taken


def test_two_cores_and_two_workers_have_one_core_each() -> None:
    assert place([0, 1], 2) == [(0,), (1,)]


def test_eight_cores_and_three_workers_leave_no_core_to_two() -> None:
    assert place(list(range(8)), 3) == [(0, 1), (2, 3), (4, 5)]


def test_one_core_serves_all_when_there_is_no_other() -> None:
    assert place([7], 3) == [(7,), (7,), (7,)]


def test_a_replacement_takes_the_cores_its_predecessor_left() -> None:
    assert share([0, 1, 2, 3], [(2, 3)], 2) == (0, 1)


@given(st.integers(1, 64), st.integers(1, 64))
def test_no_core_is_shared_while_there_are_enough_and_sharing_is_even(num_cores: int, num_workers: int) -> None:
    placed = place(list(range(num_cores)), num_workers)
    use = [sum(core in cores for cores in placed) for core in range(num_cores)]
    assert all(placed)
    if num_cores >= num_workers:
        assert max(use) == 1
    assert max(use) - min(use) <= 1


def test_waiting_threads_do_not_spin_on_a_shared_core() -> None:
    assert thread_env(4, exclusive=False)["OMP_WAIT_POLICY"] == "PASSIVE"
    assert thread_env(4, exclusive=True)["OMP_WAIT_POLICY"] == "ACTIVE"
    assert 0 < int(thread_env(4, exclusive=True)["GOMP_SPINCOUNT"]) < 10**7  # an idle worker must not hold its cores
    assert thread_env(1, exclusive=True)["OMP_NUM_THREADS"] == "1"


def test_a_worker_of_several_ranks_takes_cores_for_each_and_gives_each_its_own() -> None:
    assert share(range(8), [], 3, 2) == (0, 1, 2, 3)
    assert share([0, 1], [], 4, 4) == (0, 1)
    assert split((0, 1, 2, 3), 2) == [(0, 1), (2, 3)]
    assert split((4, 5, 6), 3) == [(4,), (5,), (6,)]
    assert split((4, 5), 3) == [(4,), (5,), (4,)]
