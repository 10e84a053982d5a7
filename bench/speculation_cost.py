"""What speculation costs where it brings nothing: tokens a second beside none, in turns of a few steps.

    python -m bench.speculation_cost                                                        # SmolLM2-135M, copies
    python -m bench.speculation_cost --model demo --layers 64 --draft demo-draft --methods none,draft,auto --plain
    python -m bench.speculation_cost --own-time                     # one thread and its seconds: the machine is shared
    python -m bench.speculation_cost --quick                        # under 2 minutes

A few per cent are less than what a machine's minutes differ by. So sides take turns of a few steps, in one process on a
runner: what happens to the machine happens to all. So many answers always run: where one ends, the next begins,
with its prompt in the prefix cache. A fixed number of answers may tell something else: those that drafts serve well end
sooner, and the others go on in a smaller batch, where steps make fewer tokens. What a side has learnt it keeps from
round to round: in the first one learning is paid. Where a side's KV lies in memory alone makes its steps some per cent
faster or slower, so the places go round: the mean is of the rounds after the first, of as many as there are methods.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
import typer

from bench.machine import Quick, announce
from bench.padded import padded
from bench.speculation import MAX_MODEL_LEN, TOKEN_S, methods_of, way_of, worker
from bench.speculation_load import SIDE_MEMORY, Texts
from bench.speculation_load_side import Side, Slice, joined
from bench.speculation_prompts import PROMPTS, TEXTS
from cluster.fleet.nodes import resolve_dtype
from cluster.ingress.tokenizer import Tokenizer
from cluster.profiling.specs import available_cores
from workers.model.registry import resolve_model
from workers.model.runner import TorchRunner
from workers.spec import WorkerSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.methods import NONE

TURN_STEPS = 4  # without drafts
Prompts = Sequence[Sequence[int]]


class Sides:
    """One for each way of speculating, which share a runner.

    Args:
        methods: Each as `bench.speculation.way_of` takes it.
        clock: Seconds.
    """

    def __init__(self, spec: WorkerSpec, methods: Sequence[str], max_tokens: int, clock: Callable[[], float]) -> None:
        engine = replace(spec.engine, prefix_cache=True, memory_bytes=SIDE_MEMORY * len(methods))
        self._spec, self._max_tokens, self._clock = replace(spec, engine=engine), max_tokens, clock
        self._runner = TorchRunner(self._spec)
        self._runner.warm_up()
        self._speculations = {name: choose_speculation(self._way(name), self._runner, clock) for name in methods}

    def _way(self, name: str) -> WorkerSpec:
        return way_of(self._spec, name, self._max_tokens)

    def compare(
        self, prompts: Prompts, num_at_once: int, num_tokens: int, num_rounds: int, temperature: float
    ) -> tuple[dict[str, list[float]], str]:
        """Of each side its rate beside that of none, round by round; and whether the texts were equal."""
        texts = Texts()
        ratios: dict[str, list[float]] = {name: [] for name in self._speculations}
        for number in range(num_rounds):
            sides = self._sides(number, prompts, num_tokens, temperature, texts)
            rates = run_round(sides, num_at_once, num_tokens)
            for name, rate in rates.items():
                ratios[name].append(rate / rates[NONE])
        return ratios, texts.told()

    def _sides(
        self, shift: int, prompts: Prompts, num_tokens: int, temperature: float, texts: Texts
    ) -> dict[str, Side]:
        """Each with the place in memory that another one had before."""
        count = len(self._speculations)
        return {
            name: Side(
                self._way(name),
                self._runner,
                speculation,
                prompts=prompts,
                num_tokens=num_tokens,
                part=((number + shift) % count, count),
                answered=texts.add,
                clock=self._clock,
                temperature=temperature,
            )
            for number, (name, speculation) in enumerate(self._speculations.items())
        }


def run_round(sides: dict[str, Side], num_at_once: int, num_tokens: int) -> dict[str, float]:
    """Tokens a second of each side, over about `num_tokens` of each answer."""
    names = list(sides)
    for side in sides.values():  # begins the first answers, which is not timed
        side.read_prompts()
        side.advance(num_at_once, num_at_once)
    slices: dict[str, list[Slice]] = {name: [] for name in names}
    for number in range(num_tokens // TURN_STEPS):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            slices[name].append(sides[name].advance(num_at_once, TURN_STEPS * num_at_once))
    for side in sides.values():
        side.end()
    return {name: joined(turns).rate for name, turns in slices.items()}


def cell(side: str, ratios: Sequence[float]) -> str:
    rounds = " ".join(f"{ratio:.3f}" for ratio in ratios)
    return f"{side} {statistics.geometric_mean(ratios[1:]):.3f} x (round by round {rounds})"


def sorts_of(text: str, known: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """All where `text` is empty. Raises: typer.BadParameter: an unknown one."""
    names = [word.strip() for word in text.split(",") if word.strip()] or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}", param_hint="--prompts")
    return {name: known[name] for name in names}


def main(
    model: Annotated[str, typer.Option("--model")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype")] = "float32",
    concurrency: Annotated[str, typer.Option("--concurrency", help="Comma-separated.")] = "16",
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Of each answer.")] = 128,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="As speculation.max_tokens.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", help="After the first; 0: as many as methods.")] = 0,
    methods: Annotated[
        str, typer.Option("--methods", help="Comma-separated, none among them; :4 for trees of width 4.")
    ] = "none,ngram,ngram:4",
    prompts: Annotated[str, typer.Option("--prompts", help="Sorts, comma-separated; empty: all.")] = "",
    draft: Annotated[str, typer.Option("--draft", help="The draft model of methods draft and auto.")] = "",
    layers: Annotated[int, typer.Option("--layers", help="Of the target, with silent ones; 0: its own.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Texts are gone on with, not answered in a chat.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", min=0)] = 0.0,
    own_time: Annotated[bool, typer.Option("--own-time", help="One thread, its seconds.")] = False,
    quick: Quick = False,
) -> None:
    """What speculation costs."""
    sizes, names = [int(word) for word in concurrency.split(",")], methods_of(methods)
    rounds = rounds or len(names)
    if quick:
        rounds, tokens, prompts = 1, min(tokens, 40), prompts or ("novel" if plain else "question")
    sets = sorts_of(prompts, TEXTS if plain else PROMPTS)
    about_s = len(sets) * len(sizes) * (rounds + 1) * tokens * TOKEN_S * len(names) * (1 if own_time else 0.5)
    announce("bench.speculation_cost", about_s=about_s, dtypes=[resolve_dtype(dtype, "cpu")])
    torch.set_num_threads(1 if own_time else len(available_cores()))
    folder = resolve_model(model)
    tokenizer = Tokenizer(str(folder))
    spec = worker(padded(folder, layers) if layers else folder, dtype, draft)
    sides = Sides(spec, names, max_tokens, time.thread_time if own_time else time.perf_counter)
    for name, texts in sets.items():
        if not plain:
            texts = [tokenizer.render_chat([{"role": "user", "content": text}]) for text in texts]
        ids = [tokenizer.encode(text, add_special_tokens=plain)[: MAX_MODEL_LEN - tokens - 1] for text in texts]
        for size in sizes:
            chosen = [ids[index % len(ids)] for index in range(size)]
            ratios, told = sides.compare(chosen, size, tokens, rounds + 1, temperature)
            cells = [cell(side, ratios[side]) for side in names if side != NONE]
            print(f"{name:16} {size:3} at once: {'   '.join(cells)}   {told}", flush=True)


if __name__ == "__main__":
    typer.run(main)
