"""Trees of drafts change how many steps an answer takes, never its tokens: the fake checks each block it reads."""

from collections.abc import Iterator
from random import Random

import pytest

from baton.v1 import inference_pb2
from tests.unit.engine.driver import OPEN
from tests.unit.engine.oracle import Oracle
from tests.unit.engine.test_drafts import NUM_OUTPUTS, PROMPTS, Make, answer, answers, ask, mixed, pair
from workers.engine.draft import Draft
from workers.engine.drafting import proposed
from workers.engine.sequence import SamplingParams, Sequence
from workers.model import trees
from workers.model.contract import Sampled, SampleRow
from workers.model.drafts import accept, single_rows
from workers.model.fake import VOCAB_SIZE


@pytest.fixture(autouse=True)
def links_are_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def oracle(known: object, *, width: int, right: float = 0.9) -> Oracle:
    return Oracle(known, vocab_size=VOCAB_SIZE, width=width, right=right)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("make", [mixed, pair])
def test_answers_and_logprobs_are_those_without_drafts(make: Make, temperature: float, width: int) -> None:
    known = answers(2, temperature=temperature)
    plain, driver = make(None), make(oracle(known, width=width))
    for each in (plain, driver):
        ask(each, choices=2, temperature=temperature, logprobs=2)
        each.run()
    for (name, choice), tokens in known.items():
        assert driver.answer(name, choice) == tokens
    assert driver.logprobs == plain.logprobs
    stats = driver.engines[-1].stats
    assert stats.num_draft_tokens > 1.5 * stats.num_accepted_tokens > 0


@pytest.mark.parametrize("make", [mixed, pair])
def test_stop_tokens_min_tokens_and_lengths_end_a_path_as_they_end_a_run(make: Make) -> None:
    whole = answer(PROMPTS["r2"])
    sampling = {"stop_token_ids": [whole[3], whole[9]], "min_tokens": 6}
    expected = answer(PROMPTS["r2"], **sampling)
    driver = make(oracle({(name, 0): whole for name in "ab"}, width=4, right=1.0))
    driver.submit("a", PROMPTS["r2"], max_tokens=NUM_OUTPUTS, **sampling)
    driver.submit("b", PROMPTS["r2"], max_tokens=7)
    driver.run()
    assert driver.answer("a") == expected
    assert driver.answer("b") == whole[:7]


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("make", [mixed, pair])
def test_preempted_sequences_go_on_and_what_does_not_fit_is_counted(make: Make, prefix_cache: bool) -> None:
    known = {(f"{turn}{name}", 0): answer(prompt) for turn in "ab" for name, prompt in PROMPTS.items()}
    driver = make(oracle(known, width=8), memory_bytes=36 * 128, prefix_cache=prefix_cache)  # type: ignore[call-arg]
    for turn in "ab":
        for name, prompt in PROMPTS.items():
            driver.submit(f"{turn}{name}", prompt, max_tokens=NUM_OUTPUTS)
    driver.run()
    engine = driver.engines[-1]
    assert engine.stats.num_preemptions > 0
    assert engine.stats.num_accepted_tokens > 0
    assert engine.load.num_cut_draft_tokens == engine.stats.num_cut_draft_tokens > 0
    lost = {key for key, finals in driver.finals.items() if finals[0].error.retryable}
    assert len(lost) < len(known) / 2
    assert all(driver.answer(*key) == tokens for key, tokens in known.items() if key not in lost)


@pytest.mark.parametrize("room", [1, 2, 7])
def test_a_tree_may_have_more_tokens_than_the_longest_text_has_places(room: int) -> None:
    prompt = PROMPTS["r3"]
    whole = answer(prompt)
    driver = mixed(oracle({("r", 0): whole}, width=8, right=1.0), max_model_len=len(prompt) + room)
    driver.submit("r", prompt, max_tokens=NUM_OUTPUTS)
    driver.run()
    assert driver.answer("r") == whole[:room]
    assert driver.finals["r", 0][0].finish_reason == inference_pb2.FINISH_REASON_LENGTH


def test_what_paths_filled_is_found_in_the_prefix_cache() -> None:
    driver = mixed(oracle(answers(), width=4, right=1.0))
    ask(driver)
    driver.run()
    before = driver.engines[0].stats.num_prefix_hit_tokens
    for name, prompt in PROMPTS.items():
        driver.submit(f"on-{name}", [*prompt, *answer(prompt)[:-1]], max_tokens=1)
    driver.run()
    found = driver.engines[0].stats.num_prefix_hit_tokens - before
    assert found == sum((len(prompt) + NUM_OUTPUTS - 2) // 4 * 4 for prompt in PROMPTS.values())


def test_drafts_are_counted_by_their_depth() -> None:
    class Fixed:
        def propose(self, seqs: list[Sequence], depth: int) -> list[Draft]:
            whole = answer(PROMPTS["r1"])
            following = [whole[len(seq.output_token_ids) :] for seq in seqs]
            return [Draft([1, rest[0], 2], parents=[-1, -1, 1]) if len(rest) > 2 else Draft() for rest in following]

    assert 1 not in answer(PROMPTS["r1"])
    driver = mixed(Fixed())
    driver.submit("r1", PROMPTS["r1"], max_tokens=NUM_OUTPUTS)
    driver.run()
    assert driver.answer("r1") == answer(PROMPTS["r1"])
    stats = driver.engines[0].stats
    assert stats.drafted_by_place[0] == 2 * stats.drafted_by_place[1] == 2 * stats.accepted_by_place[0]


def sequence(max_tokens: int) -> Sequence:
    return Sequence(
        request_id="r",
        choice=0,
        attempt=0,
        ingress_id="i",
        prompt_token_ids=(1, 2, 3),
        output_token_ids=[4],
        params=SamplingParams(max_tokens=max_tokens),
        arrived_s=0.0,
        deadline_s=1.0,
    )


def usable(draft: Draft, max_tokens: int = 20) -> Draft:
    class Fixed:
        def propose(self, seqs: object, depth: int) -> list[Draft]:
            return [draft]

    return proposed(Fixed(), [sequence(max_tokens)], 6, max_model_len=100, vocab_size=10)[0]


def test_of_a_tree_only_what_can_be_of_use_is_kept() -> None:
    #                        0: 5          3: 6   5: 8   (too deep with 4 tokens)
    tree = Draft([5, 10, 7, 6, 7, 8], parents=[-1, -1, 1, 0, 0, 3], kinds=[1, 2, 3, 4, 5, 6])
    assert usable(tree) == Draft([5, 6, 7, 8], parents=[-1, 0, 0, 1], kinds=[1, 4, 5, 6])
    assert usable(tree, max_tokens=4) == Draft([5, 6, 7], parents=[-1, 0, 0], kinds=[1, 4, 5])
    assert usable(tree, max_tokens=3) == Draft([5], kinds=[1])
    assert not usable(tree, max_tokens=2).token_ids
    assert usable(Draft([5, 5, 6], parents=[-1, -1, 1])) == Draft([5])
    wide = Draft([at % 10 for at in range(100)], parents=[-1] * 10 + [at // 10 for at in range(90)])
    assert len(usable(wide).token_ids) == trees.MAX_TOKENS


def test_the_order_of_a_tree_changes_nothing_else() -> None:
    rng = Random(3)
    for _ in range(50):
        size = rng.randint(1, 20)
        tree = Draft(
            list(range(size)), parents=[rng.randint(-1, at - 1) for at in range(size)], kinds=list(range(size))
        )
        deep = tree.deep_first()
        links = {
            token: tree.token_ids[at] if at >= 0 else -1 for token, at in zip(tree.token_ids, tree.links, strict=True)
        }
        again = {
            token: deep.token_ids[at] if at >= 0 else -1 for token, at in zip(deep.token_ids, deep.links, strict=True)
        }
        assert again == links
        assert deep.kinds == list(deep.token_ids)
        leaf = trees.path_to(tree.parents, size - 1)
        assert [deep.token_ids[at] for at in deep.follow([tree.token_ids[at] for at in leaf])] == leaf


def test_a_way_is_accepted_up_to_where_nothing_drafted_follows() -> None:
    row = SampleRow(
        chunk=0,
        choice=0,
        params=SamplingParams(max_tokens=9),
        prompt_token_ids=(1,),
        output_token_ids=[2, 3],
        draft_token_ids=[4, 5, 6, 7],
        parents=[-1, -1, 1, 1],
    )
    assert [one.output_token_ids[2:] for one in single_rows([row])] == [[], [4], [5], [5, 6], [5, 7]]
    for sampled, kept in [
        ([5, 0, 7, 8, 9], [5, 7, 9]),
        ([5, 0, 6, 8, 9], [5, 6, 8]),
        ([4, 5, 6, 7, 8], [4, 5]),
        ([9, 5, 6, 7, 8], [9]),
        ([6, 5, 6, 7, 8], [6]),
    ]:
        (found,) = accept([row], [Sampled(token_id=token) for token in sampled])
        assert [token.token_id for token in found] == kept
