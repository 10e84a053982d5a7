"""One worker as a plain process, without Ray: for tests and benchmarks below the fleet.

    python -m workers.process < spec.json

Reads a JSON object {"spec": {...}, "incarnation": "..."} as one line, prints {"address": "..."} when it serves, and
ends when its standard input closes.
"""

import asyncio
import json
import logging
import sys

from workers.actor import WorkerActor
from workers.spec import WorkerSpec
from workers.spec_line import parse


async def serve(spec: WorkerSpec, incarnation: str) -> None:
    actor = WorkerActor(spec, incarnation)
    address = await actor.start()
    print(json.dumps({"address": address}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await actor.stop()


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(serve(*parse(sys.stdin.readline())))


if __name__ == "__main__":
    main()
