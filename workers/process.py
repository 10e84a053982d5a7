"""One worker as a plain process, without Ray: for tests and benchmarks below the fleet.

    python -m workers.process < spec.json

Reads a JSON object {"spec": {...}, "incarnation": "..."} as one line, prints {"address": "..."} when it serves, and
ends when its standard input closes.
"""

import asyncio
import dataclasses
import json
import logging
import sys
from typing import Any

from workers.actor import WorkerActor
from workers.spec import EngineSpec, KVSpec, Role, WorkerSpec


def dump(spec: WorkerSpec, incarnation: str) -> str:
    """What `main` reads, without the newline."""
    return json.dumps({"spec": dataclasses.asdict(spec), "incarnation": incarnation})


def parse(line: str) -> tuple[WorkerSpec, str]:
    message: dict[str, Any] = json.loads(line)
    fields = message["spec"]
    fields["role"] = Role(fields["role"])
    fields["engine"] = EngineSpec(**fields["engine"])
    fields["kv"] = KVSpec(**fields["kv"])
    fields["cores"] = tuple(fields["cores"])
    return WorkerSpec(**fields), message["incarnation"]


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
