"""Trees without a draft model: several earlier places that agree, and what the model last found likely."""

from dataclasses import replace

import numpy as np

from tests.unit.engine.driver import Driver, make_spec
from tests.unit.speculative.test_ngram import sequence
from workers.engine.draft import Draft
from workers.model import trees
from workers.model.fake import VOCAB_SIZE, FakeRunner
from workers.spec import Role, SpeculationSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.ngram import NgramDrafter
from workers.speculative.recycling import FIRST_KIND, MAX_BYTES, MOST_AT_ONCE, RecyclingDrafter, Successors


def paths(draft: Draft) -> set[tuple[int, ...]]:
    """Of its leaves."""
    leaves = set(range(len(draft.token_ids))) - set(draft.links)
    return {tuple(draft.token_ids[at] for at in trees.path_to(draft.links, leaf)) for leaf in leaves}


def successors(table: dict[int, list[int]], vocab_size: int = 100) -> Successors:
    found = Successors(vocab_size)
    padded = [row + [90 + at for at in range(found.num_successors - len(row))] for row in table.values()]
    found.saw(list(table), np.array(padded))
    return found


def test_places_that_agree_give_branches_the_longest_agreement_first() -> None:
    text = [1, 2, 3, 50, 2, 3, 60, 9, 1, 2, 3]
    (draft,) = NgramDrafter(4).propose([sequence(text, [])], 2)
    assert paths(draft) == {(50, 2), (60, 9)}
    assert list(draft.token_ids[:2]) == [50, 2]
    first, _, other, _ = draft.kinds
    assert first < NgramDrafter.num_classes // 2 <= other, "a token that leaves a way is of another class"
    (single,) = NgramDrafter().propose([sequence(text, [])], 2)
    assert (list(single.token_ids), list(single.parents)) == ([50, 2], [])
    (narrow,) = NgramDrafter(2).propose([sequence([2, 3, 4, 2, 3, 5, 2, 3, 6, 2, 3], [])], 1)
    assert len(narrow.token_ids) == 2


def recycled(table: dict[int, list[int]], *, width: int, depth: int, text: list[int], num_seqs: int = 1) -> list[Draft]:
    drafter = RecyclingDrafter(NgramDrafter(width), successors(table), width=width)
    return drafter.propose([sequence(text[:-1], text[-1:], str(at)) for at in range(num_seqs)], depth)


def test_a_tree_grows_from_what_was_likely_after_each_token() -> None:
    (draft,) = recycled({7: [8, 9], 8: [5, 6], 9: [4]}, width=2, depth=2, text=[1, 7])
    assert paths(draft) == {(8, 5), (8, 6), (9,)}  # four tokens at most: the likeliest
    kinds = dict(zip(draft.token_ids, draft.kinds, strict=True))
    assert kinds[8] == kinds[5] == FIRST_KIND
    assert kinds[9] == kinds[6] == FIRST_KIND + 1
    (nothing,) = recycled({7: [8, 9]}, width=2, depth=2, text=[7, 1])
    assert not nothing.token_ids


def test_what_was_copied_comes_first_and_recycled_tokens_branch_off_it() -> None:
    (draft,) = recycled({2: [9, 3], 3: [4, 8]}, width=3, depth=3, text=[1, 2, 3, 4, 5, 1, 2])
    assert list(draft.token_ids[:3]) == [3, 4, 5]
    beginnings = {path[:length] for path in paths(draft) for length in range(1, 4)}
    assert {(3, 4, 5), (9,), (3, 8)} <= beginnings
    assert len(draft.token_ids) == 7, "nothing is known of what follows 4, 8, 9 and 5"
    assert max(draft.depths) == 3


def test_a_batch_shares_what_is_proposed_in_a_step() -> None:
    table = {token: [(token * 3 + at) % 100 for at in range(8)] for token in range(100)}
    for num_seqs in (1, 40, 300):
        drafts = recycled(table, width=8, depth=4, text=[1, 7], num_seqs=num_seqs)
        sizes = {len(draft.token_ids) for draft in drafts}
        assert sizes == {min(32, -(-MOST_AT_ONCE // num_seqs))}


def test_the_matrix_is_bounded_and_keeps_the_latest() -> None:
    assert Successors(49_152).nbytes < 2_000_000
    huge = Successors(1 << 30)
    assert huge.nbytes <= MAX_BYTES
    huge.saw([1 << 29, 3, 3], np.arange(3 * 8).reshape(3, 8))
    assert huge.of(1 << 29) == []
    assert huge.of(3) == list(range(16, 24))
    assert Successors(4).num_successors == 4


def test_a_worker_with_width_learns_from_its_steps_and_writes_the_same() -> None:
    spec = make_spec(Role.MIXED, max_batched_tokens=64, max_model_len=400)
    answers = []
    for width in (1, 4, 16):
        runner = FakeRunner(spec)
        speculation = choose_speculation(replace(spec, speculation=SpeculationSpec(tree_width=width)), runner)
        assert speculation is not None
        assert (speculation.watch is None) == (width == 1)
        speculation._goodput = None  # the clock here stands still while a step runs
        driver = Driver([spec], lambda _, runner=runner: runner)  # type: ignore[misc]
        driver.engines[0]._speculation = speculation
        driver.submit("r", [5, 6, 7, 8], max_tokens=300)
        driver.run()
        answers.append(driver.answer("r"))
        assert (driver.engines[0].stats.num_draft_tokens > 0) == (width > 1)
    assert answers[0] == answers[1] == answers[2]
    assert all(0 <= token < VOCAB_SIZE for token in answers[0])
