import pytest

from tests.unit.engine.sequences import make_sequence
from workers.engine.block_manager import BlockManager
from workers.engine.draft import Draft
from workers.engine.scheduler import Scheduler, StepPlan
from workers.engine.sequence import Sequence, Status


def make(
    *,
    num_blocks: int = 64,
    budget: int = 16,
    max_sequences: int = 8,
    chunked: bool = True,
    prefix_cache: bool = False,
    state_spacing: int | None = None,
) -> tuple[Scheduler, BlockManager]:
    blocks = BlockManager(num_blocks=num_blocks, block_size=4, prefix_cache=prefix_cache)
    scheduler = Scheduler(
        blocks=blocks,
        max_batched_tokens=budget,
        max_sequences=max_sequences,
        chunked_prefill=chunked,
        state_spacing=state_spacing,
    )
    return scheduler, blocks


def compute(plan: StepPlan, blocks: BlockManager) -> None:
    """What the engine does with a plan: advances cursors, and appends a token where the last one is computed."""
    for chunk in plan.chunks:
        chunk.seq.num_computed_tokens += chunk.num_tokens
        blocks.commit(chunk.seq)
        if chunk.seq.num_uncomputed_tokens == 0:
            chunk.seq.output_token_ids.append(7)


def step(scheduler: Scheduler, blocks: BlockManager, now_s: float = 0.0) -> dict[str, int]:
    """Tokens computed in one step, by request."""
    plan = scheduler.plan(now_s)
    compute(plan, blocks)
    return {chunk.seq.request_id: chunk.num_tokens for chunk in plan.chunks}


def receive(scheduler: Scheduler, blocks: BlockManager, seq: Sequence) -> None:
    """A sequence whose prompt was read elsewhere, with its first token."""
    blocks.allocate(seq)
    blocks.grow(seq, seq.num_tokens + 1)
    seq.num_computed_tokens = seq.num_tokens
    seq.output_token_ids.append(7)
    scheduler.add_running(seq)


def test_an_empty_scheduler_plans_nothing() -> None:
    scheduler, _ = make()
    plan = scheduler.plan(0.0)
    assert (plan.chunks, plan.preempted, plan.admitted) == ([], [], [])


def test_a_long_prompt_runs_in_chunks_of_the_budget() -> None:
    scheduler, blocks = make(budget=16)
    seq = make_sequence(40)
    scheduler.add(seq)
    plans = [scheduler.plan(0.0)]
    assert plans[0].admitted == [seq]
    compute(plans[0], blocks)
    assert [step(scheduler, blocks) for _ in range(4)] == [{"r": 16}, {"r": 8}, {"r": 1}, {"r": 1}]
    assert seq.status is Status.RUNNING


def test_decodes_come_first_and_prompts_share_what_they_leave() -> None:
    scheduler, blocks = make(budget=16)
    for name in ("a", "b"):
        scheduler.add(make_sequence(4, name=name))
    step(scheduler, blocks)
    scheduler.add(make_sequence(20, name="c"))
    scheduler.add(make_sequence(20, name="d"))
    assert list(step(scheduler, blocks).items()) == [("a", 1), ("b", 1), ("c", 14)]
    assert list(step(scheduler, blocks).items()) == [("a", 1), ("b", 1), ("c", 6), ("d", 8)]
    assert list(step(scheduler, blocks).items()) == [("a", 1), ("b", 1), ("c", 1), ("d", 12)]


def test_decodes_come_first_even_when_they_arrived_later() -> None:
    scheduler, blocks = make(budget=8)
    scheduler.add(make_sequence(20, name="prompt", arrived_s=1.0))
    step(scheduler, blocks)
    receive(scheduler, blocks, make_sequence(4, name="decode", arrived_s=2.0))
    assert list(step(scheduler, blocks).items()) == [("decode", 1), ("prompt", 7)]


def test_decodes_over_the_budget_all_run_and_prompts_wait() -> None:
    scheduler, blocks = make(budget=2)
    for index in range(4):
        receive(scheduler, blocks, make_sequence(4, name=f"decode-{index}"))
    scheduler.add(make_sequence(4, name="prompt"))
    assert step(scheduler, blocks) == {f"decode-{index}": 1 for index in range(4)}


def test_a_prompt_of_one_token_is_a_prompt_not_a_decode() -> None:
    scheduler, blocks = make()
    scheduler.add(make_sequence(1))
    assert scheduler.num_waiting_tokens == 1
    step(scheduler, blocks)
    assert scheduler.num_waiting_tokens == 0


def test_waiting_tokens_are_those_of_prompts_still_to_compute() -> None:
    scheduler, blocks = make(budget=16)
    scheduler.add(make_sequence(40, name="a"))
    scheduler.add(make_sequence(5, name="b"))
    assert scheduler.num_waiting_tokens == 45
    step(scheduler, blocks)
    assert scheduler.num_waiting_tokens == 29


def test_no_more_sequences_run_than_allowed_and_siblings_count() -> None:
    scheduler, _ = make(max_sequences=4)
    scheduler.add(make_sequence(2, name="a"))
    scheduler.add(make_sequence(2, name="b", siblings=(1, 2)))
    scheduler.add(make_sequence(2, name="c"))
    assert [seq.request_id for seq in scheduler.plan(0.0).admitted] == ["a", "b"]


def test_more_siblings_than_places_run_alone() -> None:
    scheduler, _ = make(max_sequences=2)
    scheduler.add(make_sequence(2, siblings=(1, 2, 3)))
    assert len(scheduler.plan(0.0).admitted) == 1


def test_a_prompt_that_does_not_fit_blocks_those_behind_it() -> None:
    scheduler, blocks = make(num_blocks=8)
    running = make_sequence(12, name="running")
    scheduler.add(running)
    step(scheduler, blocks)
    scheduler.add(make_sequence(20, name="big"))
    scheduler.add(make_sequence(2, name="small"))
    assert step(scheduler, blocks) == {"running": 1}
    scheduler.remove(running)
    blocks.free(running)
    assert step(scheduler, blocks) == {"big": 16}


def test_a_block_to_grow_is_left_for_each_that_runs() -> None:
    scheduler, blocks = make(num_blocks=7)
    scheduler.add(make_sequence(8, name="a"))
    step(scheduler, blocks)
    scheduler.add(make_sequence(8, name="b"))  # a holds 3 by then, b takes 2, and 2 are left: one each
    assert step(scheduler, blocks) == {"a": 1, "b": 8}
    scheduler.add(make_sequence(2, name="c"))
    assert step(scheduler, blocks) == {"a": 1, "b": 1}


def test_a_prompt_that_fits_exactly_runs_when_nothing_else_does() -> None:
    scheduler, blocks = make(num_blocks=4)
    scheduler.add(make_sequence(16))
    assert step(scheduler, blocks) == {"r": 16}


def test_the_youngest_is_preempted_when_an_older_one_cannot_grow() -> None:
    scheduler, blocks = make(num_blocks=5)
    old, young = make_sequence(8, name="old", arrived_s=1.0), make_sequence(4, name="young", arrived_s=2.0)
    receive(scheduler, blocks, young)  # 2 blocks, room for 4 more
    receive(scheduler, blocks, old)  # 3 blocks, room for 4 more
    assert scheduler.running == [old, young]
    for _ in range(4):
        step(scheduler, blocks)
    scheduler.add(make_sequence(1, name="new", arrived_s=3.0))
    plan = scheduler.plan(0.0)
    assert plan.preempted == [young]
    assert [chunk.seq for chunk in plan.chunks] == [old]
    assert (young.status, young.block_ids, young.num_computed_tokens) == (Status.WAITING, [], 0)
    assert [seq.request_id for seq in scheduler.waiting] == ["young", "new"]
    blocks.check_integrity([old])


def test_a_preempted_sequence_reads_prompt_and_output_again() -> None:
    scheduler, blocks = make(num_blocks=5)
    old, young = make_sequence(8, name="old"), make_sequence(7, name="young", arrived_s=1.0)
    for seq in (old, young):
        receive(scheduler, blocks, seq)
    while not scheduler.waiting:
        step(scheduler, blocks)
    outputs = list(young.output_token_ids)
    scheduler.remove(old)
    blocks.free(old)
    assert step(scheduler, blocks) == {"young": 7 + len(outputs)}
    assert young.output_token_ids == [*outputs, 7]


def test_the_youngest_gives_way_when_it_cannot_grow_itself() -> None:
    scheduler, blocks = make(num_blocks=5)
    old, young = make_sequence(9, name="old"), make_sequence(6, name="young", arrived_s=1.0)
    for seq in (old, young):
        receive(scheduler, blocks, seq)
    for _ in range(2):
        assert step(scheduler, blocks) == {"old": 1, "young": 1}
    plan = scheduler.plan(0.0)
    assert plan.preempted == [young]
    assert [chunk.seq for chunk in plan.chunks] == [old]


def test_one_that_runs_alone_keeps_its_blocks_until_others_return_theirs() -> None:
    scheduler, blocks = make(num_blocks=3)
    arriving = make_sequence(4, name="arriving")
    blocks.grow(arriving, 4)
    seq = make_sequence(7)
    receive(scheduler, blocks, seq)
    step(scheduler, blocks)
    assert step(scheduler, blocks) == {}
    assert len(seq.block_ids) == 2
    assert scheduler.plan(0.0).preempted == []
    blocks.quarantine(arriving)
    blocks.release_quarantine(arriving.key)
    assert step(scheduler, blocks) == {"r": 1}


def test_nothing_is_admitted_in_a_step_that_preempts() -> None:
    scheduler, blocks = make(num_blocks=7)
    for name, arrived_s in (("a", 0.0), ("b", 1.0), ("c", 2.0)):
        receive(scheduler, blocks, make_sequence(7, name=name, arrived_s=arrived_s))
    scheduler.add(make_sequence(1, name="tiny", arrived_s=3.0))
    preempted = []
    while not preempted:
        plan = scheduler.plan(0.0)
        preempted = plan.preempted
        compute(plan, blocks)
    assert [seq.request_id for seq in preempted] == ["c"]
    assert plan.admitted == []
    assert [seq.request_id for seq in scheduler.waiting] == ["c", "tiny"]


def test_preempted_sequences_of_one_arrival_keep_their_order() -> None:
    scheduler, blocks = make(num_blocks=7)
    oldest, *siblings = (make_sequence(8, name=name) for name in ("oldest", "first", "second"))
    receive(scheduler, blocks, oldest)
    for seq in siblings:
        blocks.fork(oldest, seq)
        seq.output_token_ids.append(7)
        scheduler.add_running(seq)
    blocks.grow(make_sequence(8), 8)  # lent to a transfer: 2 are left
    for _ in range(20):
        step(scheduler, blocks)
    assert [seq.request_id for seq in scheduler.waiting] == ["first", "second"]


def test_a_cached_prefix_is_not_computed_again() -> None:
    scheduler, blocks = make(prefix_cache=True)
    first, second = make_sequence(12, name="first"), make_sequence(14, name="second")
    scheduler.add(first)
    step(scheduler, blocks)
    scheduler.add(second)
    assert step(scheduler, blocks) == {"first": 1, "second": 2}
    assert second.num_cached_tokens == 12
    blocks.check_integrity([first, second])


def test_a_prompt_fits_if_its_cached_prefix_is_in_use_anyway() -> None:
    scheduler, blocks = make(num_blocks=7, prefix_cache=True)
    first, second = make_sequence(16, name="first"), make_sequence(17, name="second", arrived_s=1.0)
    scheduler.add(first)
    step(scheduler, blocks)
    scheduler.add(second)
    plan = scheduler.plan(0.0)
    assert plan.admitted == []  # one block for itself, one for each to grow: 3 of 2 that are left
    scheduler, blocks = make(num_blocks=8, prefix_cache=True)
    first, second = make_sequence(16, name="first"), make_sequence(17, name="second", arrived_s=1.0)
    scheduler.add(first)
    step(scheduler, blocks)
    scheduler.add(second)
    assert scheduler.plan(0.0).admitted == [second]


def test_an_overdue_prompt_is_passed_over_and_stays_for_the_engine_to_end() -> None:
    scheduler, blocks = make()
    late = [make_sequence(4, name=f"late-{index}", deadline_s=5.0) for index in range(2)]
    for seq in (*late, make_sequence(4, name="later")):
        scheduler.add(seq)
    assert step(scheduler, blocks, now_s=5.0) == {"later": 4}
    assert list(scheduler.waiting) == late


def test_waiting_is_in_order_of_arrival() -> None:
    scheduler, _ = make()
    for name, arrived_s in (("b", 2.0), ("d", 4.0), ("a", 1.0), ("c", 2.0)):
        scheduler.add(make_sequence(4, name=name, arrived_s=arrived_s))
    assert [seq.request_id for seq in scheduler.waiting] == ["a", "b", "c", "d"]


def test_remove_takes_a_sequence_out_of_either_list_and_leaves_its_blocks() -> None:
    scheduler, blocks = make(budget=4)
    running, waiting = make_sequence(4, name="running"), make_sequence(4, name="waiting")
    scheduler.add(running)
    scheduler.add(waiting)
    step(scheduler, blocks)
    for seq in (running, waiting, running):
        scheduler.remove(seq)
    assert (scheduler.running, list(scheduler.waiting)) == ([], [])
    assert len(running.block_ids) == 1


def test_unchunked_prompts_run_whole_and_before_decodes() -> None:
    scheduler, blocks = make(budget=16, chunked=False)
    scheduler.add(make_sequence(40, name="long"))
    scheduler.add(make_sequence(10, name="a"))
    scheduler.add(make_sequence(6, name="b"))
    scheduler.add(make_sequence(1, name="c"))
    assert step(scheduler, blocks) == {"long": 40}
    assert step(scheduler, blocks) == {"a": 10, "b": 6}
    assert step(scheduler, blocks) == {"c": 1}
    assert step(scheduler, blocks) == {"long": 1, "a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("num_receiving", [0, 1])
def test_a_received_sequence_needs_its_blocks_and_one_more(num_receiving: int) -> None:
    scheduler, _ = make(num_blocks=3)
    assert scheduler.can_receive(make_sequence(11), num_receiving)
    assert not scheduler.can_receive(make_sequence(12), num_receiving)


def test_a_received_sequence_leaves_a_block_for_each_that_runs() -> None:
    scheduler, blocks = make(num_blocks=5)
    receive(scheduler, blocks, make_sequence(4, name="a"))
    assert scheduler.can_receive(make_sequence(7), 0)
    assert not scheduler.can_receive(make_sequence(8), 0)


def test_a_received_sequence_does_not_pass_an_older_one_that_waits() -> None:
    scheduler, _ = make()
    scheduler.add(make_sequence(4, arrived_s=1.0))
    assert not scheduler.can_receive(make_sequence(4, arrived_s=2.0), 0)
    assert scheduler.can_receive(make_sequence(4, arrived_s=0.5), 0)


def test_received_sequences_keep_to_the_places() -> None:
    scheduler, _ = make(max_sequences=2)
    assert scheduler.can_receive(make_sequence(4), 1)
    assert not scheduler.can_receive(make_sequence(4), 2)
    assert not scheduler.can_receive(make_sequence(4, siblings=(1,)), 1)
    assert scheduler.can_receive(make_sequence(4, siblings=(1, 2, 3)), 0)


def read_with_a_long_draft(num_blocks: int, names: str) -> tuple[Scheduler, BlockManager, list[Sequence]]:
    """Prompts of three tokens, all read and one token on; the second had 12 draft tokens, all of them wrong."""
    scheduler, blocks = make(num_blocks=num_blocks)
    seqs = [make_sequence(3, name=name) for name in names]
    for seq in seqs:
        scheduler.add(seq)
    step(scheduler, blocks)
    plan = scheduler.plan(0.0, {seqs[1].key: Draft(range(12))})
    assert [len(chunk.draft_token_ids) for chunk in plan.chunks][1] == 12
    compute(plan, blocks)
    assert len(seqs[1].block_ids) == 4
    return scheduler, blocks, seqs


def test_blocks_of_draft_tokens_are_given_back_to_admit_a_prompt() -> None:
    scheduler, blocks, seqs = read_with_a_long_draft(9, "ab")
    scheduler.add(waiting := make_sequence(8, name="c"))
    assert scheduler.plan(0.0).admitted == [waiting]
    blocks.check_integrity([*seqs, waiting])


def test_blocks_of_draft_tokens_are_given_back_for_a_transfer() -> None:
    scheduler, blocks, seqs = read_with_a_long_draft(8, "ab")
    coming = make_sequence(8, name="c")
    assert scheduler.can_receive(coming, 0)
    blocks.allocate(coming)
    blocks.grow(coming, 9)
    blocks.check_integrity([*seqs, coming])


def test_blocks_of_draft_tokens_are_given_back_before_anybody_is_preempted() -> None:
    scheduler, blocks, seqs = read_with_a_long_draft(9, "abc")
    for _ in range(5):  # up to nine tokens of each: all blocks, none of them spare
        plan = scheduler.plan(0.0)
        assert not plan.preempted
        compute(plan, blocks)
    assert [len(seq.block_ids) for seq in seqs] == [3, 3, 3]
    blocks.check_integrity(seqs)


def test_draft_tokens_beyond_a_state_that_is_kept_do_not_count_as_cut() -> None:
    scheduler, blocks = make(state_spacing=8)
    scheduler.add(seq := make_sequence(5))
    step(scheduler, blocks)
    (chunk,) = scheduler.plan(0.0, {seq.key: Draft(range(6))}).chunks
    assert chunk.draft_token_ids == [0, 1]
    assert scheduler.num_cut_draft_tokens == 0
