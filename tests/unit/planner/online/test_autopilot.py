"""The autopilot over simulated loads: when it changes something, when it does not, and what it takes back."""

from dataclasses import replace

import numpy as np
import pytest

from cluster.planner.online.autopilot import Autopilot, Phase, Verdict
from cluster.planner.online.decision import DecisionKind, DecisionState
from cluster.planner.online.judge import Answer, Outcome, Question
from cluster.planner.online.observation import Observation, SeenRequest, SeenWorker, StepCounts
from cluster.planner.online.setup import Change, Setup, less, more, role_change
from cluster.simulator.world import simulate
from tests.unit.planner.online.fleets import Lengths, attainment, autopilot, fleet, load, planner, rehearse
from workers.spec import Role

TO_DECODE = role_change(Role.PREFILL, Role.DECODE)


def short(_: float, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(200, 600)), int(rng.integers(10, 40))


def two_humped(_: float, rng: np.random.Generator) -> tuple[int, int]:
    return (int(rng.integers(1500, 2500)), 5) if rng.random() < 0.3 else (int(rng.integers(20, 80)), 40)


def shift(over: float, rng: np.random.Generator) -> tuple[int, int]:
    """From long prompts to long answers."""
    return (int(rng.integers(1500, 3000)), 10) if rng.random() > over * 1.6 - 0.3 else (100, int(rng.integers(80, 160)))


def changes(decisions: list[object]) -> list[object]:
    return [one for one in decisions if getattr(one, "state", None) is DecisionState.APPLIED]


@pytest.mark.parametrize(
    ("lengths", "seed"),
    [(two_humped, 0), *(pytest.param(short, seed, marks=pytest.mark.slow) for seed in range(3))],
)
def test_a_flat_load_that_is_served_well_changes_nothing(lengths: Lengths, seed: int) -> None:
    cluster = fleet(prefill=2, decode=2)
    arrivals = load([3.0], 150.0, lengths, seed=seed)
    rehearsal, _ = rehearse(cluster, arrivals, planner(interval_s=40.0), seed=seed)
    assert rehearsal.decisions == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_shift_of_the_load_moves_workers_and_serves_more_of_it_well(seed: int) -> None:
    cluster = fleet(prefill=4, decode=2)
    arrivals = load([6.0] * 8, 45.0, shift, seed=seed)
    rehearsal, result = rehearse(cluster, arrivals, planner(interval_s=25.0), seed=seed)
    static = simulate(cluster, arrivals, seed=seed)
    assert attainment(result) > attainment(static) + 0.05
    assert 1 <= len(changes(list(rehearsal.decisions))) <= 4
    assert all(one.kind is DecisionKind.ROLE for one in rehearsal.decisions)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_burst_adds_workers_once_and_no_more_than_allowed(seed: int) -> None:
    cluster = fleet(mixed=2)
    arrivals = load([2, 2, 8, 8, 2, 2, 2], 50.0, short, seed=seed)
    rehearsal, result = rehearse(cluster, arrivals, planner(max_workers=4, min_workers=2), seed=seed)
    counts = [setup.mixed for _, setup in rehearsal.setups]
    assert min(counts) == 2
    assert 3 <= max(counts) <= 4
    turns = sum(a != b for a, b in zip(np.sign(np.diff(counts)), np.sign(np.diff(counts))[1:], strict=False) if a and b)
    assert turns <= 1, f"it went back and forth: {counts}"
    assert attainment(result) >= attainment(simulate(cluster, arrivals, seed=seed)) - 0.01


def test_costs_that_nobody_knows_are_learnt_of_steps() -> None:
    cluster = fleet(mixed=2)
    rehearsal, _ = rehearse(cluster, load([2.0], 130.0, short), planner(interval_s=40.0), knows=False)
    pilot = rehearsal.autopilot
    assert pilot.calibration.is_ready
    assert pilot.status.error is not None
    assert pilot.status.error < 0.15
    seen = pilot.calibration.latency_of(Role.MIXED)
    real = cluster.pools[0].latency
    assert seen.step_s((), 4, 0) == pytest.approx(real.step_s((), 4, 0), rel=0.25)


# The state machine, with answers made up.


def outcome(share: float, num: int = 200) -> Outcome:
    return Outcome(attainment=share, value=share, num_counted=num, ttft_s=(0.1,) * num, tpot_s=(0.01,) * num)


def answer(now: float, tried: dict[Change, float], *, before: float | None = None) -> Answer:
    return Answer(
        now=outcome(now),
        past=None,
        before=outcome(before) if before is not None else None,
        tried=tuple((change, outcome(share)) for change, share in tried.items()),
        num_requests=0,
    )


def seen(now_s: float, share: float, setup: Setup, **others: object) -> Observation:
    """A hundred requests of the last 50 s, of which `share` were served well."""
    requests = [
        SeenRequest(
            arrived_s=now_s - i / 2,
            num_prompt_tokens=100,
            num_output_tokens=10,
            ended_s=now_s - i / 2 + 0.5,
            ttft_s=0.1 if i < share * 100 else 5.0,
            tpot_s=0.01,
            status="ok",
        )
        for i in range(100)
    ]
    counts = StepCounts(
        num_decode_steps=int(100 * now_s),
        num_decode_step_sequences=int(400 * now_s),
        decode_steps_s=3.0 * now_s,
        num_prompt_steps=int(20 * now_s),
        num_prompt_step_tokens=int(2000 * now_s),
        prompt_steps_s=now_s,
    )
    roles = [Role.PREFILL] * setup.prefill + [Role.DECODE] * setup.decode
    workers = [SeenWorker(worker_id=f"{i}", role=role, counts=counts) for i, role in enumerate(roles)]
    return Observation(now_s=now_s, requests=requests, workers=workers, setup=setup, **others)  # type: ignore[arg-type]


START = Setup(prefill=2, decode=2)


def changed(pilot: Autopilot) -> Setup:
    """After a change was made and its workers are there."""
    assert isinstance(pilot.look(seen(100.0, 0.5, START)), Question)
    verdict = pilot.decide(answer(0.5, {TO_DECODE: 0.99}))
    assert verdict.act == TO_DECODE
    after = TO_DECODE.of(START)
    assert isinstance(pilot.look(seen(120.0, 0.5, after)), Question)
    assert pilot.phase is Phase.PROBATION
    return after


def pilot_of(**config: object) -> Autopilot:
    return autopilot(fleet(prefill=2, decode=2), planner(**config))


def test_a_change_that_made_it_worse_is_taken_back_and_not_made_again_soon() -> None:
    pilot = pilot_of()
    after = changed(pilot)
    pilot.look(seen(180.0, 0.2, after))
    verdict = pilot.decide(answer(0.2, {}, before=0.6))
    assert verdict.act == TO_DECODE.undone
    assert verdict.decisions[-1].state is DecisionState.ROLLED_BACK
    assert verdict.decisions[-1].measured == pytest.approx(0.2)
    pilot.look(seen(220.0, 0.5, START))
    asked = pilot.look(seen(300.0, 0.5, START))
    assert isinstance(asked, Question)
    assert TO_DECODE not in asked.moves
    assert asked.moves


def test_a_change_is_kept_where_the_load_rose_and_the_old_fleet_would_do_no_better() -> None:
    pilot = pilot_of()
    after = changed(pilot)
    pilot.look(seen(180.0, 0.2, after))
    verdict = pilot.decide(answer(0.2, {}, before=0.1))
    assert verdict.act is None
    assert verdict.decisions[-1].state is DecisionState.KEPT


def test_one_change_at_a_time_and_none_while_it_cools_down() -> None:
    pilot = pilot_of()
    after = changed(pilot)
    asked = pilot.look(seen(130.0, 0.5, after))
    assert isinstance(asked, Question)
    assert asked.moves == ()
    assert pilot.decide(answer(0.5, {TO_DECODE: 0.99})).act is None


def test_workers_that_come_and_go_are_waited_for() -> None:
    pilot = pilot_of()
    assert pilot.look(seen(100.0, 0.5, START, is_settled=False)) == Verdict()
    assert "workers" in pilot.status.doing


def test_a_worker_for_which_no_node_comes_is_given_up() -> None:
    pilot = pilot_of(max_workers=8)
    pilot.look(seen(100.0, 0.5, START))
    change = more(Role.DECODE)
    assert pilot.decide(answer(0.5, {change: 0.99})).act == change
    assert pilot.look(seen(200.0, 0.5, change.of(START), is_settled=False)) == Verdict()
    verdict = pilot.look(seen(800.0, 0.5, change.of(START), is_settled=False))
    assert isinstance(verdict, Verdict)
    assert verdict.act == change.undone


def test_what_a_person_changes_stands_and_is_looked_at_anew() -> None:
    pilot = pilot_of()
    changed(pilot)
    verdict = pilot.look(seen(130.0, 0.5, Setup(prefill=3, decode=3), by_hand=1))
    assert isinstance(verdict, Verdict)
    assert verdict.decisions[0].kind is DecisionKind.BY_HAND
    assert pilot.phase is Phase.LOOKING
    pilot.look(seen(140.0, 0.5, Setup(prefill=3, decode=3), by_hand=1))
    assert pilot.decide(answer(0.5, {TO_DECODE: 0.99})).act is None, "it must wait first"


def test_taking_back_a_recent_change_needs_twice_the_gain() -> None:
    pilot = pilot_of()
    after = changed(pilot)
    pilot.look(seen(165.0, 0.8, after))
    pilot.decide(answer(0.8, {}, before=0.5))
    assert pilot.phase is Phase.LOOKING
    pilot.look(seen(170.0, 0.8, after))
    assert pilot.decide(answer(0.8, {TO_DECODE.undone: 0.86})).act is None
    pilot.look(seen(190.0, 0.8, after))
    assert pilot.decide(answer(0.8, {TO_DECODE.undone: 0.95})).act == TO_DECODE.undone


def test_a_change_that_cannot_be_made_is_said_and_left_alone_for_a_while() -> None:
    pilot = pilot_of()
    pilot.look(seen(100.0, 0.5, START))
    pilot.decide(answer(0.5, {TO_DECODE: 0.99}))
    told = pilot.failed(TO_DECODE, "worker prefill-1 is draining", 101.0)
    assert told.state is DecisionState.REFUSED
    asked = pilot.look(seen(160.0, 0.5, START))
    assert isinstance(asked, Question)
    assert TO_DECODE not in asked.moves


def test_a_simulation_that_disagrees_with_reality_stops_it_until_it_agrees() -> None:
    pilot, states = pilot_of(max_error=0.3), []
    for step, ttft_s in enumerate((9.0, 9.0, 9.0, 0.1, 0.1)):
        asked = pilot.look(seen(100.0 + 50 * step, 1.0, START))
        assert isinstance(asked, Question)
        assert asked.past is not None
        num = len(asked.past.arrivals)
        past = replace(outcome(1.0), ttft_s=(ttft_s,) * num, tpot_s=(0.01,) * num)
        verdict = pilot.decide(replace(answer(0.5, {TO_DECODE: 0.99} if step == 2 else {}), past=past))
        assert verdict.act is None, "it is not trusted"
        states += [(step, one.kind, one.state) for one in verdict.decisions]
    trust = DecisionKind.TRUST
    assert states == [(1, trust, DecisionState.REFUSED), (4, trust, DecisionState.KEPT)]
    assert pilot.status.is_trusted


def test_advice_is_said_once_until_it_changes_and_nothing_is_done() -> None:
    pilot, to_prefill, told = pilot_of(mode="advise"), role_change(Role.DECODE, Role.PREFILL), []
    for step, change in enumerate((TO_DECODE, TO_DECODE, to_prefill, TO_DECODE)):
        pilot.look(seen(100.0 + 10 * step, 0.5, START))
        verdict = pilot.decide(answer(0.5, {change: 0.99}))
        assert verdict.act is None
        told += [one.what for one in verdict.decisions]
    assert told == [str(TO_DECODE), str(to_prefill), str(TO_DECODE)]


def test_a_worker_goes_only_where_the_others_stand_more_load_and_not_soon_after_one_came() -> None:
    pilot, fewer = pilot_of(max_workers=8), less(Role.DECODE)
    pilot.look(seen(100.0, 1.0, START))
    assert pilot.decide(answer(1.0, {fewer: 0.9})).act is None
    pilot.look(seen(120.0, 0.7, START))
    assert pilot.decide(answer(1.0, {fewer: 1.0})).act is None, "it is not as well as it looks"
    pilot.look(seen(140.0, 1.0, START))
    assert pilot.decide(answer(1.0, {fewer: 1.0})).act == fewer


def test_a_worker_that_came_does_not_go_again_at_once() -> None:
    pilot, after = pilot_of(max_workers=8), more(Role.DECODE).of(START)
    pilot.look(seen(100.0, 0.5, START))
    assert pilot.decide(answer(0.5, {more(Role.DECODE): 0.99})).act == more(Role.DECODE)
    for now_s in (120.0, 165.0, 190.0):
        pilot.look(seen(now_s, 1.0, after))
        assert pilot.decide(answer(1.0, {less(Role.DECODE): 1.0})).act is None
