"""SmartSpec's claim: whatever the load, choosing how much to verify does no worse than the best fixed number of drafts.

    python -m bench.speculation_load --dtype float32 --plot docs/speculation_load.png
    python -m bench.speculation_load --model demo --plain
    python -m bench.speculation_load --own-time                     # one thread and its seconds: the machine is shared
    python -m bench.speculation_load --quick                        # under 2 minutes

The load rises from 1 answer at once to 64 and falls again; where one ends the next prompt begins, of unlike sorts in
turn. `auto` (goodput chooses) stands beside always 0, 2, 4 and 8 tokens of the same n-gram drafts. All sides write the
same: a stage lasts until so many tokens are written, not seconds, or a faster side would be at other prompts and
compared on other texts. They take short turns, in one process on one runner, in an order that moves on, so that all
meet the same machine; each has blocks of its own, and prompts in its prefix cache: decode is timed. `auto` knows
nothing at first; what it learns, it learns on the clock. Greedy; each answer is compared with all others to the same
prompt.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.machine import Quick, announce, processor
from bench.speculation import worker
from bench.speculation_load_plot import NUM_PLACES, draw
from bench.speculation_load_side import Side, Slice, joined
from bench.speculation_prompts import PROMPTS, TEXTS
from cluster.fleet.nodes import resolve_dtype
from cluster.ingress.tokenizer import Tokenizer
from cluster.profiling.specs import available_cores
from workers.model.registry import resolve_model
from workers.model.runner import TorchRunner
from workers.spec import WorkerSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.ngram import NgramDrafter
from workers.speculative.speculation import DraftedSpeculation

FIXED = (0, 2, 4, 8)
AUTO = "auto"
MAX_PEAK = 64
SIDE_MEMORY = 512 << 20  # of KV: 64 answers of SmolLM2-135M in float32, of 90 tokens each beside the prompts
TOKEN_S = 0.0045  # of one side, mean of all stages up to 64 at once, on two cores
Slices = dict[str, list[Slice]]  # by side, in order of time


@dataclass(slots=True)
class Texts:
    """Whether all answers to a prompt agree, as far as they go."""

    longest: dict[int, Sequence[int]] = field(default_factory=dict)
    num_answers: int = 0
    num_other: int = 0

    def add(self, sort: int, token_ids: Sequence[int]) -> None:
        known = self.longest.get(sort, ())
        least = min(len(known), len(token_ids))
        self.num_answers += 1
        self.num_other += list(known[:least]) != list(token_ids[:least])
        if len(token_ids) > len(known):
            self.longest[sort] = list(token_ids)

    def told(self) -> str:
        if not self.num_other:
            return f"texts of all sides are equal ({self.num_answers} answers)"
        return f"OTHER TOKENS in {self.num_other} of {self.num_answers} answers"


def make_sides(
    spec: WorkerSpec,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    *,
    max_tokens: int,
    loads: Sequence[int],
    texts: Texts,
    clock: Callable[[], float],
) -> dict[str, Side]:
    """
    Args:
        num_tokens: Of each answer.
        max_tokens: As speculation.max_tokens, of auto.
        loads: What steps are to be warmed up for.
    """
    names = {AUTO: None, **{f"k={fixed}": fixed for fixed in FIXED}}
    engine = replace(spec.engine, prefix_cache=True, memory_bytes=SIDE_MEMORY * len(names))
    spec = replace(spec, engine=engine, speculation=replace(spec.speculation, method=AUTO, max_tokens=max_tokens))
    runner = TorchRunner(spec)
    runner.warm_up()

    def side(speculation: DraftedSpeculation | None, number: int) -> Side:
        return Side(
            spec,
            runner,
            speculation,
            prompts=prompts,
            num_tokens=num_tokens,
            part=(number, len(names)),
            answered=texts.add,
            clock=clock,
        )

    warm_up(side(always(max(FIXED), runner), 0), sorted(set(loads)))
    return {
        name: side(choose_speculation(spec, runner, clock) if fixed is None else always(fixed, runner), number)
        for number, (name, fixed) in enumerate(names.items())
    }


def warm_up(side: Side, loads: Sequence[int]) -> None:
    """First steps of a size pay for what later ones reuse."""
    side.read_prompts()
    for load in loads:
        side.advance(load, load)
    side.end()


def always(num_drafts: int, runner: TorchRunner) -> DraftedSpeculation | None:
    if not num_drafts:
        return None
    return DraftedSpeculation(
        NgramDrafter(), max_tokens=num_drafts, max_model_len=runner.max_model_len, vocab_size=runner.vocab_size
    )


def loads_up_to(peak: int) -> list[int]:
    """1, 2, 4, ..., peak, ..., 2, 1."""
    rising = [1 << power for power in range(peak.bit_length()) if 1 << power < peak]
    return [*rising, peak, *reversed(rising)]


def run_stage(sides: dict[str, Side], num_at_once: int, num_tokens: int, rounds: int, first: int) -> Slices:
    """Args: first: Number of the side that begins; in the next round it is the one after."""
    slices: Slices = defaultdict(list)
    names = list(sides)
    for number in range(rounds):
        shift = (first + number) % len(names)
        for name in [*names[shift:], *names[:shift]]:
            slices[name].append(sides[name].advance(num_at_once, -(-num_tokens // rounds)))
    return {name: slices[name] for name in names}


def ratio(rates: dict[str, float]) -> float:
    """Of auto to the best fixed number."""
    return rates[AUTO] / max(rate for name, rate in rates.items() if name != AUTO)


def row(num_at_once: int, slices: Slices) -> tuple[str, float]:
    """A stage's line, and its ratio."""
    whole = {name: joined(turns) for name, turns in slices.items()}
    rates = {name: one.rate for name, one in whole.items()}
    auto = whole[AUTO]
    shares = [auto.share_right(place) for place in range(NUM_PLACES)]
    told = " ".join(" -  " if share is None else f"{share:.2f}" for share in shares)
    cells = " ".join(f"{rate:7.1f}" for rate in rates.values())
    return f"{num_at_once:7} {cells} {ratio(rates):9.2f} {auto.drafts_per_decode:13.2f}   {told}", ratio(rates)


def climb(sides: dict[str, Side], loads: Sequence[int], num_tokens: Sequence[int], rounds: int) -> Slices:
    """Runs and prints all stages, or those that are done when it is interrupted.

    Args:
        num_tokens: Of each stage.
    """
    print("tokens/s; of auto also its ratio to the best fixed k, drafts per decode, and shares right by place")
    print(f"at once {' '.join(f'{name:>7}' for name in sides)} auto/best drafts/decode   1st  2nd  3rd")
    slices: Slices = {name: [] for name in sides}
    ratios: list[float] = []
    for number, (load, wanted) in enumerate(zip(loads, num_tokens, strict=True)):
        try:
            stage = run_stage(sides, load, wanted, rounds, first=number)
        except KeyboardInterrupt:
            if not ratios:
                raise
            print(f"interrupted at {load} at once; answers that ran are not compared")
            break
        line, of_stage = row(load, stage)
        print(line, flush=True)
        ratios.append(of_stage)
        for name, turns in stage.items():
            slices[name] += turns
    else:
        for side in sides.values():
            side.end()
    worst = min(range(len(ratios)), key=ratios.__getitem__)
    whole = {name: joined(turns).rate for name, turns in slices.items()}
    print(f"in all  {' '.join(f'{rate:7.1f}' for rate in whole.values())} {ratio(whole):9.2f}")
    print(f"worst auto/best: {ratios[worst]:.2f}, stage {worst + 1} of {len(loads)}, {loads[worst]} at once")
    return slices


def main(
    model: Annotated[str, typer.Option("--model")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype", help="In others than float32 a batch's size may round texts.")] = (
        "float32"
    ),
    peak: Annotated[int, typer.Option("--peak", min=1, max=MAX_PEAK, help="Answers at once, at most.")] = MAX_PEAK,
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Of each answer.")] = 48,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="As speculation.max_tokens, of auto.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each side in a stage.")] = 4,
    own_time: Annotated[
        bool, typer.Option("--own-time", help="One thread, and seconds that it ran: on a machine that others use too.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Texts are gone on with, not answered in a chat.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="A picture, as PNG.")] = None,
    quick: Quick = False,
) -> None:
    """What choosing brings, while the load changes."""
    if quick:
        peak, tokens, rounds = min(peak, 16), min(tokens, 24), min(rounds, 2)
    texts_by_sort = TEXTS if plain else PROMPTS
    asked = [text for texts in texts_by_sort.values() for text in texts]
    loads = loads_up_to(peak)
    num_tokens = [tokens * max(load, len(asked)) for load in loads]  # of a stage: each sort of answer once, at least
    dtype = resolve_dtype(dtype, "cpu")
    announce("bench.speculation_load", about_s=sum(num_tokens) * TOKEN_S * (1 + len(FIXED)), dtypes=[dtype])
    num_threads = 1 if own_time else len(available_cores())
    clock = time.thread_time if own_time else time.perf_counter
    torch.set_num_threads(num_threads)
    folder = resolve_model(model)
    tokenizer = Tokenizer(str(folder))
    chats = asked if plain else [tokenizer.render_chat([{"role": "user", "content": text}]) for text in asked]
    prompts = [tokenizer.encode(chat, add_special_tokens=plain) for chat in chats]
    texts = Texts()
    sides = make_sides(
        worker(folder, dtype, ""), prompts, tokens, max_tokens=max_tokens, loads=loads, texts=texts, clock=clock
    )
    for side in sides.values():
        side.read_prompts()
    slices = climb(sides, loads, num_tokens, rounds)
    print(texts.told())
    if plot is not None:
        title = f"{model} in {dtype}, greedy, on {processor().partition(' +')[0]}, {num_threads} threads"
        draw(slices, [load for load in loads for _ in range(rounds)][: len(slices[AUTO])], title, plot)


if __name__ == "__main__":
    typer.run(main)
