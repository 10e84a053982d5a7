"""With what a worker's ranks run once Ray has given them places."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from baton.errors import UnavailableError
from cluster.config.load import loads
from cluster.fleet import plan
from cluster.fleet.nodes import Node
from cluster.fleet.record import WorkerRecord
from cluster.fleet.seating import Seating
from cluster.fleet.status import RankStatus
from cluster.fleet.tick import WorkerPhase
from workers.spec import Role


def node(number: int, num_gpus: int = 0) -> Node:
    resources = {"CPU": 8, **({"GPU": num_gpus} if num_gpus else {})}
    return Node(node_id=f"n{number}", address=f"10.0.0.{number}", num_gpus=num_gpus, resources=resources)


def seating_of(text: str, device: str, *nodes: Node) -> tuple[Seating, Any, WorkerRecord]:
    """Beside it what it knows of the nodes, and a worker that seeks a place."""
    wanted = plan.resolve(loads(f"model: demo\n{text}"), device=device, dtype="float32", model_path="/m")
    worker = WorkerRecord(
        worker_id="mixed-0", role=Role.MIXED, index=0, incarnation="i", num_failures=0, entered_s=0, heard_s=0
    )
    made = Seating(plan=lambda: wanted, workers=lambda: [worker], secret="s", worker_env={})

    async def learn(asked: object) -> None:
        pass

    cores = {one.node_id: (0, 1, 2, 3) for one in nodes}
    terrain = SimpleNamespace(usable=list(nodes), cores=cores, capped=set(), refused={}, learn=learn)
    made._terrain = terrain  # type: ignore[assignment]
    return made, terrain, worker


async def test_a_rank_takes_the_gpus_that_its_place_has_though_there_are_more_by_then() -> None:
    """Else it would wait in a place that can never hold it."""
    seating, terrain, worker = seating_of("pools: {mixed: {workers: 2}}", "cuda", node(0, 1))
    wish = await seating.wish(worker)
    assert wish.need.resources["GPU"] == 0.5
    terrain.usable.append(node(1, 1))
    terrain.cores["n1"] = (0, 1)
    (place,) = await seating.settle(worker, ["n0"])
    assert place.num_gpus == 0.5
    assert place.spec.gang.shares_device


@pytest.mark.parametrize(
    ("cores", "is_capped", "pinned"), [("auto", False, (0, 1, 2, 3)), ("auto", True, ()), ("[[2, 3]]", True, (2, 3))]
)
async def test_where_cores_are_a_number_ranks_have_so_many_threads_and_are_not_pinned(
    cores: str, is_capped: bool, pinned: tuple[int, ...]
) -> None:
    seating, terrain, worker = seating_of(f"pools: {{mixed: {{workers: 1, cores: {cores}}}}}", "cpu", node(0))
    if is_capped:
        terrain.capped.add("n0")
    await seating.wish(worker)
    (place,) = await seating.settle(worker, ["n0"])
    num_threads = 4 if cores == "auto" else 2
    assert (place.spec.cores, place.spec.num_threads) == (pinned, num_threads)
    assert place.env["OMP_NUM_THREADS"] == str(num_threads)
    assert place.env["OMP_WAIT_POLICY"] == ("PASSIVE" if is_capped else "ACTIVE"), "who spins spends the bound"


def beside(name: str, role: Role, *, cores: tuple[int, ...] = ()) -> WorkerRecord:
    made = WorkerRecord(
        worker_id=name,
        role=role,
        index=0,
        beside=name.endswith("b"),
        incarnation="i",
        num_failures=0,
        entered_s=0,
        heard_s=0,
    )
    made.phase = WorkerPhase.READY if cores else WorkerPhase.WAITING
    made.ranks = (RankStatus(node_id="n0", cores=cores),) if cores else ()
    return made


async def test_a_successor_inherits_the_cores_of_the_worker_that_it_replaces() -> None:
    text = "pools: {prefill: {workers: 1}, decode: {workers: 1}}"
    seating, _, _ = seating_of(text, "cpu", node(0))
    pair = [
        beside("prefill-0", Role.PREFILL, cores=(0, 1)),
        beside("prefill-0b", Role.PREFILL, cores=(0, 1)),
        beside("decode-0", Role.DECODE, cores=(2, 3)),
    ]
    successor = beside("decode-0b", Role.DECODE)
    seating._workers = lambda: [*pair, successor]  # type: ignore[method-assign]
    await seating.wish(successor)
    (place,) = await seating.settle(successor, ["n0"])
    assert place.spec.cores == (2, 3)


async def test_no_worker_goes_to_a_node_that_is_to_be_empty() -> None:
    seating, _, worker = seating_of("pools: {mixed: {workers: 1}}", "cpu", node(0), node(1))
    wanted = replace(seating._get_plan(), drained=("n0",))
    seating._get_plan = lambda: wanted  # type: ignore[method-assign]
    wish = await seating.wish(worker)
    assert [target.node_id for target in wish.targets] == ["n1"]
    assert wish.drained == ("n0",)
    with pytest.raises(UnavailableError, match="node n0 has it and is drained; see `baton drain`"):
        await seating.settle(worker, ["n0"])


async def test_room_that_a_worker_would_have_without_another_is_found() -> None:
    seating, _, worker = seating_of("pools: {mixed: {workers: 1, resources: {slot: 1}}}", "cpu", node(0))
    holder = beside("mixed-0b", Role.MIXED, cores=(0,))
    seating._workers = lambda: [worker, holder]  # type: ignore[method-assign]
    assert not seating.fits_without(worker, [holder]), "no node has it at all"
    seating._terrain.usable[0] = replace(node(0), resources={"CPU": 8, "slot": 1})
    assert not seating.fits_without(worker, [])
    assert seating.fits_without(worker, [holder])
