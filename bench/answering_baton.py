"""Baton's engine for `bench.speculation_questions`: one runner, an engine for each way of speculating."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.answering import Answer
from bench.engine_sides import NUM_THREADS
from bench.speculation import Side, make_sides, worker


class Baton:
    def __init__(self, sides: Mapping[str, Side]) -> None:
        self._sides = sides

    def answer(self, way: str, prompts: Sequence[Sequence[int]], num_tokens: int) -> Answer:
        run = self._sides[way].run(prompts, num_tokens)
        return Answer(run.took_s, run.num_timed, [run.tokens[str(number)] for number in range(len(prompts))])


def start(settings: dict[str, Any]) -> Baton:
    torch.set_num_threads(NUM_THREADS)
    spec = worker(Path(settings["folder"]), settings["dtype"], settings["draft"])
    spec = replace(spec, engine=replace(spec.engine, max_model_len=settings["max_model_len"]))
    return Baton(make_sides(spec, settings["ways"], settings["max_tokens"]))
