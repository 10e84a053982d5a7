"""Faults as text, what is refused, and what each asks of a cluster."""

from collections.abc import Collection, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import ConfigError
from cluster.contracts.simulation import Fault
from cluster.simulator.faults import KINDS, check_targets, inject, parse_fault, parse_faults
from workers.spec import Role

WORKERS = {"prefill-0": Role.PREFILL, "decode-0": Role.DECODE, "decode-1": Role.DECODE}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill_decode@30s", Fault(kind="kill_decode", at_s=30.0)),
        ("kill:decode-1@30/20s", Fault(kind="kill", at_s=30.0, target="decode-1", duration_s=20.0)),
        ("kill_prefill@500ms", Fault(kind="kill_prefill", at_s=0.5)),
        ("restart:prefill-0@2min", Fault(kind="restart", at_s=120.0, target="prefill-0")),
        ("slow_link@10s*0.1/5s", Fault(kind="slow_link", at_s=10.0, factor=0.1, duration_s=5.0)),
        ("lost_ack@3.5s", Fault(kind="lost_ack", at_s=3.5)),
        ("stalled_rank:decode-0@12s/4s", Fault(kind="stalled_rank", at_s=12.0, target="decode-0", duration_s=4.0)),
        ("role_prefill:decode-1@30s", Fault(kind="role_prefill", at_s=30.0, target="decode-1")),
        ("slow_start@0s*5/1min", Fault(kind="slow_start", at_s=0.0, factor=5.0, duration_s=60.0)),
    ],
)
def test_every_kind_is_read(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


def test_a_list_is_in_order_of_time() -> None:
    assert [fault.kind for fault in parse_faults("kill_decode@30s, lost_ack@3s,")] == ["lost_ack", "kill_decode"]
    assert parse_faults("") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kill_decode", "is not of the form KIND"),
        ("kill_decode@", "time '' is no time; write 30s, 500ms or 2min"),
        ("kill_decode@-3s", "time '-3s' is no time"),
        ("kill_decode@3h", "time '3h' is no time"),
        ("explode@3s", "unknown kind 'explode'; known are kill, kill_prefill, kill_decode"),
        ("kill_decode@3s*2", "kill_decode takes no factor; leave out"),
        ("role_draft@3s", "unknown kind 'role_draft'"),
        ("role_decode@3s/2s", "role_decode takes no duration"),
        ("lost_ack@3s/2s", "lost_ack takes no duration; leave out /2s"),
        ("slow_link@3s*0.5", "slow_link needs a duration above 0; write it as /DURATION"),
        ("slow_link@3s/5s", "factor 1 must be between 0 and 1; write it as"),
        ("slow_link@3s*2/5s", "factor 2 must be between 0 and 1"),
        ("slow_link@3s*fast/5s", "factor 'fast' is no number"),
        ("slow_link@3s*nan/5s", "factor nan must be between 0 and 1"),
        ("slow_start@3s*0.5/5s", "factor 0.5 must be above 1"),
        ("stalled_rank@3s", "stalled_rank needs a duration above 0"),
        ("stalled_rank@3s/", "duration '' is no time"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_fault(text)
    assert error.value.message.startswith("faults: ")
    assert says in error.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kill_mixed@1s", "kill_mixed: the cluster has no mixed worker; its workers are prefill-0, decode-0, decode-1"),
        ("kill_decode:prefill-0@1s", "it cannot hit worker 'prefill-0'; it can hit decode-0, decode-1"),
        ("kill:decode-7@1s", "it cannot hit worker 'decode-7'; it can hit prefill-0, decode-0, decode-1"),
    ],
)
def test_a_fault_that_nobody_can_have_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_targets(parse_faults(text), WORKERS)
    assert says in error.value.message
    check_targets(parse_faults("kill:decode-1@1s,lost_ack@2s,stalled_rank:prefill-0@3s/1s"), WORKERS)


@given(
    st.sampled_from(sorted(KINDS)),
    st.floats(0.0, 1e6).map(lambda number: round(number, 3)),
    st.sampled_from(["", "decode-1"]),
    st.floats(0.001, 0.999).map(lambda number: round(number, 3)),
    st.floats(0.001, 1e4).map(lambda number: round(number, 3)),
)
def test_numbers_of_any_size_are_read(kind: str, at_s: float, target: str, factor: float, duration_s: float) -> None:
    rules = KINDS[kind]
    fault = Fault(
        kind=kind,
        at_s=at_s,
        target=target,
        factor=1.0 if rules.factor is None else factor + rules.factor[0],
        duration_s=duration_s if rules.needs_duration or rules.takes_duration else 0.0,
    )
    where = f":{target}" if target else ""
    written_factor = f"*{fault.factor!r}" if rules.factor else ""
    written_duration = f"/{fault.duration_s!r}s" if fault.duration_s else ""
    assert parse_fault(f"{kind}{where}@{at_s!r}s{written_factor}{written_duration}") == fault


class Recorder:
    """A world that writes down what is done to it; decode-0 is dead."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []

    def live_workers(self, roles: Collection[Role]) -> Sequence[str]:
        return [name for name, role in WORKERS.items() if role in roles and name != "decode-0"]

    def kill(self, worker_id: str, *, away_s: float) -> None:
        self.done.append(("kill", worker_id, away_s))

    def restart(self, worker_id: str) -> None:
        self.done.append(("restart", worker_id))

    def set_role(self, worker_id: str, role: Role) -> bool:
        self.done.append(("set_role", worker_id, role))
        return worker_id != "prefill-0"

    def slow_link(self, worker_id: str, *, factor: float, duration_s: float) -> None:
        self.done.append(("slow_link", worker_id, factor, duration_s))

    def lose_ack(self, worker_id: str) -> None:
        self.done.append(("lose_ack", worker_id))

    def stall(self, worker_id: str, *, duration_s: float) -> None:
        self.done.append(("stall", worker_id, duration_s))

    def slow_start(self, worker_id: str, *, factor: float, duration_s: float) -> None:
        self.done.append(("slow_start", worker_id, factor, duration_s))


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("kill_decode@1s/9s", ("kill", "decode-1", 9.0)),
        ("kill_prefill@1s", ("kill", "prefill-0", 0.0)),
        ("kill:decode-0@1s", ("kill", "decode-0", 0.0)),
        ("restart:decode-1@1s", ("restart", "decode-1")),
        ("role_prefill:decode-1@1s", ("set_role", "decode-1", Role.PREFILL)),
        ("role_prefill@1s", ("set_role", "decode-1", Role.PREFILL)),
        ("slow_link:decode-1@1s*0.5/2s", ("slow_link", "decode-1", 0.5, 2.0)),
        ("lost_ack@1s", ("lose_ack", "prefill-0")),
        ("stalled_rank:decode-1@1s/3s", ("stall", "decode-1", 3.0)),
        ("slow_start@1s*2/3s", ("slow_start", "", 2.0, 3.0)),
    ],
)
def test_a_fault_hits_one_worker_that_is_up_and_fits(text: str, done: tuple[object, ...]) -> None:
    world = Recorder()
    assert inject(world, parse_fault(text), Random(1)) == done[1]
    assert world.done == [done]


def test_a_fault_without_anybody_to_hit_does_nothing() -> None:
    world = Recorder()
    assert inject(world, parse_fault("kill_mixed@1s"), Random(1)) == ""
    assert world.done == []


def test_a_change_of_role_that_is_refused_hits_nobody() -> None:
    assert inject(Recorder(), parse_fault("role_decode:prefill-0@1s"), Random(1)) == ""
