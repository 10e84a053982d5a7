"""Who drafts elsewhere is told of every choice that is decoded here, and of its end."""

from baton.v1.worker_pb2 import DraftRoute
from tests.unit.engine.sequences import make_sequence
from workers.engine.jobs import Job, JobTable
from workers.engine.sequence import Sequence
from workers.engine.stats import GuessCounts

ROUTE = DraftRoute(worker_id="draft-0")


class Noting:
    def __init__(self) -> None:
        self.counts = GuessCounts()
        self.told: list[tuple[str, int]] = []

    def begins(self, seq: Sequence, route: DraftRoute) -> None:
        assert route is ROUTE
        self.told.append(("begins", seq.choice))

    def ends(self, key: tuple[str, int]) -> None:
        self.told.append(("ends", key[1]))

    def close(self) -> None:
        raise AssertionError("the engine goes on")


def test_a_sequence_that_speaks_for_another_choice_begins_anew() -> None:
    watch = Noting()
    table = JobTable(lease_s=1.0, watch=watch)
    job = Job(seq=make_sequence(siblings=(1, 2)), choices=[0, 1, 2], draft=ROUTE)
    table.add(job)
    table.drop_choice(job, 0)
    assert watch.told == [("begins", 0), ("ends", 0), ("begins", 1)]
    assert table.of(job.seq) is job
    table.drop_choice(job, 2)
    table.remove(job)
    assert watch.told[3:] == [("ends", 2), ("ends", 1)]
    assert not len(table)


def test_nobody_is_told_of_sequences_that_nobody_drafts_for() -> None:
    watch = Noting()
    table = JobTable(lease_s=1.0, watch=watch)
    job = Job(seq=make_sequence(siblings=(1,)), choices=[0, 1])
    table.add(job)
    table.drop_choice(job, 0)
    table.remove(job)
    assert watch.told == []
