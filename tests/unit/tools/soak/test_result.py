"""What is told of a run: one line, its troubles, a page, pictures."""

import json
from pathlib import Path

from tools.soak.flatness import MIB
from tools.soak.happening import Happening
from tools.soak.leftovers import look_at_blocks
from tools.soak.outcome import Ending, Outcome
from tools.soak.report import write
from tools.soak.result import Result
from tools.soak.samples import ClusterSample, ProcessSample
from tools.soak.schedule import Kind


def outcomes() -> list[Outcome]:
    return [
        Outcome(
            number=number,
            family="chat",
            api="chat",
            manner="stream",
            request_id=f"soak-{number}",
            begin_s=float(number),
            first_s=number + 0.2,
            end_s=number + 1.0,
        )
        for number in range(30)
    ]


def result(leak: float = 0.0, duration_s: float = 900.0) -> Result:
    made = Result(facts={"seed": 1}, duration_s=duration_s, outcomes=outcomes())
    made.happenings.append(Happening(kind=Kind.KILL_DECODE, begin_s=10.0, over_s=14.0, victim="decode 7"))
    for at_s in range(0, int(duration_s), 10):
        made.samples.processes.append(
            ProcessSample(
                at_s=at_s, kind="decode", pid=7, anonymous=int(300 * MIB + leak * at_s), pss=0, fds=60, threads=30
            )
        )
        made.samples.clusters.append(
            ClusterSample(
                at_s=at_s,
                blocks={"decode-0": {"free": 340, "quarantined": 0, "used": 1}},
                num_running=1,
                num_waiting=0,
                num_transfers=0,
                num_open=1,
                num_files=40,
                file_bytes=1 << 20,
                log_bytes=1 << 10,
                actors={"ALIVE": 9},
                groups={"CREATED": 3},
            )
        )
    return made


def test_a_good_run_is_one_line_and_no_trouble() -> None:
    assert result().troubles() == []
    assert result().summary() == "soak OK: 30 requests (30 ok), 1 events"


def test_a_failure_a_leak_a_problem_and_no_recovery_are_each_told() -> None:
    bad = result(leak=0.2 * MIB)
    bad.outcomes[3].ending, bad.outcomes[3].error = Ending.STATUS, "500"
    bad.happenings[0].error = "FeedError: not in 120 s: whole"
    bad.problems.append("decode-0 holds blocks")
    assert len(bad.troubles()) == 4
    assert bad.summary().startswith("soak FAILED: 30 requests (29 ok, 1 failed)")
    (failure,) = bad.failures()
    assert failure["around"] == ["kill decode at 10.0 s (decode 7)"] or failure["around"] == []


def test_trends_of_a_short_run_are_told_and_not_judged() -> None:
    short = result(leak=0.5 * MIB, duration_s=200.0)
    assert short.troubles() == []
    assert [trend.measure for trend in short.trends()[0] if not trend.is_flat] == ["anonymous"]


def test_a_report_has_a_page_data_samples_and_pictures(tmp_path: Path) -> None:
    page = write(result(), tmp_path)
    assert "kill decode" in page.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["ok"] is True
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 91
    for name in ("load.png", "resources.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_what_an_idle_cluster_still_holds_is_named() -> None:
    worker = {"worker_id": "decode-0", "num_blocks": 10, "num_free_blocks": 8, "num_quarantined_blocks": 1}
    worker |= {"num_running": 0, "num_waiting": 0, "num_transfers": 1, "ranks": [{"pid": 1}]}
    found = look_at_blocks({"workers": [worker], "actors": {"baton-worker-x": 1, "baton-worker-y": 2}})
    assert len(found) == 4
    assert "decode-0 holds" in found[0]
