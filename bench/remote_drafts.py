"""What a draft worker brings: tokens a second with it beside none, its hit rate, and what a hit costs who decodes.

    python -m bench.remote_drafts                    # the demo pair, a core each
    python -m bench.remote_drafts --layers 64        # a target that takes as long as 64 layers do
    python -m bench.remote_drafts --quick            # under 2 minutes

A mixed worker and a draft worker, each a process on a core of its own, behind the router that serves. Ways of
speculating take turns in each round; figures are medians of rounds, greedy, and tokens are compared with those of none.
"no overlap": the draft worker drafts after news alone, never while others verify.
"""

import asyncio
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from baton.v1.inference_pb2 import SamplingParams
from baton.v1.worker_pb2 import WorkerState
from bench.machine import Quick, announce
from bench.padded import padded
from bench.speculation_prompts import PROMPTS
from cluster.ingress.tokenizer import Tokenizer
from cluster.profiling.local_cluster import LocalCluster, local_cluster
from cluster.profiling.specs import available_cores
from workers.model.registry import resolve_model
from workers.spec import EngineSpec, Role, SpeculationSpec, WorkerSpec
from workers.speculative.futures import ROOT, Futures

NO_OVERLAP = "remote, no overlap"
WAYS = ("none", "ngram", "remote", NO_OVERLAP)
MAX_MODEL_LEN = 1024


def specs(model: str, draft: str, way: str, max_tokens: int) -> list[WorkerSpec]:
    """Each on one core."""
    cores = available_cores()
    method = {"none": "none", "ngram": "ngram"}.get(way, "auto")
    shared = {"served_name": "bench", "dtype": "float32", "device": "cpu", "secret": "s3cret"}
    engine = EngineSpec(max_model_len=MAX_MODEL_LEN)
    found = [
        WorkerSpec(
            worker_id=f"mixed-{WAYS.index(way)}",
            role=Role.MIXED,
            model=str(resolve_model(model)),
            engine=engine,
            cores=cores[:1],
            speculation=SpeculationSpec(method=method, max_tokens=max_tokens),
            draft_overlap=way != NO_OVERLAP,
            **shared,  # type: ignore[arg-type]
        )
    ]
    if way.startswith("remote"):
        found.append(
            WorkerSpec(
                worker_id=f"draft-{WAYS.index(way)}",
                role=Role.DRAFT,
                model=str(resolve_model(draft)),
                engine=engine,
                cores=cores[1:2],
                **shared,  # type: ignore[arg-type]
            )
        )
    return found


async def run(cluster: LocalCluster, prompts: Sequence[Sequence[int]], load: "Load") -> tuple[float, list[list[int]]]:
    """Tokens a second from the first token on, and what was written."""
    sampling = SamplingParams(max_tokens=load.num_tokens, temperature=load.temperature, seed=1, n=1, ignore_eos=True)
    answers = await asyncio.gather(*(cluster.answer(prompt, sampling) for prompt in prompts))
    choices = [answer[0] for answer in answers]
    began_s = max(choice.arrived_s[0] for choice in choices)
    ended_s = max(choice.arrived_s[-1] for choice in choices)
    num_timed = sum(at > began_s for choice in choices for at in choice.arrived_s)
    return num_timed / (ended_s - began_s), [choice.token_ids for choice in choices]


async def compare(sides: dict[str, LocalCluster], prompts: Sequence[Sequence[int]], load: "Load") -> list[str]:
    rates: dict[str, list[float]] = defaultdict(list)
    same = dict.fromkeys(sides, True)
    before = {way: states(cluster) for way, cluster in sides.items()}
    for number in range(load.rounds + 1):  # the first teaches what steps take
        expected: list[list[int]] = []
        for way, cluster in sides.items():
            rate, tokens = await run(cluster, prompts, load)
            expected = expected or tokens
            same[way] &= tokens == expected
            if number:
                rates[way].append(rate)
    await asyncio.sleep(0.2)  # for the last load reports
    plain = statistics.median(rates["none"])
    lines = []
    for way, cluster in sides.items():
        rate = statistics.median(rates[way])
        note = "" if same[way] else "  OTHER TOKENS"
        lines.append(f"  {way:18} {rate:7.1f} tok/s ({rate / plain:.2f} x)  {told(before[way], states(cluster))}{note}")
    return lines


def states(cluster: LocalCluster) -> dict[str, WorkerState]:
    """Of each role."""
    found = (view.state for view in cluster.dispatcher.states() if view.state is not None)
    return {state.worker_id.partition("-")[0]: state for state in found}


def told(before: dict[str, WorkerState], after: dict[str, WorkerState]) -> str:
    """What came of drafts meanwhile."""

    def grown(name: str, role: str = "mixed") -> float:
        return float(getattr(after[role], name) - getattr(before[role], name))

    drafted = sum(after["mixed"].drafted_by_place) - sum(before["mixed"].drafted_by_place)
    accepted = sum(after["mixed"].accepted_by_place) - sum(before["mixed"].accepted_by_place)
    words = [f"{accepted} of {drafted} right"] if drafted else []
    if asked := grown("num_guess_hits") + grown("num_guess_misses"):
        words.append(f"hits {grown('num_guess_hits') / asked:.2f} of {asked:.0f}")
        words.append(f"{grown('num_draft_waits'):.0f} waits of {grown('draft_wait_s'):.2f} s in all")
        words.append(f"{grown('num_output_tokens', 'draft'):.0f} drafted")
    return "; ".join(words)


def hit_us(num_tokens: int = 17, num_rounds: int = 20_000) -> float:
    """What a walk of three tokens and the path of eight below it take, in microseconds of CPU time."""
    futures = Futures(
        0, list(range(2 * num_tokens)), [at // 2 * 2 - 1 if at > 1 else 0 for at in range(2 * num_tokens)]
    )
    began_s = time.thread_time()
    for _ in range(num_rounds):
        node = futures.after([0, 2, 4])
        assert node is not None
        futures.path(node, 8)
    assert futures.after([]) == ROOT
    return (time.thread_time() - began_s) / num_rounds * 1e6


@dataclass(frozen=True, slots=True)
class Load:
    num_tokens: int
    temperature: float
    rounds: int


async def measure(model: str, draft: str, sizes: Sequence[int], max_tokens: int, load: Load) -> None:
    tokenizer = Tokenizer(str(resolve_model(model)))
    words = PROMPTS["summarize"][0].split()
    prompts = [tokenizer.encode(" ".join(words[5 + 3 * at : 45 + 3 * at])) for at in range(max(sizes))]
    async with contextlib.AsyncExitStack() as stack:
        sides = {
            way: await stack.enter_async_context(local_cluster(specs(model, draft, way, max_tokens))) for way in WAYS
        }
        for size in sizes:
            print(f"{size} at once", *await compare(sides, prompts[:size], load), sep="\n", flush=True)


def main(
    model: Annotated[str, typer.Option("--model")] = "demo",
    draft: Annotated[str, typer.Option("--draft")] = "demo-draft",
    layers: Annotated[int, typer.Option("--layers", help="Of the target, with silent ones; 0: its own.")] = 0,
    concurrency: Annotated[str, typer.Option("--concurrency", help="Comma-separated.")] = "1,4,16",
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Of each answer.")] = 128,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="As speculation.max_tokens.")] = 8,
    temperature: Annotated[float, typer.Option("--temperature", min=0)] = 0.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 3,
    quick: Quick = False,
) -> None:
    """What a draft worker brings."""
    sizes = [int(word) for word in concurrency.split(",")]
    if quick:
        rounds, tokens = 1, min(tokens, 64)
    announce("bench.remote_drafts", about_s=60 + 30 * len(sizes) * (rounds + 1), dtypes=["float32"])
    print(f"a hit costs the worker that decodes {hit_us():.1f} us a sequence", flush=True)
    folder = resolve_model(model)
    target = str(padded(folder, layers) if layers else folder)
    asyncio.run(measure(target, draft, sizes, max_tokens, Load(tokens, temperature, rounds)))


if __name__ == "__main__":
    typer.run(main)
