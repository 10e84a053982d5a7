"""What a draft learns from: prompts, the teacher's answers, and their way to disk and into batches."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.models import tiny
from tools.distillation.answers import NUM_TOP, Answer, read_shard, shards, write_shard
from tools.distillation.batches import batches, collate
from tools.distillation.prompts import OWN, Prompts
from tools.distillation.questions import read_questions
from tools.distillation.teacher import Teacher


def some(num_prompt: int, num_answer: int, seed: int = 0, kind: str = "") -> Answer:
    rng = np.random.default_rng(seed)
    logprobs = -np.sort(rng.uniform(0.1, 9, (num_answer, NUM_TOP)))
    return Answer(
        token_ids=rng.integers(0, 49152, num_prompt + num_answer),
        num_prompt=num_prompt,
        top_ids=rng.integers(0, 49152, (num_answer, NUM_TOP)),
        top_logprobs=logprobs.astype(np.float32),
        kind=kind,
    )


def test_the_same_seed_and_books_give_the_same_prompts() -> None:
    books = ["One thing. Another thing. A third thing that is longer. The end. " * 40]
    first, second = Prompts(books, seed=4), Prompts(books, seed=4)
    drawn = [first.draw() for _ in range(200)]
    assert drawn == [second.draw() for _ in range(200)]
    assert OWN in drawn
    assert any("Another thing" in prompt for prompt in drawn)
    assert not any("{" in prompt for prompt in drawn)


def test_without_books_nothing_is_asked_about_passages() -> None:
    prompts = Prompts([], seed=1)
    assert not any("text" in prompt and ":\n\n" in prompt for prompt in (prompts.draw() for _ in range(200)))


def test_answers_are_read_from_a_shard_as_they_were_written(tmp_path: Path) -> None:
    answers = [some(3, 5, 1, "math"), some(1, 1, 2), some(7, 2, 3)]
    write_shard(tmp_path, 2, answers)
    write_shard(tmp_path, 2, answers[:1])
    assert [path.name for path in shards(tmp_path)] == ["answers-002-00000.npz", "answers-002-00001.npz"]
    for read, written in zip(read_shard(shards(tmp_path)[0]), answers, strict=True):
        assert (read.num_prompt, read.kind) == (written.num_prompt, written.kind)
        assert np.array_equal(read.token_ids, written.token_ids)
        assert np.array_equal(read.top_ids, written.top_ids)
        assert np.allclose(read.top_logprobs, written.top_logprobs, atol=0.01)


def test_a_place_of_a_batch_is_the_token_before_the_answers_own() -> None:
    batch = collate([some(3, 4, 1), some(6, 2, 2)], num_top=5)
    flat = batch.token_ids.flatten()
    assert batch.top_ids.shape == batch.top_logprobs.shape == (6, 5)
    assert torch.equal(flat[batch.places + 1], batch.next_ids)
    assert batch.places.tolist() == [2, 3, 4, 5, 8 + 5, 8 + 6]


def test_a_pass_reads_every_answer_once_within_the_tokens_of_a_step() -> None:
    answers = [some(1 + seed % 7, 1 + seed % 5, seed) for seed in range(50)]
    read = list(batches(answers, 40, np.random.default_rng(0), 3))
    assert all(batch.token_ids.numel() <= 40 for batch in read)
    expected = sorted(token for answer in answers for token in answer.token_ids[answer.num_prompt :].tolist())
    assert sorted(itertools.chain(*(batch.next_ids.tolist() for batch in read))) == expected


def test_the_teacher_writes_its_greedy_answer_and_tells_the_likeliest_tokens() -> None:
    folder = tiny("llama")
    teacher = Teacher(folder, device="cpu", dtype="float32", max_sequences=2, memory_bytes=1 << 20, seed=0)
    prompts = [[5, 9, 23], [7, 7]]
    for prompt in prompts:
        teacher.ask(prompt, kind="story", max_tokens=6, temperature=0.0, with_top=True)
    written = []
    while teacher.num_writing:
        written += [writing.answer() for writing in teacher.step()]
    model = LlamaForCausalLM.from_pretrained(folder)
    assert sorted(len(answer.token_ids) - answer.num_prompt for answer in written) == [6, 6]
    for answer in written:
        with torch.no_grad():
            logprobs = (
                model(torch.from_numpy(answer.token_ids)[None]).logits[0, answer.num_prompt - 1 : -1].log_softmax(-1)
            )
        values, ids = logprobs.topk(NUM_TOP)
        assert np.array_equal(answer.top_ids[:, 0], answer.token_ids[answer.num_prompt :])
        assert np.array_equal(answer.top_ids, ids.numpy())
        assert np.allclose(answer.top_logprobs, values.numpy(), atol=1e-4)


def test_questions_are_read_by_category_and_spread_over_the_file(tmp_path: Path) -> None:
    spec = tmp_path / "question.jsonl"
    spec.write_text("\n".join(json.dumps({"category": "qa", "turns": [str(n), "no"]}) for n in range(10)))
    code = tmp_path / "code" / "HumanEval.jsonl.gz"
    code.parent.mkdir()
    code.write_bytes(gzip.compress(json.dumps({"prompt": "def f():"}).encode()))
    assert read_questions([spec, code], each=2) == {"qa": ["0", "5"], "code": ["Complete this function:\n\ndef f():"]}


def test_a_file_without_questions_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"text": "x"}')
    with pytest.raises(SystemExit, match=r"other\.jsonl: a line has none of turns, question, prompt"):
        read_questions([path], each=2)
