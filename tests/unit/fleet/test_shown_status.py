"""What `baton status` and `baton up` make of workers that failed."""

import io
import time
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from baton.errors import ConfigError, UnavailableError
from cluster.commands.status import worker_table
from cluster.config.schema import BatonConfig
from cluster.fleet.loading import NOT_LOADING
from cluster.fleet.status import FleetStatus, PoolStatus, RankStatus, RolloutStatus, WorkerStatus
from cluster.fleet.tick import WorkerPhase
from cluster.host.state import ClusterState
from cluster.local.bring_up import MAX_FAILURES, _raise_failure, _Start
from cluster.planner.online.decision import AutopilotStatus, Decision, DecisionKind, DecisionState


def status(phase: WorkerPhase = WorkerPhase.READY, **changes: Any) -> FleetStatus:
    worker = WorkerStatus(
        worker_id="decode-0",
        incarnation="a",
        role="decode",
        phase=phase,
        phase_s=1.0,
        address="127.0.0.1:1",
        node_id="n",
        pid=1,
        cores=(0, 1),
        error="",
        error_is_final=False,
        num_failures=0,
        num_blocks=8,
        num_free_blocks=5,
    )
    pool = PoolStatus(role="decode", num_desired=1, num_ready=int(phase is WorkerPhase.READY))
    workers = (replace(worker, **changes),)
    return FleetStatus(ready=False, config="", model_path="", num_ingress_replicas=0, pools=(pool,), workers=workers)


def shown(fleet: FleetStatus, *, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(worker_table(ClusterState(cluster_id="1", http="http://h:1", grpc="h:2"), fleet))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_up_gives_in_on_a_worker_that_keeps_failing() -> None:
    with pytest.raises(
        UnavailableError, match=r"decode-0 failed 3 times without .*, the last time: killed; run `baton doctor`"
    ):
        _raise_failure(status(WorkerPhase.STARTING, num_failures=MAX_FAILURES, error="killed"))
    with pytest.raises(ConfigError, match="decode-0 cannot start: no weights"):
        _raise_failure(status(WorkerPhase.FAILED, num_failures=1, error="no weights", error_is_final=True))


@pytest.mark.parametrize(
    ("phase", "num_failures"), [(WorkerPhase.READY, MAX_FAILURES), (WorkerPhase.STARTING, MAX_FAILURES - 1)]
)
def test_up_goes_on_with_a_worker_that_is_back_or_may_still_come(phase: WorkerPhase, num_failures: int) -> None:
    fleet = status(phase, num_failures=num_failures, error="killed")
    _raise_failure(fleet)  # says nothing: `up` waits on
    failed = f"failed {num_failures} times without a minute's service in between, the last time: killed"
    back = f"decode-0 is back after it {failed}"
    assert shown(fleet, width=120)[3] == (back if phase is WorkerPhase.READY else f"decode-0 {failed}")


def test_status_says_how_far_a_worker_is_with_its_weights() -> None:
    loading = {"loaded_bytes": 4_300_000_000, "weights_bytes": 10_000_000_000, "load_bytes_per_s": 1.14e9}
    fleet = status(WorkerPhase.STARTING, **loading)
    assert shown(fleet)[3] == "loading decode-0 43 % of 10.0 GB, 1.1 GB/s"
    assert shown(status(WorkerPhase.STARTING, **{**loading, "load_bytes_per_s": 0.0}))[3].endswith("43 % of 10.0 GB")
    whole = status(WorkerPhase.STARTING, **{**loading, "loaded_bytes": 10_000_000_000})
    assert shown(whole)[3] == "decode-0 has its weights, 10.0 GB, and warms up"
    assert len(shown(status(WorkerPhase.STARTING))) == 3


def test_loading_adds_ranks_up_and_knows_its_speed() -> None:
    begun = NOT_LOADING.told([(0, 0), (0, 0)], 1.0)
    assert begun == NOT_LOADING
    first = begun.told([(10, 100), (0, 0)], 2.0)
    assert (first.loaded_bytes, first.weights_bytes, first.bytes_per_s) == (10, 100, 0.0)
    then = first.told([(60, 100), (50, 100)], 4.0)
    assert (then.loaded_bytes, then.weights_bytes, then.bytes_per_s) == (110, 200, 50.0)
    assert then.told([(60, 100), (50, 100)], 9.0).bytes_per_s == 50.0


@pytest.mark.parametrize(("is_live", "ends"), [(True, "; loading decode-0 50 % of 0.0 GB"), (False, "decode 0/1")])
def test_up_shows_it_where_the_line_may_change(is_live: bool, ends: str) -> None:
    class Enough(Exception):
        pass

    said: list[str] = []

    def report(text: str) -> None:
        said.append(text)
        raise Enough

    fleet = status(WorkerPhase.STARTING, loaded_bytes=5, weights_bytes=10)
    controller = SimpleNamespace(status=lambda: fleet)
    start = _Start(BatonConfig(), report, lambda text: None, is_live=is_live)
    with pytest.raises(Enough):
        start._wait_for_workers(controller, Future())  # type: ignore[arg-type]
    assert said[0].startswith("starting workers: decode 0/1")
    assert said[0].endswith(ends)


def test_status_tells_a_worker_that_is_back_from_one_that_is_not() -> None:
    lines = shown(status(num_failures=1, error="killed"))
    assert lines[0] == "http://h:1  gRPC h:2  decode 1/1"
    assert lines[2].split()[:4] == ["decode-0", "ready", "0-1", "3/8"]
    assert lines[3] == "decode-0 is back after it failed once: killed"
    (failed,) = shown(status(WorkerPhase.FAILED, num_failures=1, error="killed"))[3:]
    assert failed == "decode-0 failed once: killed"


def test_a_busy_worker_fits_80_columns_with_every_figure_whole() -> None:
    busy = status(
        WorkerPhase.DRAINING,
        worker_id="prefill-12",
        role="prefill",
        num_blocks=12345,
        num_free_blocks=0,
        num_states=4096,
        num_running=256,
        num_waiting=1024,
        num_preemptions=99,
        kv_bytes_sent=1023 << 20,
        kv_bytes_received=1023 << 30,
        num_transfers=17,
    )
    lines = shown(busy)
    headings = ["worker", "state", "cores", "blocks", "run", "wait", "preempt", "KV", "out", "KV", "in", "transfers"]
    assert lines[1].split() == headings
    figures = ["12345/12345", "256", "1024", "99", "1023MiB", "1023GiB", "17"]
    assert lines[2].split() == ["prefill-12", "draining", "0-1", *figures]
    assert lines[3].split() == ["states", "4096/4096"]
    assert len(lines) == 4


def test_a_worker_of_several_ranks_shows_where_each_is() -> None:
    ranks = (
        RankStatus(node_id="a", node="10.0.0.1", pid=1, cores=(0,)),
        RankStatus(node_id="b", node="10.0.0.2", pid=2, cores=(0, 1)),
        RankStatus(node_id="b", cores=(2,)),
    )
    lines = shown(status(ranks=ranks))
    assert [line.split() for line in lines[3:]] == [
        ["rank", "0", "10.0.0.1", "0"],
        ["rank", "1", "10.0.0.2", "0-1"],
        ["rank", "2", "-", "2"],
    ]


def test_what_is_too_wide_is_folded_and_never_cut() -> None:
    wide = status(cores=(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22), kv_bytes_sent=5 << 40)
    narrow, whole = ("".join("".join(shown(wide, width=width)).split()) for width in (60, 200))
    assert "0,2,4,6,8,10,12,14,16,18,20,22" in whole
    assert sorted(narrow) == sorted(whole)


def test_failed_transfers_and_a_changed_role_are_told() -> None:
    lines = shown(status(worker_id="prefill-0", role="mixed", num_failed_transfers=3))
    assert lines[2].startswith("prefill-0 as mixed")
    assert lines[3] == "prefill-0: 3 KV transfers failed so far"


def test_slots_are_shown_of_workers_whose_model_has_states() -> None:
    assert "states" not in "".join(shown(status()))
    heading, row, states = shown(status(num_states=6, num_free_states=4))[1:4]
    assert states.split() == ["states", "2/6"]
    assert states.index("2/6") + 3 == row.index("3/8") + 3 == heading.index("blocks") + 6


def test_drafts_are_told_of_workers_that_verified_some() -> None:
    drafted = status(drafted_by_place=(200, 100), accepted_by_place=(150,), drafts_per_decode=1.25, verifying_s=3.04)
    (line,) = shown(drafted, width=200)[3:]
    said = "150 of 300 draft tokens right, by place 75 0 %; now 1.2 a decode; 0.0 s drafting, 3.0 s verifying"
    assert line == f"{drafted.workers[0].worker_id}: {said}"


def test_who_drafts_and_how_often_in_time_is_told() -> None:
    changes = {"drafted_by_place": (10,), "accepted_by_place": (5,), "drafters": ("ngram", "draft workers")}
    (line,) = shown(status(num_guess_hits=3, num_guess_misses=1, draft_wait_s=0.25, **changes), width=200)[3:]
    assert line.endswith("; by ngram, draft workers, whose guesses were there 75% of the time (waited 0.2 s)")
    resting = status(num_guess_hits=3, num_guess_misses=1, draft_workers_rest=True, **changes)
    assert shown(resting, width=240)[3].endswith("75% of the time (waited 0.0 s); draft workers rest now")
    counts = {"num_guess_hits": 9, "num_guess_misses": 1, "num_draft_peers": 2, "num_running": 1}
    (line,) = shown(status(worker_id="draft-0", role="draft", num_output_tokens=99, **counts), width=200)[3:]
    assert line == "draft-0: drafts for 1 sequence of 2 workers, 99 tokens so far; foresaw 90% of what was written"


def test_up_does_not_give_in_on_a_draft_worker() -> None:
    failing = {"worker_id": "draft-0", "role": "draft", "num_failures": MAX_FAILURES, "error": "no memory"}
    _raise_failure(status(WorkerPhase.STARTING, **failing))
    _raise_failure(status(WorkerPhase.FAILED, **failing, error_is_final=True))
    assert "draft-0 failed 3 times without a minute's service in between, the last time: no memory" in "".join(
        shown(status(WorkerPhase.FAILED, **failing), width=200)
    )


@pytest.mark.parametrize(
    ("changes", "late", "said"),
    [
        ({"phase": WorkerPhase.STARTING}, False, None),
        (
            {"phase": WorkerPhase.STARTING},
            True,
            "draft-0 is not ready after 300 s; answers come without its drafts, `baton status` says when it is back",
        ),
        (
            {"phase": WorkerPhase.STARTING, "num_failures": 1, "error": "killed"},
            False,
            "draft-0 failed once: killed; answers come without its drafts, `baton status` says when it is back",
        ),
        (
            {"phase": WorkerPhase.FAILED, "num_failures": 1, "error": "no memory", "error_is_final": True},
            False,
            "draft-0 cannot start: no memory; answers come without its drafts",
        ),
    ],
)
def test_up_goes_on_without_a_draft_worker_and_says_so(changes: dict[str, Any], late: bool, said: str | None) -> None:
    warned: list[str] = []
    fleet = status(worker_id="draft-0", role="draft", **changes)
    settled = _Start(BatonConfig(), lambda text: None, warned.append)._drafts_settled(fleet, late)
    assert (settled, warned) == ((True, [said]) if said else (False, []))


WAITS = "pools.decode: 1 of 2 workers wait for {baton_decode: 1}; no node has it"


def waiting_beside(num_ready: int) -> FleetStatus:
    fleet = status(WorkerPhase.WAITING)
    (worker,) = fleet.workers
    ready = tuple(replace(worker, worker_id=f"decode-{1 + i}", phase=WorkerPhase.READY) for i in range(num_ready))
    pool = PoolStatus(role="decode", num_desired=1 + num_ready, num_ready=num_ready, waits=WAITS)
    return replace(fleet, pools=(pool,), workers=(worker, *ready), refused=("node 10.0.0.3 is refused: no torch",))


def test_status_says_what_a_pool_waits_for_and_which_nodes_are_refused() -> None:
    lines = shown(waiting_beside(1))
    assert WAITS in lines
    assert "node 10.0.0.3 is refused: no torch" in lines
    assert any("decode-0 waiting" in " ".join(line.split()) for line in lines)


def test_a_cluster_answers_when_only_places_for_more_workers_are_missing() -> None:
    assert waiting_beside(1).answers
    assert not waiting_beside(0).answers, "nobody is there"
    starting = replace(waiting_beside(1), workers=status(WorkerPhase.STARTING).workers)
    assert not starting.answers, "it will be there soon"


def test_status_says_how_far_a_change_is_and_why_one_is_halted() -> None:
    going = RolloutStatus(why="the change of the config", num_replaced=1, num_wanted=3)
    (line,) = shown(replace(status(), rollout=going))[3:]
    assert line == "the change of the config: 1 of 3 workers are as wanted"
    halted = shown(replace(status(), rollout=replace(going, halted="decode-0b does not come up: no")), width=200)[3]
    assert "as wanted; halted, decode-0b does not come up: no; `baton up` with a mended file" in halted


def test_the_autopilot_says_what_it_does_and_why() -> None:
    decision = Decision(
        number=1,
        at_s=time.time() - 70,
        kind=DecisionKind.ROLE,
        state=DecisionState.APPLIED,
        what="1 decode worker becomes 1 prefill worker",
        why="it pays",
    )
    pilot = AutopilotStatus(mode="act", doing="looking", rate=2.0, expected_rate=3.0, error=0.4, is_trusted=False)
    lines = shown(status(), width=200)
    assert not any("autopilot" in line for line in lines), "it is off"
    lines = shown(replace(status(), autopilot=replace(pilot, decisions=(decision,))), width=200)
    assert "autopilot (act): looking; 2.00 requests/s, 3.00 expected; simulation off by 40%, not trusted" in lines
    assert "  1 min ago applied: 1 decode worker becomes 1 prefill worker: it pays" in lines
