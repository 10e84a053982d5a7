"""What speculation costs where it brings nothing: tokens a second beside none, with steps in turn.

    python -m bench.speculation_cost                                                        # SmolLM2-135M, copies
    python -m bench.speculation_cost --model demo --layers 64 --draft demo-draft --methods none,draft,auto --plain
    python -m bench.speculation_cost --own-time                     # one thread and its seconds: the machine is shared
    python -m bench.speculation_cost --quick                        # under 2 minutes

A few per cent are less than what a machine's minutes differ by. So all sides read, and then they take turns with every
step, in one process on one runner: what happens to the machine happens to all. Answers are of one length; each round
asks all anew, and what a side has learnt it keeps: in the first one learning is paid.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import torch
import typer

from baton.v1 import worker_pb2
from baton.v1.inference_pb2 import SamplingParams
from bench.engine_baton import outputs_of
from bench.machine import Quick, announce
from bench.padded import padded
from bench.speculation import MAX_MODEL_LEN, TOKEN_S, worker
from bench.speculation_load_side import hold_others
from bench.speculation_prompts import PROMPTS, TEXTS
from cluster.fleet.nodes import resolve_dtype
from cluster.ingress.tokenizer import Tokenizer
from cluster.profiling.specs import available_cores
from workers.engine.engine import Engine, StepReport
from workers.model.registry import resolve_model
from workers.model.runner import TorchRunner
from workers.spec import SpeculationSpec, WorkerSpec
from workers.speculative.choose import choose_speculation

NONE = "none"


class Side:
    """An engine with one way of speculating, and a part of the runner's blocks."""

    def __init__(
        self, spec: WorkerSpec, runner: TorchRunner, *, part: tuple[int, int], clock: Callable[[], float]
    ) -> None:
        self.tokens: dict[str, list[int]] = defaultdict(list)
        self.took_s = 0.0
        self._num_read = 0
        self._clock = clock
        speculation = choose_speculation(spec, runner, clock)
        self.engine = Engine(runner=runner, spec=spec, emit=self._take, clock=clock, speculation=speculation)
        hold_others(self.engine, *part)

    def read(self, prompts: Sequence[Sequence[int]], sampling: SamplingParams) -> None:
        """Until each answer has begun."""
        self.tokens.clear()
        for number, prompt in enumerate(prompts):
            submit = worker_pb2.Submit(
                request_id=str(number), prompt_token_ids=prompt, sampling=sampling, timeout_s=3600
            )
            submit.choices.add(choice=0)
            self.engine.submit("bench", submit)
        while not all(self.tokens[str(number)] for number in range(len(prompts))):
            self.engine.step()
        self._num_read, self.took_s = self._num_written, 0.0

    def step(self) -> bool:
        """Whether there was anything to do."""
        if self.engine.is_idle:
            return False
        began_s = self._clock()
        self.engine.step()
        self.took_s += self._clock() - began_s
        return True

    @property
    def rate(self) -> float:
        """Tokens a second since all was read."""
        return (self._num_written - self._num_read) / self.took_s

    @property
    def _num_written(self) -> int:
        return sum(map(len, self.tokens.values()))

    def _take(self, report: StepReport) -> None:
        for output in outputs_of(report):
            self.tokens[output.request_id] += output.token_ids


def make_sides(
    spec: WorkerSpec, methods: Sequence[str], max_tokens: int, clock: Callable[[], float]
) -> dict[str, Side]:
    """Args: methods: Each a name of `speculation.method`, and after a colon its `tree_width`, if it is not 1."""
    runner = TorchRunner(spec)
    runner.warm_up()
    sides = {}
    for number, name in enumerate(methods):
        method, _, width = name.partition(":")
        way = SpeculationSpec(method=method, max_tokens=max_tokens, tree_width=int(width or 1))
        sides[name] = Side(replace(spec, speculation=way), runner, part=(number, len(methods)), clock=clock)
    return sides


def run_round(sides: dict[str, Side], prompts: Sequence[Sequence[int]], sampling: SamplingParams) -> dict[str, float]:
    """Of each side its rate beside that of none."""
    for side in sides.values():
        side.read(prompts, sampling)
    while sum(side.step() for side in sides.values()):
        pass
    expected, plain = sides[NONE].tokens, sides[NONE].rate
    for name, side in sides.items():
        if side.tokens != expected:
            print(f"OTHER TOKENS of {name}", flush=True)
    return {name: side.rate / plain for name, side in sides.items()}


def main(
    model: Annotated[str, typer.Option("--model")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype")] = "float32",
    concurrency: Annotated[str, typer.Option("--concurrency", help="Comma-separated.")] = "16",
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Of each answer.")] = 128,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="As speculation.max_tokens.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="After the first.")] = 2,
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
    sizes, names = [int(word) for word in concurrency.split(",")], methods.split(",")
    if NONE not in names:
        raise typer.BadParameter(f"{methods}: add none, which the others are held against", param_hint="--methods")
    if quick:
        rounds, tokens, prompts = 1, min(tokens, 40), prompts or ("novel" if plain else "question")
    sets = {
        name: texts for name, texts in (TEXTS if plain else PROMPTS).items() if name in (prompts or name).split(",")
    }
    about_s = len(sets) * len(sizes) * (rounds + 1) * tokens * TOKEN_S * len(names) * (1 if own_time else 0.5)
    announce("bench.speculation_cost", about_s=about_s, dtypes=[resolve_dtype(dtype, "cpu")])
    torch.set_num_threads(1 if own_time else len(available_cores()))
    folder = resolve_model(model)
    tokenizer = Tokenizer(str(folder))
    spec = worker(padded(folder, layers) if layers else folder, dtype, draft)
    sides = make_sides(spec, names, max_tokens, time.thread_time if own_time else time.perf_counter)
    sampling = SamplingParams(max_tokens=tokens, temperature=temperature, seed=1, ignore_eos=True)
    for name, texts in sets.items():
        if not plain:
            texts = [tokenizer.render_chat([{"role": "user", "content": text}]) for text in texts]
        ids = [tokenizer.encode(text, add_special_tokens=plain)[: MAX_MODEL_LEN - tokens - 1] for text in texts]
        for size in sizes:
            chosen = [ids[index % len(ids)] for index in range(size)]
            found = [run_round(sides, chosen, sampling) for _ in range(rounds + 1)]
            cells = [
                f"{side} " + " ".join(f"{one[side]:.3f}" for one in found) + " x" for side in names if side != NONE
            ]
            print(f"{name:16} {size:3} at once, round by round: {'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
