"""Which workers of a config are profiled, and what the profile holds of those of several degrees."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config.load import loads
from cluster.config.schema import BatonConfig
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import Parallelism
from cluster.contracts.overheads import ALONE
from cluster.models.find import with_draft
from cluster.planner.costs.fitted import Profile
from cluster.profiling.drafting import draft_worker
from cluster.profiling.measure import Measured, as_measured, handed_bytes
from cluster.profiling.points import StepPoint
from cluster.profiling.profile import MeasuredDrafts, degrees_of, fitted, measured_workers, not_measured
from workers.spec import GangSpec, KVSpec, Role, WorkerSpec


def worker(role: Role, index: int = 0, **degrees: int) -> list[WorkerSpec]:
    """The ranks of one."""
    size = max(degrees.values(), default=1)
    return [
        WorkerSpec(
            worker_id=f"{role}-{index}",
            role=role,
            model="m",
            served_name="m",
            dtype="float32",
            device="cpu",
            gang=GangSpec(rank=rank, **degrees),
            cores=(rank,),
        )
        for rank in range(size)
    ]


def points(step_s: float) -> list[StepPoint]:
    """Steps of prompts, and of decodes, that all take as long."""
    prompts = [((size, 0),) for size in (16, 64, 128, 256, 512)]
    made = [(prompt, 0, 0) for prompt in prompts] + [((), batch, 100 * batch) for batch in (1, 2, 4, 8, 16)]
    return [
        StepPoint(prompts=prompt, num_decodes=batch, num_context=context, step_s=step_s, num_samples=3)
        for prompt, batch, context in made
    ]


def measured(steps: list[StepPoint], **facts: int) -> Measured:
    said = {"fingerprint": "f", "token_bytes": 640, "state_bytes": 0, "num_layers": 2, "max_model_len": 512}
    return Measured(
        facts=said | facts,
        steps=steps,
        transfers=[],
        to_worker_s=0.001,
        to_client_s=0.001,
        handover_s=0.0,
        receive_s=0.0,
        contention=ALONE,
        start_s=2.0,
        waited=0.0,
        num_rounds=3,
        rounds=[],
    )


def test_one_worker_of_each_degree_is_measured_and_first_one_that_decodes() -> None:
    workers: Sequence[Sequence[WorkerSpec]] = [
        worker(Role.PREFILL, sequence_parallel=2),
        worker(Role.PREFILL, 1, sequence_parallel=2),
        worker(Role.DECODE),
    ]
    chosen = measured_workers(workers)
    assert [ranks[0].worker_id for ranks in chosen] == ["decode-0", "prefill-0"]
    assert [degrees_of(ranks) for ranks in chosen] == [Parallelism(), Parallelism(sequence=2)]
    assert [len(ranks) for ranks in chosen] == [1, 2]


def test_a_profile_holds_the_steps_of_every_degree_and_all_else_of_the_first() -> None:
    config = BatonConfig(model="m")
    found = fitted(config, worker(Role.DECODE), measured(points(0.01)), {}, others={"sp2": points(0.02)})
    assert list(found.latencies) == ["1", "sp2"]
    assert found.latencies["sp2"].step_s((), 4, 400) > 1.5 * found.latencies["1"].step_s((), 4, 400)
    assert set(found.errors) == {"prefill", "decode", "sp2 prefill", "sp2 decode"}
    assert list(found.points) == ["steps", "transfers", "steps sp2"]
    read = Profile.from_text(found.to_text())
    assert (read.latencies, read.errors, read.state_bytes) == (found.latencies, found.errors, 0)


def test_states_are_those_of_all_ranks_together_and_go_over_once() -> None:
    ranks = worker(Role.DECODE, tensor_parallel=2)
    facts = {"token_bytes": 640, "state_bytes": 5000}
    found = fitted(BatonConfig(model="m"), ranks, measured(points(0.01), **facts), {}, others={})
    assert (found.token_bytes, found.state_bytes) == (640, 5000)
    assert handed_bytes(facts, 100) == 100 * 640 + 5000


def test_a_profile_says_what_its_workers_kept_and_files_of_before_there_was_a_choice_are_read() -> None:
    ranks = [replace(rank, kv=KVSpec(dtype="fp8")) for rank in worker(Role.DECODE)]
    found = fitted(BatonConfig(model="m"), ranks, measured(points(0.01)), {}, others={})
    tree = found.to_dict()
    assert Profile.from_dict(tree).kv_dtype == "fp8"
    del tree["kv_dtype"]
    assert Profile.from_dict(tree).kv_dtype == "auto"


def test_a_worker_is_measured_without_drafts() -> None:
    assert {rank.speculation.method for rank in as_measured(worker(Role.MIXED, tensor_parallel=2))} == {"none"}


def test_a_profile_holds_what_a_draft_model_costs_and_how_often_it_is_right() -> None:
    drafts = MeasuredDrafts(name="small", steps=points(0.001), chances=DraftChances((0.8, 0.7)))
    found = fitted(BatonConfig(model="m"), worker(Role.DECODE), measured(points(0.01)), {}, others={}, drafts=drafts)
    assert found.drafts["small"].step_s((), 4, 400) < 0.2 * found.latencies["1"].step_s((), 4, 400)
    assert {"small prefill", "small decode"} < set(found.errors)
    read = Profile.from_text(found.to_text())
    assert (read.drafts, read.acceptance) == (found.drafts, {"small": DraftChances((0.8, 0.7))})
    assert read.draft_chances("small", None, asked="--draft small") == DraftChances((0.8, 0.7))


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("model: demo", 0),
        ("model: demo\npools: {draft: {workers: 1}}", 0),
        ("model: demo\npools: {draft: {workers: 1, layer_parallel: 2}}", 1),
        ("model: demo\npools: {draft: {workers: 0, model: demo-draft, layer_parallel: 2}}", 0),
    ],
)
def test_what_several_ranks_of_a_draft_worker_save_is_said_not_to_be_known(text: str, notes: int) -> None:
    told = not_measured(loads(text))
    assert len(told) == notes
    assert all("draft workers of 2 ranks were measured as ones of one rank" in note for note in told)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("model: demo", ""),
        ("model: demo\npools: {draft: {workers: 1}}", "demo-draft"),
        ("model: demo\npools: {draft: {workers: 1, layer_parallel: 2}}", "demo-draft"),
        ("model: demo\npools: {draft: {workers: 0, model: demo-draft}}", "demo-draft"),
        ("model: demo\npools: {draft: {workers: 0, model: demo-draft}}\nspeculation: {method: ngram}", ""),
    ],
)
def test_the_draft_model_is_measured_where_the_config_drafts_with_one_and_on_one_rank(text: str, folder: str) -> None:
    spec = draft_worker(with_draft(loads(text)), worker(Role.DECODE)[0])
    assert Path(spec.model).name == folder if spec is not None else not folder
    assert spec is None or (spec.gang, spec.cores, spec.draft_model) == (GangSpec(), (0,), "")
