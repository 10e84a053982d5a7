"""What joins the ranks, without a model: `python -m bench.tensor_parallel_sums < spec.json`, once per rank.

The leader says its lobby first and {"seconds": {name: float}} last; every rank makes the same calls.
"""

import json
import sys
import time
from collections.abc import Callable

import torch

from workers.model.contract import Chunk, ChunkKind, Row
from workers.model.tensor_parallel.ranks import Ranks
from workers.parallel.collectives import GroupRanks
from workers.parallel.gang import Gang
from workers.parallel.lobby import Lobby, join
from workers.parallel.shared_ranks import share_memory
from workers.parallel.steps import Compute, decode, encode
from workers.spec_line import parse
from workers.starting import take_place

WIDTH = 1024
ROWS = (1, 16, 512, 2048)
SIZES = (1, 16, 64)  # sequences of a decode step
CONTEXT, BLOCK = 1000, 16
VOCAB = 49_152
BUDGET_S = 0.4  # of one figure


def timed(call: Callable[[], object], ranks: Ranks) -> float:
    """Median seconds; all ranks make as many calls as the leader finds time for."""
    call()
    begin = time.perf_counter()
    for _ in range(5):
        call()
    count = torch.tensor([BUDGET_S / max((time.perf_counter() - begin) / 5, 1e-7) if ranks.rank == 0 else 0.0])
    ranks.all_reduce(count)
    took = []
    for _ in range(min(int(count.item()), 5000) + 1):
        begin = time.perf_counter()
        call()
        took.append(time.perf_counter() - begin)
    return sorted(took)[len(took) // 2]


def sums(found: dict[str, float], name: str, ranks: Ranks) -> None:
    for rows in ROWS:
        for dtype in (torch.bfloat16, torch.float32):
            tensor = torch.zeros(1, rows, WIDTH, dtype=dtype)
            kind = str(dtype).removeprefix("torch.")
            found[f"sum {rows} {kind} {name}"] = timed(lambda: ranks.all_reduce(tensor), ranks)  # noqa: B023


def gathers(found: dict[str, float], ranks: Ranks) -> None:
    """Of logits for the leader, which samples: each rank has those of its part of the vocabulary."""
    for rows in SIZES:
        part = torch.zeros(rows, VOCAB // ranks.size)
        found[f"logits {rows}"] = timed(lambda: ranks.gather(part), ranks)  # noqa: B023


def broadcasts(found: dict[str, float], gang: Gang, ranks: Ranks) -> None:
    """From before the leader writes a step down until every rank has read it and said so by a sum of one element."""
    said = torch.zeros(1)
    found["sum of one"] = timed(lambda: ranks.all_reduce(said), ranks)
    for size in SIZES:
        blocks = list(range(CONTEXT // BLOCK + 1))
        chunks = [
            Chunk(
                token_ids=[7], start=CONTEXT, block_ids=blocks, num_sequence_tokens=CONTEXT + 1, kind=ChunkKind.DECODE
            )
            for _ in range(size)
        ]
        step = Compute(chunks=chunks, rows=[Row(chunk, 0) for chunk in range(size)])

        def tell(step: Compute = step) -> None:
            if gang.is_leader:
                gang.send_step(encode(step, BLOCK))
            else:
                decode(gang.wait_step() or b"")
            ranks.all_reduce(said)

        found[f"step {size}"] = timed(tell, ranks)


def measure(gang: Gang) -> dict[str, float]:
    group = GroupRanks(gang.group, rank=gang.rank, size=gang.size)
    shared = share_memory(group)
    found: dict[str, float] = {}
    broadcasts(found, gang, shared or group)
    gathers(found, shared or group)
    sums(found, "gloo", group)
    if shared is not None:
        sums(found, "shared", shared)
    return found


def main() -> None:
    spec, _ = parse(sys.stdin.readline())
    take_place(spec)
    torch.set_num_threads(1)
    size, rank = spec.gang.size, spec.gang.rank
    if rank:
        place = {"rank": rank, "size": size, "secret": spec.secret, "host": spec.host}
        measure(join(spec.gang.lobby, **place, timeout_s=60.0, fail=print))  # type: ignore[arg-type]
        return
    lobby = Lobby(host=spec.host, size=size, secret=spec.secret)
    print(json.dumps({"lobby": lobby.address}), flush=True)
    found = measure(lobby.gather(timeout_s=60.0, fail=print))
    print(json.dumps({"address": "none", "seconds": found}), flush=True)


if __name__ == "__main__":
    main()
