"""The worker table: which workers may be chosen, what fits, what is healthy."""

from baton.v1.worker_pb2 import (
    ROLE_DECODE,
    ROLE_DRAFT,
    ROLE_MIXED,
    ROLE_PREFILL,
    LinkMeasures,
    Measures,
    WorkerState,
)
from cluster.router.table import WorkerTable
from cluster.router.workers import WorkerEntry, WorkerKey
from workers.spec import Role

_WIRE = {Role.PREFILL: ROLE_PREFILL, Role.DECODE: ROLE_DECODE, Role.MIXED: ROLE_MIXED, Role.DRAFT: ROLE_DRAFT}


def _entry(worker_id: str, role: Role, *, incarnation: str = "x", draining: bool = False) -> WorkerEntry:
    return WorkerEntry(worker_id=worker_id, incarnation=incarnation, role=role, address="a:1", draining=draining)


def _table(*entries: WorkerEntry) -> WorkerTable:
    table = WorkerTable(step_timeout_s=30.0)
    table.replace(entries)
    return table


def _report(table: WorkerTable, worker_id: str, role: Role, *, incarnation: str = "x", **fields: object) -> bool:
    values: dict[str, object] = {
        "block_size": 16,
        "num_blocks": 100,
        "max_model_len": 4096,
        "report_number": 1,
    } | fields
    state = WorkerState(worker_id=worker_id, role=_WIRE[role], **values)  # type: ignore[arg-type]
    return table.report(WorkerKey(worker_id, incarnation), state, now_s=1.0)


def _usable(table: WorkerTable) -> set[str]:
    return set(table.pools.by_id)


def test_a_worker_may_be_chosen_between_its_first_report_and_its_loss() -> None:
    table = _table(_entry("d0", Role.DECODE))
    assert _usable(table) == set()
    assert _report(table, "d0", Role.DECODE)
    assert not _report(table, "d0", Role.DECODE)
    assert _usable(table) == {"d0"}
    table.disconnect(WorkerKey("d0", "x"))
    assert _usable(table) == set()
    [view] = table.views(now_s=3.0)
    assert not view.up
    assert view.state is not None
    assert view.age_s == 2.0


def test_draining_and_wedged_workers_are_not_chosen() -> None:
    table = _table(_entry("d0", Role.DECODE), _entry("d1", Role.DECODE), _entry("d2", Role.DECODE, draining=True))
    for name in ("d0", "d1", "d2"):
        _report(table, name, Role.DECODE)
    assert _usable(table) == {"d0", "d1"}
    assert _report(table, "d0", Role.DECODE, draining=True)
    assert _report(table, "d1", Role.DECODE, since_progress_s=31.0)
    assert _usable(table) == set()
    assert "worker d1 has work and has finished no step for 31 s" in table.health().reason
    assert _report(table, "d1", Role.DECODE, since_progress_s=0.1)
    assert _usable(table) == {"d1"}


def test_a_change_of_role_moves_the_worker_to_its_new_pool() -> None:
    table = _table(_entry("w0", Role.PREFILL))
    _report(table, "w0", Role.PREFILL)
    assert [load.worker_id for load in table.pools.prefill] == ["w0"]
    assert _report(table, "w0", Role.DECODE)
    assert [load.worker_id for load in table.pools.decode] == ["w0"]
    assert table.pools.prefill == ()
    assert table.health().ok


def test_a_new_incarnation_starts_from_nothing_and_the_old_ones_reports_are_void() -> None:
    table = _table(_entry("d0", Role.DECODE))
    _report(table, "d0", Role.DECODE, added_block_hashes=[1, 2])
    assert table.prefix.match("d0", [1, 2]) == 2
    table.replace([_entry("d0", Role.DECODE, incarnation="y")])
    assert table.prefix.match("d0", [1, 2]) == 0
    assert not _report(table, "d0", Role.DECODE)
    assert _usable(table) == set()
    table.disconnect(WorkerKey("d0", "x"))
    assert _report(table, "d0", Role.DECODE, incarnation="y")
    assert _usable(table) == {"d0"}


def test_a_worker_that_left_is_forgotten_with_its_blocks() -> None:
    table = _table(_entry("d0", Role.DECODE), _entry("d1", Role.DECODE))
    _report(table, "d1", Role.DECODE, added_block_hashes=[1])
    table.replace([_entry("d0", Role.DECODE)])
    assert table.prefix.num_blocks == 0
    assert _usable(table) == set()


def test_what_fits_is_the_largest_decode_worker_and_is_remembered() -> None:
    table = _table(_entry("p0", Role.PREFILL), _entry("d0", Role.DECODE), _entry("d1", Role.DECODE))
    assert table.max_request_tokens == 0
    _report(table, "p0", Role.PREFILL, num_blocks=1000)
    assert table.max_request_tokens == 0
    _report(table, "d0", Role.DECODE)
    _report(table, "d1", Role.DECODE, num_blocks=10, max_model_len=8192)
    assert (table.max_model_len, table.max_request_tokens) == (8192, 1600)
    table.disconnect(WorkerKey("d0", "x"))
    table.disconnect(WorkerKey("d1", "x"))
    assert (table.max_model_len, table.max_request_tokens) == (8192, 1600)


def test_health_names_the_pool_that_is_empty() -> None:
    table = _table(_entry("p0", Role.PREFILL), _entry("d0", Role.DECODE))
    assert table.health().reason == "no worker can decode: none of 2 in the table is up"
    _report(table, "d0", Role.DECODE)
    assert table.health().reason == "pool prefill is empty"
    _report(table, "p0", Role.PREFILL)
    assert table.health().ok
    table.replace([_entry("d0", Role.DECODE)])
    assert table.health().ok


def test_what_depends_on_a_worker_outlives_its_stream_and_its_row() -> None:
    table, key = _table(_entry("d0", Role.DECODE)), WorkerKey("d0", "x")
    table.attach(key, "r1", 2)
    _report(table, "d0", Role.DECODE)
    table.attach(key, "r2", 1)
    table.attach(key, "r1", 1)
    load = table.load(key)
    assert load is not None
    assert load.num_outstanding == 4
    table.disconnect(key)
    table.replace([])
    assert table.dependents(key) == ["r1", "r2"]
    table.detach(key, "r1")
    table.detach(key, "r2")
    assert table.dependents(key) == []


def test_a_report_that_is_missing_makes_the_cache_unknown_until_all_of_it_is_told_again() -> None:
    table, key = _table(_entry("d0", Role.DECODE)), WorkerKey("d0", "x")
    _report(table, "d0", Role.DECODE, added_block_hashes=[1, 2])
    _report(table, "d0", Role.DECODE, report_number=2, removed_block_hashes=[1])
    assert table.prefix.match("d0", [2]) == 1
    _report(table, "d0", Role.DECODE, report_number=4, added_block_hashes=[3], num_running=7)
    assert table.lacks_cache(key)
    _report(table, "d0", Role.DECODE, report_number=5, added_block_hashes=[4])
    assert table.lacks_cache(key)
    assert table.prefix.num_blocks == 0
    assert table.pools.by_id["d0"].num_running == 0  # the load itself is told whole each time
    _report(table, "d0", Role.DECODE, report_number=1, added_block_hashes=[4, 2])
    assert not table.lacks_cache(key)
    assert table.prefix.match("d0", [2, 4]) == 2
    table.prefix.check_integrity()


def test_a_sign_of_life_says_that_the_last_report_holds_whatever_was_sent_since() -> None:
    table, key = _table(_entry("d0", Role.DECODE)), WorkerKey("d0", "x")
    _report(table, "d0", Role.DECODE, num_running=3)
    load = table.pools.by_id["d0"]
    load.sent(num_tokens=64, num_sequences=1, num_blocks=4)
    assert table.unchanged(key, now_s=5.0)
    assert (load.num_running, load.num_sent_tokens, load.reported_s) == (3, 0, 5.0)
    assert table.views(5.5)[0].age_s == 0.5
    table.disconnect(key)
    assert not table.unchanged(key, now_s=9.0)
    assert not table.pools.by_id


def test_a_worker_that_left_the_table_and_came_back_has_to_tell_all_again() -> None:
    entry, key = _entry("d0", Role.DECODE), WorkerKey("d0", "x")
    table = _table(entry)
    _report(table, "d0", Role.DECODE)
    table.replace([])
    assert table.unchanged(key, now_s=2.0)  # nobody asks for it
    table.replace([entry])
    assert not table.unchanged(key, now_s=3.0)
    _report(table, "d0", Role.DECODE, report_number=9, added_block_hashes=[1])
    assert table.lacks_cache(key)
    assert table.unchanged(key, now_s=4.0)


def test_a_route_names_the_ranks_that_a_gang_has_reported() -> None:
    table = _table(_entry("d0", Role.DECODE), _entry("d1", Role.DECODE))
    _report(table, "d0", Role.DECODE)
    _report(table, "d1", Role.DECODE, rank_addresses=["a:1", "b:2"])
    plain, gang = table.route("d0"), table.route("d1")
    assert (plain.worker_id, plain.incarnation, plain.address, list(plain.rank_addresses)) == ("d0", "x", "a:1", [])
    assert (gang.worker_id, list(gang.rank_addresses)) == ("d1", ["a:1", "b:2"])


def test_draft_workers_are_a_pool_of_their_own_and_no_part_of_health() -> None:
    table = _table(_entry("d0", Role.DECODE), _entry("x0", Role.DRAFT))
    assert table.health().reason == "no worker can decode: none of 1 in the table is up"
    _report(table, "d0", Role.DECODE)
    assert table.health().ok
    _report(table, "x0", Role.DRAFT)
    assert [load.worker_id for load in table.pools.draft] == ["x0"]
    route = table.draft_route("x0")
    assert (route.worker_id, route.incarnation, route.address) == ("x0", "x", "a:1")
    _report(table, "x0", Role.DRAFT, since_progress_s=99.0)
    assert table.pools.draft == ()
    assert table.health().ok


def test_measures_stay_where_a_report_has_none_and_go_with_the_incarnation() -> None:
    table = _table(_entry("d", Role.DECODE))
    _report(table, "d", Role.DECODE, measures=Measures(links=[LinkMeasures(transport="shm", bytes_sent=7)]))
    _report(table, "d", Role.DECODE)
    (view,) = table.views(0.0)
    assert view.measures is not None
    assert view.measures.links[0].bytes_sent == 7
    table.replace([_entry("d", Role.DECODE, incarnation="y")])
    (view,) = table.views(0.0)
    assert view.measures is None


def test_the_end_of_a_worker_that_drained_is_known_as_meant_while_a_request_depends_on_it() -> None:
    table, key = _table(_entry("d0", Role.DECODE)), WorkerKey("d0", "x")
    assert not table.was_draining(key)
    table.attach(key, "r1", 1)
    table.replace([_entry("d0", Role.DECODE, draining=True)])
    table.replace([])
    assert table.was_draining(key)
    table.detach(key, "r1")
    table.replace([_entry("d1", Role.DECODE)])
    assert not table.was_draining(key)
    _report(table, "d1", Role.DECODE, draining=True)
    assert table.was_draining(WorkerKey("d1", "x")), "the worker's own word comes first"
