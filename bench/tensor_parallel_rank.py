"""One rank of a worker that `bench.tensor_parallel` measures: `python -m bench.tensor_parallel_rank < spec.json`.

Speaks as `workers.process` does; for each further line, a job as `bench.engine_sides` takes them, the leader answers
{"seconds": float}. Other ranks than the leader follow until it ends.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

from bench.engine_baton import Baton
from bench.engine_sides import seconds
from workers.model.contract import ModelRunner
from workers.parallel.member import enter, lead, open_lobby
from workers.parallel.runner import follow
from workers.spec import WorkerSpec
from workers.spec_line import parse
from workers.starting import build_runner, take_place


def say(message: Any) -> None:
    print(json.dumps(message), flush=True)


def give_up(error: Exception) -> None:
    raise SystemExit(str(error))


def serve(spec: WorkerSpec, jobs: Iterator[str]) -> None:
    runner: ModelRunner
    if spec.gang.size == 1:
        runner, gang = build_runner(spec), None
    else:
        lobby = open_lobby(spec)
        say({"lobby": lobby.address})
        runner, gang = lead(spec, lobby, give_up)
    engine = Baton(spec, runner)
    say({"address": "none"})
    fresh = itertools.count(1000)
    for line in jobs:
        say({"seconds": seconds(engine, json.loads(line), runner.vocab_size, fresh)})
    if gang is not None:
        gang.close()


def main() -> None:
    spec, _ = parse(sys.stdin.readline())
    take_place(spec)
    if spec.gang.rank:
        share, gang = enter(spec, give_up)
        follow(share, gang)
        gang.close()
    else:
        serve(spec, iter(sys.stdin))


if __name__ == "__main__":
    main()
