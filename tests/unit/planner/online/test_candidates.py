"""What may be changed: one thing at a time, within bounds."""

import pytest

from cluster.config.schema import EngineConfig, PlannerConfig, RouterConfig
from cluster.contracts.tuning import Tuning
from cluster.planner.online.candidates import Bounds, additions, limits, removals, role_changes
from cluster.planner.online.moves import counts_after, setup_of, to_change
from cluster.planner.online.setup import Change, Setup, less, more, role_change
from workers.spec import Role

TO_DECODE, TO_PREFILL = role_change(Role.PREFILL, Role.DECODE), role_change(Role.DECODE, Role.PREFILL)


def bounds(setup: Setup, *, drafts: int = 0, **planner: int) -> Bounds:
    config = PlannerConfig(**planner)  # type: ignore[arg-type]
    return Bounds.of(config, setup, EngineConfig(), RouterConfig(), max_draft_tokens=drafts)


def test_no_pool_falls_below_its_least() -> None:
    setup = Setup(prefill=2, decode=1)
    assert role_changes(setup, bounds(setup)) == [TO_DECODE]
    assert role_changes(setup, bounds(setup, min_workers=2)) == []
    assert removals(setup, bounds(setup, max_workers=4)) == [less(Role.PREFILL)]


def test_the_number_of_workers_is_the_configs_unless_a_most_is_given() -> None:
    setup = Setup(prefill=2, decode=2)
    assert additions(setup, bounds(setup)) == removals(setup, bounds(setup)) == []
    assert additions(setup, bounds(setup, max_workers=5)) == [more(Role.PREFILL), more(Role.DECODE)]
    assert additions(setup, bounds(setup, max_workers=4)) == []


def test_mixed_workers_have_no_other_role_to_go_to() -> None:
    setup = Setup(mixed=3)
    assert role_changes(setup, bounds(setup)) == []
    assert additions(setup, bounds(setup, max_workers=4)) == [more(Role.MIXED)]


def test_large_fleets_move_several_at_once() -> None:
    setup = Setup(prefill=100, decode=60)
    assert {change.count for change in role_changes(setup, bounds(setup))} == {1, 2, 10}


def test_limits_go_by_halves_and_back_to_the_configs_own() -> None:
    setup = Setup(prefill=1, decode=1)
    told = {str(one) for one in limits(setup, bounds(setup), num_open=50, is_overloaded=False)}
    assert told == {
        "max_batched_tokens from 512 to 256",
        "disaggregate_over_tokens from 64 to 32",
        "disaggregate_over_tokens from 64 to 128",
    }
    tuned = Setup(prefill=1, decode=1, tuning=Tuning(max_batched_tokens=256))
    back = [one for one in limits(tuned, bounds(setup), num_open=50, is_overloaded=False) if "to 512" in str(one)]
    assert [one.of(tuned).tuning for one in back] == [Tuning()]


def test_admission_is_cut_with_its_queue_and_only_when_nothing_else_helps() -> None:
    setup = Setup(mixed=1)
    cut = limits(setup, bounds(setup), num_open=80, is_overloaded=True)[-1]
    assert cut.of(setup).tuning == Tuning(max_running=60, max_queue=15)
    tuned = cut.of(setup)
    told = [str(one) for one in limits(tuned, bounds(setup), num_open=60, is_overloaded=False)]
    assert "max_running from 60 to 80, max_queue from 15 to 20" in told


def test_draft_length_is_bounded_where_somebody_drafts() -> None:
    setup = Setup(mixed=1)
    told = [str(one) for one in limits(setup, bounds(setup, drafts=8), num_open=1, is_overloaded=False)]
    assert "max_draft_tokens from 8 to 4" in told


@pytest.mark.parametrize("change", [TO_DECODE, more(Role.DECODE), less(Role.PREFILL)])
def test_a_change_and_what_takes_it_back_leave_nothing(change: Change) -> None:
    setup = Setup(prefill=3, decode=2)
    made = change.of(setup)
    assert made != setup
    assert change.undone.of(made) == setup


def test_workers_come_home_first() -> None:
    roles = {"prefill-0": Role.PREFILL, "prefill-1": Role.DECODE, "decode-0": Role.DECODE, "decode-1": Role.PREFILL}
    assert to_change(TO_PREFILL, roles) == ["prefill-1"]
    assert to_change(TO_DECODE, roles) == ["decode-1"]
    assert setup_of(roles) == Setup(prefill=2, decode=2)


def test_a_pool_shrinks_from_its_end_and_only_by_who_does_what_must_go() -> None:
    roles = {"prefill-0": Role.PREFILL, "prefill-1": Role.DECODE, "decode-0": Role.DECODE}
    assert counts_after(less(Role.DECODE), roles) == {Role.PREFILL: 1, Role.DECODE: 1}
    assert counts_after(less(Role.DECODE), {**roles, "decode-1": Role.PREFILL}) == {Role.PREFILL: 1, Role.DECODE: 2}
    assert counts_after(less(Role.PREFILL), roles) is None
    assert counts_after(more(Role.MIXED), roles) is None
