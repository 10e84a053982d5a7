"""How a draft begins, what it is taught, and what its guesses are worth."""

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.models import tiny
from tests.unit.tools.test_draft_answers import some
from tools.distillation.answers import NUM_TOP, Answer, write_shard
from tools.distillation.exporting import export
from tools.distillation.judging import table
from tools.distillation.learning import Learning, Plan, held_out_agreement, rate_factor, split
from tools.distillation.loss import candidates, divergence
from tools.distillation.rounds import by_copy, by_model, num_right, play
from tools.distillation.student import begin, build, main_directions
from tools.train_draft import main

VOCAB = 160


def teacher() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny("llama", tie_word_embeddings=True, hidden_size=128)).eval()


def student_of(whole: LlamaForCausalLM) -> LlamaForCausalLM:
    torch.manual_seed(0)
    words = whole.get_input_embeddings().weight.detach()
    return begin(whole.config, words, torch.ones(VOCAB), hidden=128, num_layers=2)


def test_a_student_begins_with_the_teachers_words() -> None:
    whole = teacher()
    theirs = whole.get_input_embeddings().weight
    ours = student_of(whole).get_input_embeddings().weight
    assert torch.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-4)  # turned, and as wide: nothing is lost


@torch.no_grad()
def test_a_student_begins_undecided() -> None:
    student = student_of(teacher())
    logits = student(torch.arange(VOCAB)[None]).logits
    assert logits.abs().max() < 6
    assert logits.std() < 1


def test_the_main_directions_are_those_of_the_words_that_occur() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(VOCAB, 12)
    embedding[:80, 5:] = 0  # half of the words lie in five dimensions
    counts = torch.zeros(VOCAB)
    counts[:80] = 1e6
    basis = main_directions(embedding, counts, 5)
    assert torch.allclose(basis.T @ basis, torch.eye(5), atol=1e-5)
    assert torch.allclose(embedding[:80] @ basis @ basis.T, embedding[:80], atol=1e-3)


def test_over_the_whole_vocabulary_the_divergence_is_that_of_kullback_and_leibler() -> None:
    torch.manual_seed(0)
    hidden, embedding = torch.randn(6, 16), torch.randn(VOCAB, 16)
    taught = torch.randn(6, VOCAB).log_softmax(-1)
    logprobs, ids = taught.sort(-1, descending=True)
    tokens = candidates(ids, VOCAB, 5, torch.Generator())
    expected = torch.nn.functional.kl_div(
        (hidden @ embedding.T).log_softmax(-1), taught, log_target=True, reduction="batchmean"
    )
    assert torch.allclose(divergence(hidden, embedding, tokens, (ids, logprobs)), expected, atol=1e-4)


def test_sampled_tokens_stand_for_all_others() -> None:
    top = torch.tensor([[3, 5], [5, 9]])
    ids, added = candidates(top, VOCAB, 20, torch.Generator().manual_seed(0))
    assert ids[:3].tolist() == [3, 5, 9]
    assert len(set(ids.tolist())) == 23
    assert added[:3].tolist() == [0, 0, 0]
    assert torch.allclose(added[3:], torch.tensor(math.log(157 / 20)))


def test_what_the_top_tokens_leave_is_compared_as_one() -> None:
    """A student that puts the rest elsewhere than the teacher, but as much of it, has learnt all there is."""
    embedding = torch.eye(8)
    hidden = torch.log(torch.tensor([[0.5, 0.3, 0.1, 0.05, 0.02, 0.01, 0.01, 0.01]]))
    ids = torch.tensor([[0, 1]])
    taught = torch.log(torch.tensor([[0.5, 0.3]]))
    loss = divergence(hidden, embedding, candidates(ids, 8, 8, torch.Generator()), (ids, taught))
    assert abs(loss.item()) < 1e-5


def lessons(folder: Path, model: LlamaForCausalLM) -> None:
    """Answers whose every next token the teacher would give."""
    answers = []
    for seed in range(64):
        ids = torch.randint(0, VOCAB, (1, 3), generator=torch.Generator().manual_seed(seed))
        ids = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        with torch.no_grad():
            values, top = model(ids).logits[0, 2:-1].log_softmax(-1).topk(NUM_TOP)
        answers.append(Answer(token_ids=ids[0].numpy(), num_prompt=3, top_ids=top.numpy(), top_logprobs=values.numpy()))
    folder.mkdir()
    write_shard(folder, 0, answers)


@pytest.mark.slow
def test_learning_comes_nearer_to_the_teacher_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole = teacher()
    lessons(tmp_path / "answers", whole)
    first = Learning(student_of(whole), Plan(steps=12, tokens=256), tmp_path)
    first.run()
    again = Learning(build(whole.config, hidden=128, num_layers=2), Plan(steps=40, tokens=256), tmp_path)
    assert again.step == 12
    for ours, theirs in zip(again.student.parameters(), first.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    again.run()
    assert [entry["step"] for entry in again.log] == [12, 40]
    assert again.log[1]["divergence"] < 0.95 * again.log[0]["divergence"]


def test_answers_held_out_are_not_learnt_from(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [some(2, 3, seed) for seed in range(70)])
    learnt, held_out = split(tmp_path)
    assert (len(learnt), len(held_out)) == (68, 2)
    assert not {tuple(a.token_ids) for a in learnt} & {tuple(a.token_ids) for a in held_out}


def test_too_few_answers_are_refused_with_their_number(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [some(2, 3)])
    with pytest.raises(SystemExit, match="has 1 answers, too few"):
        split(tmp_path)


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    factors = [rate_factor(share) for share in (0.0, 0.01, 0.02, 0.5, 0.75, 1.0)]
    assert factors == [0.05, 0.5, 1.0, 1.0, 0.5, 0.0]


def test_rounds_write_what_is_right_and_one_token_more() -> None:
    answer = [9, 1, 2, 3, 4, 5, 6, 7]
    tally = play([(answer, by_model([0, 1, 2, 0, 4, 5, 6, 7]))], depth=2)
    # After 9: drafts 1 2, both right, and 3 comes with them; then 4 5, and 6; then 7 needs no draft.
    assert dict(tally.rounds) == {2: 2, 0: 1}
    assert tally.num_tokens == 7
    assert (tally.acceptance(0), tally.acceptance(1)) == (1.0, 1.0)
    assert tally.time_ms({1: 10, 3: 12}, draft_ms=1) == 2 * (12 + 2) + 10


def test_a_wrong_token_ends_a_draft() -> None:
    tally = play([([9, 1, 2, 3], by_model([0, 1, 0, 3]))], depth=3)
    assert dict(tally.rounds) == {2: 1, 0: 1}
    assert dict(tally.accepted) == {0: 1}
    assert num_right([1, 2, 3], [1, 2]) == 2


def test_a_copy_is_found_in_prompt_and_answer() -> None:
    prompt, answer = [1, 2, 3, 4, 5], [1, 2, 3, 4, 8]
    tally = play([(answer, by_copy(prompt, answer))], depth=4)
    # 1 is a single token: nothing agrees. After 1 2 the prompt has 3 4 5, of which 3 4 are right.
    assert dict(tally.rounds) == {0: 1, 2: 1}
    assert tally.num_tokens == 4


def test_the_teacher_agrees_with_its_own_answers(tmp_path: Path) -> None:
    whole = teacher()
    lessons(tmp_path / "answers", whole)
    assert held_out_agreement(whole, split(tmp_path / "answers")[1], Plan(steps=0)) > 0.9  # but for bfloat16


def test_a_draft_that_is_always_right_writes_as_many_tokens_a_step_as_fit_in_it(tmp_path: Path) -> None:
    whole = teacher()
    lessons(tmp_path / "answers", whole)
    answers = split(tmp_path / "answers")[1]
    lines = table(whole, answers, dict.fromkeys(range(1, 9), 10.0), draft_ms=0.0).splitlines()
    assert lines[-1].split()[:2] == ["all", str(sum(len(answer.top_ids) for answer in answers))]
    assert "1.00 1.00 1.00 1.00" in lines[-1]
    assert "5, 5.50, 5.50 x" in lines[-1]  # 12 tokens: one with the prompt, then 6 and 5


def test_a_width_that_is_no_number_of_heads_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["train_draft", "learn", "--run", str(tmp_path), "--hidden", "200"])
    with pytest.raises(SystemExit):
        main()


def test_an_export_loads_as_the_student_and_tells_how_it_came_about(tmp_path: Path) -> None:
    whole = teacher()
    student = student_of(whole)
    log = [{"step": 3, "tokens": 2_000_000, "cpu_s": 90.0, "divergence": 2.0, "agreement": 0.25}]
    expected = student.state_dict()["model.norm.weight"].to(torch.bfloat16)
    export(student, log, tiny("llama", tie_word_embeddings=True, hidden_size=128), tmp_path / "small-draft")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "small-draft")
    assert torch.equal(again.model.norm.weight, expected)
    assert "at 25% of the places" in (tmp_path / "small-draft" / "README.md").read_text()
