"""What a worker refuses, and for how long."""

from workers.kv_transfer.link import TransferKey
from workers.kv_transfer.tombstones import Tombstones

KEY = TransferKey("r", 0, 0)


def test_an_abort_is_remembered_for_one_lease() -> None:
    stones = Tombstones(lease_s=10)
    stones.note_abort(KEY, 0.0)
    assert stones.why_refused(KEY, 9.9) == "aborted before its offer came"
    assert stones.why_refused(KEY._replace(attempt=1), 9.9) is None
    assert stones.why_refused(KEY, 10.0) is None
    assert len(stones) == 0


def test_older_attempts_of_the_same_choice_are_refused() -> None:
    stones = Tombstones(lease_s=10)
    stones.note_offer(TransferKey("r", 3, 0), 0.0)
    stones.note_offer(TransferKey("r", 1, 0), 1.0)
    assert stones.why_refused(TransferKey("r", 2, 0), 2.0) == "attempt 2 is older than attempt 3"
    assert stones.why_refused(TransferKey("r", 3, 0), 2.0) is None
    assert stones.why_refused(TransferKey("r", 0, 1), 2.0) is None
