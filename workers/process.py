"""One rank of a worker as a plain process, without Ray: for tests and benchmarks below the fleet.

    python -m workers.process < spec.json

Reads a JSON object {"spec": {...}, "incarnation": "..."} as one line, prints {"address": "..."} when it serves (a
leader of several ranks prints {"lobby": "..."} before: what the others' specs must say), and ends when its standard
input closes.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any

from workers.actor import WorkerActor
from workers.follower import Follower
from workers.rank import make_rank
from workers.spec import WorkerSpec
from workers.spec_line import parse


async def serve(spec: WorkerSpec, incarnation: str) -> None:
    actor = rank_of(spec, incarnation)
    address = await actor.start()
    print(json.dumps({"address": address}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await actor.stop()


def rank_of(spec: WorkerSpec, incarnation: str) -> WorkerActor | Follower:
    """A leader of several ranks says where its lobby is."""
    rank = make_rank(spec, incarnation)
    if spec.gang.size > 1 and isinstance(rank, WorkerActor):
        print(json.dumps({"lobby": rank.lobby()}), flush=True)
    return rank


def run(serving: Coroutine[Any, Any, None]) -> None:
    asyncio.run(_to_its_end(serving))


async def _to_its_end(serving: Coroutine[Any, Any, None]) -> None:
    """Ends the process with it: a rank whose gang failed may have a thread that waits for nobody."""
    try:
        await serving
    except BaseException:
        logging.exception("the worker ends")
        os._exit(1)


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    run(serve(*parse(sys.stdin.readline())))


if __name__ == "__main__":
    main()
