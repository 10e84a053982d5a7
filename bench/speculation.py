"""Tokens a second with each way of speculating beside none, on real prompts, at several concurrencies.

    python -m bench.speculation                                     # a few prompts of each sort
    python -m bench.speculation --prompts question.jsonl            # Spec-Bench's questions, its categories apart
    python -m bench.speculation --model demo --draft demo-draft --methods none,ngram,draft,auto --plain
    python -m bench.speculation --model demo --layers 64 --draft demo-draft --methods none,draft --plain
    python -m bench.speculation --quick                             # under 2 minutes

One engine in this process reads and writes, as a mixed worker does. Methods take turns in each round; figures are
medians of rounds, greedy, and each method's tokens are compared with those of none. Prompts are read before the clock
starts: decode alone is timed. `--layers` makes a target that costs many times its draft, and writes the same (see
`bench.padded`).
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from baton.v1 import worker_pb2
from baton.v1.inference_pb2 import SamplingParams
from bench.engine_baton import outputs_of
from bench.machine import Quick, announce
from bench.padded import padded
from bench.speculation_prompts import PROMPTS, TEXTS
from cluster.fleet.nodes import resolve_dtype
from cluster.ingress.tokenizer import Tokenizer
from cluster.profiling.specs import available_cores
from tools.distillation.questions import read_questions
from workers.engine.engine import Engine, StepReport
from workers.model.registry import resolve_model
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, SpeculationSpec, WorkerSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.methods import AUTO, DRAFT, NGRAM, NONE, SELF

METHODS = "none,ngram,ngram:4"
MAX_MODEL_LEN = 2048
TOKEN_S = 0.07  # of all answers of a run, by two methods, on two cores
Tokens = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Run:
    """
    Attributes:
        tokens: All that was written, by the prompt's number.
        num_timed: Of them, those that came in `took_s`: after all prompts were read.
    """

    tokens: Tokens
    num_timed: int
    took_s: float


class Side:
    """An engine with one way of speculating; all share a runner."""

    def __init__(self, spec: WorkerSpec, runner: TorchRunner) -> None:
        self._tokens: Tokens = defaultdict(list)
        self.engine = Engine(
            runner=runner,
            spec=spec,
            emit=self._take,
            clock=time.perf_counter,
            speculation=choose_speculation(spec, runner),
        )

    def run(self, prompts: Sequence[Sequence[int]], num_tokens: int, temperature: float = 0.0) -> Run:
        self._tokens.clear()
        names = [str(number) for number in range(len(prompts))]
        for name, prompt in zip(names, prompts, strict=True):
            sampling = SamplingParams(max_tokens=num_tokens, temperature=temperature, seed=1)
            submit = worker_pb2.Submit(request_id=name, prompt_token_ids=prompt, sampling=sampling, timeout_s=3600)
            submit.choices.add(choice=0)
            self.engine.submit("bench", submit)
        while not all(self._tokens[name] for name in names):
            self.engine.step()
        num_before, began_s = sum(map(len, self._tokens.values())), time.perf_counter()
        while not self.engine.is_idle:
            self.engine.step()
        took_s = time.perf_counter() - began_s
        return Run(dict(self._tokens), sum(map(len, self._tokens.values())) - num_before, took_s)

    def _take(self, report: StepReport) -> None:
        for output in outputs_of(report):
            self._tokens[output.request_id] += output.token_ids


def methods_of(text: str) -> list[str]:
    """As `make_sides` takes them. Raises: typer.BadParameter: an unknown method, or no width."""
    names = [word.strip() for word in text.split(",") if word.strip()]
    for name in names:
        method, colon, width = name.partition(":")
        if method not in (AUTO, NONE, NGRAM, DRAFT, SELF):
            raise typer.BadParameter(
                f"{method!r} is not one of {AUTO}, {NONE}, {NGRAM}, {DRAFT}, {SELF}", param_hint="--methods"
            )
        if colon and width != "auto" and not (width.isdecimal() and int(width)):
            raise typer.BadParameter(
                f"{name!r}: give a width such as {method}:4 or {method}:auto", param_hint="--methods"
            )
    if NONE not in names:
        raise typer.BadParameter(f"{text!r} lacks {NONE}, beside which the others are shown", param_hint="--methods")
    return names


def way_of(spec: WorkerSpec, name: str, max_tokens: int) -> WorkerSpec:
    """Args: name: Of a `speculation.method`, and after a colon its `tree_width` (also auto), if not 1."""
    method, _, width = name.partition(":")
    tree_width = None if width == "auto" else int(width or 1)
    return replace(spec, speculation=SpeculationSpec(method=method, max_tokens=max_tokens, tree_width=tree_width))


def make_sides(spec: WorkerSpec, methods: Sequence[str], max_tokens: int) -> dict[str, Side]:
    """Args: methods: Each as `way_of` takes it."""
    runner = TorchRunner(spec)
    runner.warm_up()
    return {name: Side(way_of(spec, name, max_tokens), runner) for name in methods}


def worker(folder: Path, dtype: str, draft: str) -> WorkerSpec:
    return WorkerSpec(
        worker_id="bench-0",
        role=Role.MIXED,
        model=str(folder),
        served_name="bench",
        dtype=resolve_dtype(dtype, "cpu"),
        device="cpu",
        engine=EngineSpec(max_model_len=MAX_MODEL_LEN, prefix_cache=False),
        draft_model=str(resolve_model(draft)) if draft else "",
        draft_model_name=draft,
    )


def compare(
    sides: Mapping[str, Side], prompts: Sequence[Sequence[int]], num_tokens: int, rounds: int, temperature: float
) -> str:
    rates: dict[str, list[float]] = defaultdict(list)
    same = dict.fromkeys(sides, True)
    for number in range(rounds + 1):  # the first teaches what steps take
        expected: Tokens = {}
        for method, side in sides.items():
            done = side.run(prompts, num_tokens, temperature)
            expected = expected or done.tokens
            same[method] &= done.tokens == expected
            if number:
                rates[method].append(done.num_timed / done.took_s)
    plain = statistics.median(rates["none"])
    cells = [f"none {plain:7.1f} tok/s"]
    for method in sides:
        if method != "none":
            rate = statistics.median(rates[method])
            note = "" if same[method] else " OTHER TOKENS"
            cells.append(f"{method} {rate:7.1f} ({rate / plain:.2f} x){note}")
    return "   ".join(cells)


def main(
    model: Annotated[str, typer.Option("--model")] = "smollm2",
    prompts: Annotated[str, typer.Option("--prompts", help="Spec-Bench's question.jsonl.")] = "",
    dtype: Annotated[str, typer.Option("--dtype")] = "auto",
    concurrency: Annotated[str, typer.Option("--concurrency", help="Comma-separated.")] = "1,4,16",
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Of each answer.")] = 128,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="As speculation.max_tokens.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 3,
    methods: Annotated[
        str, typer.Option("--methods", help="Comma-separated, none first; :4 for trees of width 4.")
    ] = METHODS,
    draft: Annotated[str, typer.Option("--draft", help="The draft model of methods draft and auto.")] = "",
    layers: Annotated[int, typer.Option("--layers", help="Of the target, with silent ones; 0: its own.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Texts are gone on with, not answered in a chat.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", min=0)] = 0.0,
    quick: Quick = False,
) -> None:
    """What speculation brings."""
    sizes = [int(word) for word in concurrency.split(",")]
    if quick:
        rounds, tokens, sizes = 1, min(tokens, 40), sizes[:: max(len(sizes) - 1, 1)]  # the ends
    sets = read_questions([Path(prompts)], max(sizes)) if prompts else TEXTS if plain else PROMPTS
    names = methods_of(methods)
    about_s = len(sets) * len(sizes) * (rounds + 1) * tokens * TOKEN_S * len(names) / 2
    announce("bench.speculation", about_s=about_s, dtypes=[resolve_dtype(dtype, "cpu")])
    torch.set_num_threads(len(available_cores()))
    folder = resolve_model(model)
    tokenizer = Tokenizer(str(folder))
    sides = make_sides(worker(padded(folder, layers) if layers else folder, dtype, draft), names, max_tokens)
    for name, texts in sets.items():
        if not plain:
            texts = [tokenizer.render_chat([{"role": "user", "content": text}]) for text in texts]
        ids = [tokenizer.encode(text, add_special_tokens=plain)[: MAX_MODEL_LEN - tokens - 1] for text in texts]
        for size in sizes:
            chosen = [ids[index % len(ids)] for index in range(size)]
            print(f"{name:16} {size:3} at once: {compare(sides, chosen, tokens, rounds, temperature)}", flush=True)
    for name, side in sides.items():
        print_acceptance(name, side)


def print_acceptance(method: str, side: Side) -> None:
    stats = side.engine.stats
    if not stats.num_draft_tokens:
        return
    shares = [f"{a / d:.2f}" for a, d in zip(stats.accepted_by_place, stats.drafted_by_place, strict=False) if d]
    print(
        f"{method}: {stats.num_accepted_tokens:,} of {stats.num_draft_tokens:,} drafts right; "
        f"by place {' '.join(shares)}; {stats.drafting_s:.1f} s drafting"
    )


if __name__ == "__main__":
    typer.run(main)
