"""Of two controllers, the one that came last acts."""

import pytest

from cluster.fleet.lease import Lease


class Shared:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def put_new(self, key: str, value: bytes) -> bool:
        if key in self.values:
            return False
        self.values[key] = value
        return True

    def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    def has(self, key: str) -> bool:
        return key in self.values

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


def test_the_one_that_came_last_holds_it() -> None:
    store = Shared()
    first = Lease("c", store)
    assert first.holds
    second = Lease("c", store)
    assert second.holds
    assert not first.holds


@pytest.mark.parametrize("num_later", [1, 2, 3, 7])
def test_an_old_one_never_gets_it_back_and_no_keys_are_left_behind(num_later: int) -> None:
    store = Shared()
    old = Lease("c", store)
    later = [Lease("c", store) for _ in range(num_later)]
    assert [one.holds for one in (old, *later)] == [False] * num_later + [True]
    assert len(store.values) <= 3


def test_two_that_come_at_once_do_not_share_an_epoch() -> None:
    store = Shared()
    Lease("c", store)
    store.put_new("c.2", b"1")  # another one has taken it, and not said so yet
    late = Lease("c", store)
    assert late.epoch == 3
    assert late.holds
