"""What a draft worker brings: tokens a second with it beside none, its hit rate, and what a hit costs who decodes.

    python -m bench.remote_drafts                    # the demo pair, a core each
    python -m bench.remote_drafts --layers 64        # a target that takes as long as 64 layers do
    python -m bench.remote_drafts --quick            # under 2 minutes

A mixed worker and a draft worker, each a process on a core of its own, behind the router that serves. Ways of
speculating take turns in each round; figures are medians of rounds, greedy, and tokens are compared with those of none.
"no overlap": the draft worker drafts after news alone, never while others verify. `--layer-parallel 2` has one of two
ranks beside, which needs three cores; `--crowded` has its last ranks where the others are, for want of cores.
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
from workers.spec import EngineSpec, GangSpec, Role, SpeculationSpec, WorkerSpec
from workers.speculative.futures import ROOT, Futures

NO_OVERLAP, DIVIDED = "remote, no overlap", "remote, divided"
WAYS = ("none", "ngram", "remote", NO_OVERLAP, DIVIDED)
MAX_MODEL_LEN = 1024


@dataclass(frozen=True, slots=True)
class Pair:
    """
    Attributes:
        model: A folder or a name.
        max_tokens: As speculation.max_tokens.
        num_ranks: Of a draft worker that is divided by layers.
    """

    model: str
    draft: str
    max_tokens: int
    num_ranks: int


def specs(pair: Pair, way: str) -> list[WorkerSpec]:
    """Each rank on one core: its own, as far as there are so many."""
    cores = available_cores()
    method = {"none": "none", "ngram": "ngram"}.get(way, "auto")
    shared = {"served_name": "bench", "dtype": "float32", "device": "cpu", "secret": "s3cret"}
    engine = EngineSpec(max_model_len=MAX_MODEL_LEN)
    mixed = WorkerSpec(
        worker_id=f"mixed-{WAYS.index(way)}",
        role=Role.MIXED,
        model=str(resolve_model(pair.model)),
        engine=engine,
        cores=cores[:1],
        speculation=SpeculationSpec(method=method, max_tokens=pair.max_tokens),
        draft_overlap=way != NO_OVERLAP,
        **shared,  # type: ignore[arg-type]
    )
    num_ranks = pair.num_ranks if way == DIVIDED else int(way.startswith("remote"))
    drafting = [
        WorkerSpec(
            worker_id=f"draft-{WAYS.index(way)}",
            role=Role.DRAFT,
            model=str(resolve_model(pair.draft)),
            engine=engine,
            cores=(cores[(1 + rank) % len(cores)],),
            gang=GangSpec(layer_parallel=num_ranks, rank=rank),
            **shared,  # type: ignore[arg-type]
        )
        for rank in range(num_ranks)
    ]
    return [mixed, *drafting]


def ways_of(num_ranks: int, *, crowded: bool) -> list[str]:
    """Those that the cores are enough for; says what is left out."""
    if num_ranks == 1:
        return [way for way in WAYS if way != DIVIDED]
    missing = 1 + num_ranks - len(available_cores())
    if missing <= 0 or crowded:
        return list(WAYS)
    print(
        f"a draft worker of {num_ranks} ranks is not measured: it and its target need {1 + num_ranks} cores, and here "
        f"are {len(available_cores())}; --crowded measures it all the same"
    )
    return [way for way in WAYS if way != DIVIDED]


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


async def measure(pair: Pair, ways: Sequence[str], sizes: Sequence[int], load: Load) -> None:
    tokenizer = Tokenizer(str(resolve_model(pair.model)))
    words = PROMPTS["summarize"][0].split()
    prompts = [tokenizer.encode(" ".join(words[5 + 3 * at : 45 + 3 * at])) for at in range(max(sizes))]
    async with contextlib.AsyncExitStack() as stack:
        sides = {way: await stack.enter_async_context(local_cluster(specs(pair, way))) for way in ways}
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
    layer_parallel: Annotated[int, typer.Option("--layer-parallel", min=1, help="Ranks of a draft worker.")] = 1,
    crowded: Annotated[bool, typer.Option("--crowded", help="Ranks may have to share cores.")] = False,
    quick: Quick = False,
) -> None:
    """What a draft worker brings."""
    sizes = [int(word) for word in concurrency.split(",")]
    if quick:
        rounds, tokens = 1, min(tokens, 64)
    ways = ways_of(layer_parallel, crowded=crowded)
    about_s = 15 * len(ways) + 8 * len(ways) * len(sizes) * (rounds + 1)
    announce("bench.remote_drafts", about_s=about_s, dtypes=["float32"])
    print(f"a hit costs the worker that decodes {hit_us():.1f} us a sequence", flush=True)
    folder = resolve_model(model)
    target = str(padded(folder, layers) if layers else folder)
    pair = Pair(target, draft, max_tokens, layer_parallel)
    asyncio.run(measure(pair, ways, sizes, Load(tokens, temperature, rounds)))


if __name__ == "__main__":
    typer.run(main)
