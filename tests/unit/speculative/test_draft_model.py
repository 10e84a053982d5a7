"""A draft model keeps its KV that of the text, whatever proves right; the fake model checks each block."""

import random
from collections.abc import Sequence as List
from dataclasses import replace

import pytest

from tests.unit.engine.driver import make_spec
from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence
from workers.model.contract import Batch, Sampled
from workers.model.fake import FakeRunner
from workers.model.sampling_params import SamplingParams
from workers.speculative.draft_blocks import DraftBlocks
from workers.speculative.draft_model import READ_AT_ONCE, ModelDrafter

PARAMS = SamplingParams(max_tokens=60, temperature=1.0, seed=7, ignore_eos=True)


def sequence(name: str, prompt: List[int], params: SamplingParams = PARAMS, output: int = 1) -> Sequence:
    seq = Sequence(
        request_id=name,
        choice=0,
        attempt=0,
        ingress_id="i",
        prompt_token_ids=tuple(prompt),
        params=params,
        arrived_s=0.0,
        deadline_s=9.0,
    )
    seq.output_token_ids += answer(seq)[:output]
    return seq


def answer(seq: Sequence) -> list[int]:
    return FakeRunner.expected_output(seq.prompt_token_ids, seq.params, seq.choice, 60)


class Counting(FakeRunner):
    """Notes how many tokens each pass computes."""

    def __init__(self, **engine: object) -> None:
        super().__init__(make_spec(**engine))
        self.passes: list[int] = []

    def run(self, batch: Batch, on_layer: object = None) -> list[list[Sampled]]:
        self.passes.append(sum(len(chunk.token_ids) for chunk in batch.chunks))
        return super().run(batch)


def test_it_draws_what_the_target_would_draw() -> None:
    runner = Counting()
    drafter = ModelDrafter(runner, kind=4)
    seqs = [sequence("a", [5, 6, 7]), sequence("b", [9], replace(PARAMS, temperature=0.0))]
    drafts = drafter.propose(seqs, 4)
    assert drafts == [Draft(answer(seq)[1:5], 4) for seq in seqs]
    assert runner.passes == [4 + 2, 2, 2, 2]


@pytest.mark.parametrize("keeps_drafted", [True, False])
def test_kv_is_that_of_the_text_whatever_proves_right(keeps_drafted: bool) -> None:
    """Texts go on as the model does or otherwise, by any number of tokens; the fake reads all of them back."""
    rng = random.Random(2)
    runner = Counting()
    drafter = ModelDrafter(runner, keeps_drafted=keeps_drafted)
    seqs = [sequence(str(n), [rng.randrange(1, 500) for _ in range(1 + 3 * n)]) for n in range(6)]
    for _ in range(30):
        depth, chosen = rng.randint(1, 5), rng.sample(seqs, rng.randint(1, 6))
        drafts = drafter.draft(chosen, depth, 500)
        drafter.blocks.check_integrity()
        for seq, draft in zip(chosen, drafts, strict=True):
            assert len(draft.token_ids) == min(depth, seq.params.max_tokens - len(seq.output_token_ids) - 1)
            right = rng.randint(0, len(draft.token_ids))
            own = rng.choice([*draft.token_ids[right : right + 1], 77])
            seq.output_token_ids += [*draft.token_ids[:right], own][: max(58 - len(seq.output_token_ids), 0)]


def test_kv_of_drafts_that_proved_right_is_kept_where_it_may_be() -> None:
    for keeps_drafted, first in ((True, 2), (False, 5)):
        runner = Counting()
        drafter = ModelDrafter(runner, keeps_drafted=keeps_drafted)
        seq = sequence("a", [1, 2, 3])
        (draft,) = drafter.propose([seq], 4)
        seq.output_token_ids += [*draft.token_ids, 9]
        runner.passes.clear()
        drafter.propose([seq], 2)
        assert runner.passes == [first, 1]


def test_a_text_that_did_not_go_on_is_drafted_for_again() -> None:
    drafter = ModelDrafter(FakeRunner(make_spec()))
    seq = sequence("a", [1, 2, 3])
    assert drafter.propose([seq], 3) == drafter.propose([seq], 3)


def test_long_prompts_are_read_bit_by_bit_and_others_draft_meanwhile() -> None:
    runner = Counting()
    drafter = ModelDrafter(runner)
    long, short = sequence("long", list(range(1, 2 * READ_AT_ONCE))), sequence("short", [3, 4])
    assert drafter.num_unread(long) == 2 * READ_AT_ONCE
    assert [len(draft.token_ids) for draft in drafter.propose([long, short], 2)] == [0, 2]
    assert runner.passes[0] == READ_AT_ONCE + 3
    assert drafter.num_read == READ_AT_ONCE
    assert [len(draft.token_ids) for draft in drafter.propose([long, short], 2)] == [2, 2]
    assert drafter.num_unread(long) == 0


def test_the_answers_last_token_and_what_follows_its_end_are_not_drafted() -> None:
    drafter = ModelDrafter(FakeRunner(make_spec(max_model_len=20)))
    assert drafter.propose([sequence("a", [1], replace(PARAMS, max_tokens=2))], 4) == [Draft()]
    assert len(drafter.propose([sequence("b", [1], replace(PARAMS, max_tokens=4))], 4)[0].token_ids) == 2
    assert drafter.propose([sequence("c", list(range(1, 20)))], 4) == [Draft()]
    stop = answer(sequence("d", [1]))[2]
    ending = sequence("d", [1], replace(PARAMS, stop_token_ids=frozenset({stop})))
    assert drafter.propose([ending], 4)[0].token_ids == [answer(sequence("d", [1]))[1], stop]


def test_ended_sequences_and_other_attempts_are_forgotten() -> None:
    drafter = ModelDrafter(FakeRunner(make_spec()))
    stays = sequence("stays", [1, 2, 3])
    for number in range(9):
        drafter.propose([stays, sequence(str(number), [4, 5])], 2)
    assert len(drafter.blocks) == 2
    stays.attempt = 1
    drafter.propose([stays], 2)
    assert len(drafter.blocks) == 1
    drafter.propose([], 2)
    assert drafter.blocks.num_free_blocks == drafter.blocks.num_blocks


def test_without_room_for_all_the_one_that_was_used_longest_ago_goes() -> None:
    drafter = ModelDrafter(FakeRunner(make_spec(memory_bytes=8 * 128)))  # 8 blocks of 4 tokens
    seqs = [sequence(name, list(range(1, 12))) for name in "abc"]
    for seq in seqs:
        assert len(drafter.draft([seq], 1, READ_AT_ONCE)[0].token_ids) == 1
    assert drafter.blocks.get(("a", 0, 0)) is None
    assert drafter.blocks.get(("b", 0, 0)) is not None
    assert [len(draft.token_ids) for draft in drafter.draft(seqs, 4, 64)] == [0, 4, 4]
    drafter.blocks.check_integrity()


def test_a_draft_model_that_fails_ends_drafting_alone() -> None:
    runner = FakeRunner(make_spec())
    drafter = ModelDrafter(runner)

    def fail(batch: Batch) -> list[list[Sampled]]:
        raise RuntimeError("out of memory")

    runner.run = fail  # type: ignore[method-assign, assignment]
    assert drafter.propose([sequence("a", [1, 2])], 2) == [Draft()]
    del runner.run
    assert drafter.propose([sequence("a", [1, 2])], 2) == [Draft()]


def test_blocks_of_this_round_are_not_taken_away() -> None:
    blocks = DraftBlocks(4, 4)
    blocks.begin_round()
    first = blocks.follow("a")
    assert blocks.reach(first, 9) == 9
    assert blocks.reach(blocks.follow("b"), 8) == 4
    blocks.begin_round()
    assert blocks.reach(blocks.follow("b"), 8) == 8
    assert blocks.get("a") is None
    blocks.check_integrity()
