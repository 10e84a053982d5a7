"""Trains a small draft model from the answers of a bigger one, whose vocabulary it has.

    python -m tools.train_draft write  --run RUN --books BOOKS --minutes 60      # any number at once, with --seed each
    python -m tools.train_draft learn  --run RUN --steps 3000                    # while answers are written, or after
    python -m tools.train_draft ask    --run RUN --questions question.jsonl test.jsonl HumanEval.jsonl.gz
    python -m tools.train_draft judge  --run RUN
    python -m tools.train_draft export --run RUN --out FOLDER

`write` has the teacher (`--model`) answer prompts without end, and keeps its likeliest tokens at each place. `learn`
begins with the teacher's embedding, cut (`tools.distillation.student`), and brings its distribution near the
teacher's; it checkpoints into RUN once a minute and goes on from there, with other `--steps` too: the learning rate
follows the share of the steps that is done. `ask` has the teacher answer benchmarks' questions, which nothing learns
from, and `judge` tells acceptance on them by category, and what it comes to by the times of steps on this machine.

On one core of an Intel Xeon (Sapphire Rapids), with `smollm2`, `write` writes some 370 tokens of answers a processor
second and `learn` learns from some 1,400. A draft that pays needs many millions of tokens, so give it a GPU:
`--device cuda` with `write`, `learn` and `ask`, and more at once (`--concurrency 512 --memory-gib 32 --tokens 32768`).
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.models.find import find_model
from tools.distillation.answers import read_shard, shards, write_shard
from tools.distillation.exporting import export
from tools.distillation.judging import DEPTHS, answer_all, table, times_line
from tools.distillation.learning import Learning, Plan, split, token_counts
from tools.distillation.prompts import Prompts
from tools.distillation.questions import read_questions
from tools.distillation.step_times import start_runner, step_ms
from tools.distillation.student import HEAD_DIM, begin, build
from tools.distillation.teacher import Teacher
from tools.distillation.writing import Chat, Writer, write_answers
from tools.train_demo import read_books

QUESTION_TOKENS = 1500
SEEDS_OF_A_WRITER, SEEDS_OF_A_SHARD = 1 << 40, 1 << 16


def teacher_of(args: argparse.Namespace, seed: int) -> Teacher:
    return Teacher(
        find_model(args.model),
        device=args.device,
        dtype=args.dtype,
        max_sequences=args.concurrency,
        memory_bytes=args.memory_gib << 30,
        seed=seed,
    )


def write(args: argparse.Namespace) -> None:
    ends_s = time.monotonic() + args.minutes * 60
    books = read_books(args.books) if args.books else []
    num_before = len(list((args.run / "answers").glob(f"answers-{args.seed:03}-*")))
    seed = args.seed * SEEDS_OF_A_WRITER + num_before * SEEDS_OF_A_SHARD  # one that goes on asks something else
    prompts = Prompts(books, seed=seed)
    writer = Writer(
        teacher_of(args, seed),
        Chat(find_model(args.model)),
        prompts,
        concurrency=args.concurrency,
        max_tokens=args.answer_tokens,
    )
    write_answers(writer.answers(), args.run / "answers", args.seed, lambda _: time.monotonic() > ends_s)


def learn(args: argparse.Namespace) -> None:
    teacher = LlamaForCausalLM.from_pretrained(find_model(args.model), dtype=torch.float32)
    config, embedding = teacher.config, teacher.get_input_embeddings().weight.detach()
    del teacher
    if (args.run / "student.pt").exists():
        student = build(config, hidden=args.hidden, num_layers=args.layers)
    else:
        counts = token_counts(split(args.run / "answers")[0], config.vocab_size)
        student = begin(config, embedding, counts, hidden=args.hidden, num_layers=args.layers)
    plan = Plan(steps=args.steps, tokens=args.tokens, device=args.device)
    Learning(student, plan, args.run).run()


def ask(args: argparse.Namespace) -> None:
    chat = Chat(find_model(args.model))
    questions = read_questions(args.questions, args.each)
    prompts = {kind: [chat.ask(text, QUESTION_TOKENS) for text in texts] for kind, texts in questions.items()}
    folder = args.run / "questions"
    folder.mkdir(exist_ok=True)
    write_shard(folder, args.seed, list(answer_all(teacher_of(args, 0), prompts, args.answer_tokens)))


def judge(args: argparse.Namespace) -> None:
    answers = [answer for path in shards(args.run / "questions") for answer in read_shard(path)]
    folder = args.run / "exported"
    export_to(args, folder)
    target = start_runner(find_model(args.model), dtype=args.dtype, device=args.device)
    times = {n: step_ms(target, n) for n in range(1, max(DEPTHS) + 2)}
    del target
    draft_ms = step_ms(start_runner(folder, dtype=args.dtype, device=args.device), 1)
    print(times_line(times, draft_ms), flush=True)
    student = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    print(table(student, answers, times, draft_ms))


def export_to(args: argparse.Namespace, out: Path) -> None:
    folder, path = find_model(args.model), args.run / "student.pt"
    state = torch.load(path, weights_only=True, map_location="cpu")
    teacher = LlamaConfig.from_pretrained(folder)
    num_layers = sum(name.endswith("input_layernorm.weight") for name in state["model"])
    student = build(teacher, hidden=state["model"]["model.norm.weight"].shape[0], num_layers=num_layers)
    student.load_state_dict(state["model"])
    export(student, state["log"], folder, out)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    needs = {"ask": ("questions",), "export": ("out",)}
    for name in needs.get(args.stage, ()):
        if not getattr(args, name):
            parser.error(f"{args.stage} needs --{name}")
    if args.hidden % (2 * HEAD_DIM):
        parser.error(f"--hidden {args.hidden}: give a multiple of {2 * HEAD_DIM}, two heads of the student")


def main() -> None:
    stages = {
        "write": write,
        "learn": learn,
        "ask": ask,
        "judge": judge,
        "export": lambda args: export_to(args, args.out),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(stages))
    parser.add_argument("--model", default="smollm2", help="the teacher: Llama-shaped")
    parser.add_argument("--run", type=Path, required=True, help="folder of answers and checkpoints")
    parser.add_argument("--books", type=Path, help="folder of .md or .txt files to ask about")
    parser.add_argument("--questions", type=Path, nargs="+", help="JSON lines of benchmarks")
    parser.add_argument("--each", type=int, default=8, help="questions of a category, at most")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=4096, help="of a step")
    parser.add_argument("--minutes", type=float, default=60, help="to write for")
    parser.add_argument("--answer-tokens", type=int, default=160)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--memory-gib", type=int, default=2, help="of the teacher's KV")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts; different for each writer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", help="that the teacher writes in, and that judge measures")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    check(parser, args)
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    stages[args.stage](args)


if __name__ == "__main__":
    main()
