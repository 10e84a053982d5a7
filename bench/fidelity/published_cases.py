"""What DistServe published of its placements: models, SLOs, lengths and (TP, PP) of prefill and decode.

SLOs and placements: the paper's tables. For 13B its first version, the README and the measured runs have a TTFT limit
of 0.2 s; the last version relaxed it to 0.25 s and kept the placement, which then is best in trials of 300 requests
alone. Where lengths come from:

* ShareGPT: the measured runs, whose prompts have the published mean; outputs stretched to theirs.
* HumanEval: the problems' own prompts and solutions in characters, scaled to the published means of tokens.
* LongBench: made up as the benchmark prepares it (evaluation/2-benchmark-serving/0-prepare-dataset.py): prompts cut at
  1,900 to 2,048 tokens, and to 2,040 together with the answer. What is shorter of itself is taken to be spread evenly,
  as much of it as gives the published mean; the spread of the answers is assumed.

`site` has as many nodes as the published placement takes: how many an instance may span is an input of the search, and
not published. On 4 nodes the fits prefer TP 4 PP 4 for decode of 175B, which the earliest ones have as slow (0.89 ms a
sequence). The 13B placement goes with nodes of 4, as in the README: on 8 devices the fits prefer TP 4 for prefill.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.fidelity.published_costs import MAX_POSITIONS, OPT_13B, OPT_66B, OPT_175B, OptShape
from cluster.contracts.latency import Parallelism
from cluster.contracts.simulation import Arrival
from cluster.contracts.slo import SLO
from cluster.planner.load.lengths import Empirical, Independent, Lognormal, Shape
from cluster.planner.search.placement import Site

NODE = Site(num_nodes=1, devices_per_node=8, node_bandwidth=25e9 / 8, device_name="A100-80G")  # 25 Gbit/s, section 6.1
HALF_NODE, THREE_NODES = replace(NODE, devices_per_node=4), replace(NODE, num_nodes=3)

# Mean tokens of prompts and outputs, figure 7.
CHAT_OUTPUT = 200.3
CODE_MEANS = (171.3, 98.2)
SUMMARY_MEANS = (1738.3, 90.7)
CUT_FROM, CUT_TO, MAX_WITH_ANSWER = 1900, 2048, 2040
HUMAN_EVAL = Path("humaneval") / "HumanEval.jsonl.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    model: OptShape
    slo: SLO
    lengths: Shape
    prefill: Parallelism  # as published
    decode: Parallelism
    site: Site = NODE
    goodput_per_gpu: float | None = None  # as published; None: not


def cases(sharegpt: Sequence[Arrival], data: Path) -> Iterator[Case]:
    """Args:
    data: Folder in which `humaneval` lies; without it the prompts' lengths are drawn from a distribution like theirs.
    """
    chat, code, summaries = chat_lengths(sharegpt), code_lengths(data / HUMAN_EVAL), summary_lengths()
    small = Case(
        name="13B chat, relaxed",
        model=OPT_13B,
        slo=SLO(ttft_s=0.25, tpot_s=0.1),
        lengths=chat,
        prefill=Parallelism(tensor=2),
        decode=Parallelism(),
        site=HALF_NODE,
    )
    yield replace(small, name="13B chat", slo=SLO(ttft_s=0.2, tpot_s=0.1), goodput_per_gpu=1.56)
    yield small
    middle = Case(
        name="66B code",
        model=OPT_66B,
        slo=SLO(ttft_s=0.125, tpot_s=0.2),
        lengths=code,
        prefill=Parallelism(tensor=4),
        decode=Parallelism(tensor=2, pipeline=2),
    )
    yield middle
    yield replace(middle, name="66B summarise", slo=SLO(ttft_s=15, tpot_s=0.15), lengths=summaries)
    yield Case(
        name="175B chat",
        model=OPT_175B,
        slo=SLO(ttft_s=4, tpot_s=0.2),
        lengths=chat,
        prefill=Parallelism(tensor=3, pipeline=3),
        decode=Parallelism(tensor=4, pipeline=3),
        site=THREE_NODES,
    )


def chat_lengths(sharegpt: Sequence[Arrival]) -> Empirical:
    stretch = CHAT_OUTPUT * len(sharegpt) / sum(arrival.num_output_tokens for arrival in sharegpt)
    prompts = [arrival.num_prompt_tokens for arrival in sharegpt]
    outputs = [round(arrival.num_output_tokens * stretch) for arrival in sharegpt]
    pairs = zip(prompts, outputs, strict=True)
    return Empirical(pairs=[(prompt, max(1, min(output, MAX_POSITIONS - prompt))) for prompt, output in pairs])


def code_lengths(path: Path) -> Shape:
    prompt_mean, output_mean = CODE_MEANS
    if not path.exists():  # medians over means of the characters: 0.88 and 0.82
        return Independent(
            prompt=Lognormal(mean=prompt_mean, median=0.88 * prompt_mean, max_tokens=MAX_POSITIONS // 2),
            output=Lognormal(mean=output_mean, median=0.82 * output_mean, max_tokens=MAX_POSITIONS // 2),
        )
    with gzip.open(path, "rt") as lines:
        problems = [json.loads(line) for line in lines]
    sizes = np.array([(len(problem["prompt"]), len(problem["canonical_solution"])) for problem in problems], float)
    tokens = np.maximum(np.rint(sizes * (CODE_MEANS / sizes.mean(axis=0))), 1).astype(int)
    return Empirical(pairs=[(int(prompt), int(output)) for prompt, output in tokens])


def summary_lengths(count: int = 2000) -> Empirical:
    prompt_mean, output_mean = SUMMARY_MEANS
    cut_mean = (CUT_FROM + MAX_WITH_ANSWER) / 2
    share_cut = (prompt_mean - CUT_FROM / 2) / (cut_mean - CUT_FROM / 2)
    rng = np.random.default_rng(0)
    outputs = Lognormal(mean=output_mean, median=0.8 * output_mean, max_tokens=MAX_WITH_ANSWER // 2).draw(count, rng)
    long = np.minimum(rng.integers(CUT_FROM, CUT_TO + 1, count), MAX_WITH_ANSWER - outputs)
    short = np.minimum(rng.integers(1, CUT_FROM, count), MAX_WITH_ANSWER - outputs)
    prompts = np.where(rng.random(count) < share_cut, long, short)
    return Empirical(pairs=[(int(prompt), int(output)) for prompt, output in zip(prompts, outputs, strict=True)])
