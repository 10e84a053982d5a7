"""What `baton plan` shows of its plans, and at every width of a terminal."""

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from cluster.commands.plan.file import plan_text
from cluster.commands.plan.table import headline, plans_tables, sentences
from cluster.contracts.latency import Parallelism
from cluster.planner.search.candidates import Options, find
from cluster.planner.search.placement import KVDemand, Layout, PoolPlan
from cluster.planner.search.planning import PlanAnswer
from cluster.planner.search.refine import Plan
from cluster.planner.search.report import comments, row
from cluster.planner.search.robustness import Robustness
from cluster.planner.search.trial import Outcome, Question
from tests.unit.planner.toy_costs import ToyCosts, question
from workers.spec import Role

ASKED = question(costs=ToyCosts(degrees=(1, 2)))
OUTCOME = Outcome(
    rate=3.0,
    attainment=0.987,
    ttft_attainment=1.0,
    tpot_attainment=0.987,
    ttft_s=(0.1234, 0.2345, 12.5),
    tpot_s=(0.01, 0.02, 0.03),
    num_failed=0,
    kv_bandwidth=1.5e9,
)


def pool(role: Role, count: int, degrees: Parallelism | None = None) -> PoolPlan:
    shape = find(ASKED, Options(), role).candidates[0].shape
    return PoolPlan(shape=replace(shape, parallelism=degrees or Parallelism()), num_workers=count)


def plan(*pools: PoolPlan, kv: KVDemand | None = None) -> Plan:
    layout = Layout(pools=pools, engine=find(ASKED, Options(), Role.MIXED).candidates[0].engine)
    kv = kv or KVDemand(needed=0.0, available=5e9)
    return Plan(layout=layout, outcome=OUTCOME, kv=kv, num_nodes=1, meets=True, goodput=3.3)


SPLIT = plan(pool(Role.PREFILL, 2), pool(Role.DECODE, 3))
TOGETHER = plan(pool(Role.MIXED, 4))
WIDE = plan(pool(Role.MIXED, 4, Parallelism(tensor=2)))


def answer(*plans: Plan) -> PlanAnswer:
    nothing = Robustness(margin=-0.1, troubles=())
    return PlanAnswer(plans=plans, robustness=nothing, across_nodes=None, scored=(), num_candidates=3)


def shown(asked: Question, plans: Sequence[Plan], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(headline(asked))
    console.print(*plans_tables(asked, answer(*plans), width=width), sep="\n")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_figure_of_any_plan_is_cut(width: int) -> None:
    text = shown(ASKED, (SPLIT, TOGETHER, WIDE, SPLIT, WIDE), width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.count("12,500") == 10  # TTFT P90 and P99
    assert text.count("98.7%") == 5
    assert text.count("best:") == 1


def test_a_table_says_where_kv_moves_and_what_of_the_links_it_takes() -> None:
    far = plan(*SPLIT.layout.pools, kv=KVDemand(needed=2e9, available=50e9))
    assert (row(ASKED, far).kv_path, row(ASKED, far).kv_needed_gbps) == ("between nodes", 2.0)
    assert "2.00 of 50" in shown(ASKED, (far,), 100)
    near = row(ASKED, SPLIT)
    assert (near.kv_path, near.kv_needed_gbps) == ("inside a node", 1.5)
    path = ASKED.costs.transfer(Parallelism(), Parallelism(), within_node=True)
    assert near.kv_available_gbps == pytest.approx(2 * (1 << 30) / path.transfer_s(1 << 30) / 1e9)  # of 2 senders
    assert row(ASKED, TOGETHER).kv_path == "none"


def test_a_price_is_told_per_hour_and_per_request_and_its_lack_too() -> None:
    priced = replace(ASKED, rate=10.0, site=replace(ASKED.site, device_price_per_h=3.6))
    text = shown(priced, (TOGETHER,), 100)
    assert "US$ per hour" in text
    assert "14.40" in text
    assert "0.4000" in text  # 14.40 / 36,000 requests, for 1,000
    assert "US$" not in shown(ASKED, (TOGETHER,), 100)
    assert "give --price for the cost in US$" in "\n".join(sentences(ASKED, answer(TOGETHER)))
    assert "--price" not in "\n".join(sentences(priced, answer(TOGETHER)))


def test_the_file_tells_what_the_table_tells_in_lines_that_are_read_whole() -> None:
    found = answer(TOGETHER, SPLIT)
    head = comments(ASKED, found, command=f"baton plan {'--model demo ' * 20}", about="demo on toys")
    text = plan_text(ASKED, TOGETHER.layout, head, model="demo", device="cuda", transport="auto")
    lines = [line for line in text.splitlines() if line.startswith("#")]
    assert lines[0].startswith("# Made by: baton plan --model demo --model demo")  # whole, to be copied
    assert max(len(line) for line in lines[1:]) <= 102
    told = " ".join(line.removeprefix("#").strip() for line in lines)
    for part in (
        "KV: none moves",
        "memory: ",
        "no price is known, --price gives one",
        "Beside it: 2 prefill + 3 decode (disaggregated, 5 devices): 98.7% within both, goodput 3.3 requests/s",
        "TTFT 234.5 / 12500.0 / 12500.0 ms",
        "margin: goodput is 10% below the rate asked for",
    ):
        assert part in told
