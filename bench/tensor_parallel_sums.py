"""What joins the ranks, without a model: `python -m bench.tensor_parallel_sums < spec.json`, once per rank.

The leader says its lobby first and {"seconds": {name: float}} last; every rank makes the same calls.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.model.contract import Chunk, ChunkKind, Row, SampleRow
from workers.model.sampler import sample
from workers.model.sampling_params import SamplingParams
from workers.model.tensor_parallel.ranks import Ranks
from workers.parallel.axes import AHEAD_BYTES
from workers.parallel.collectives import GroupRanks
from workers.parallel.gang import Gang
from workers.parallel.lobby import Lobby, join
from workers.parallel.shared_ranks import share_exchange, share_memory
from workers.parallel.steps import Compute, decode, encode
from workers.spec_line import parse
from workers.starting import take_place

WIDTH = 1024
ROWS = (1, 16, 512, 2048)
SIZES = (1, 16, 64)  # sequences of a decode step
SAMPLED = (1, 32)  # rows
PEAKED = 8.0  # spread of logits at which few tokens have nearly all the weight, as where a model is sure
SAMPLINGS = {
    "greedy": SamplingParams(max_tokens=1, temperature=0.0),
    "drawn": SamplingParams(max_tokens=1, temperature=0.8, top_p=0.95),
}
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

    def took(size: int, token_ids: Sequence[int]) -> float:
        step = decodes(size, token_ids)

        def tell() -> None:
            if gang.is_leader:
                gang.send_step(encode(step, BLOCK))
            else:
                decode(gang.wait_step() or b"")
            ranks.all_reduce(said)

        return timed(tell, ranks)

    for size in SIZES:
        found[f"step {size}"] = took(size, [7])
    for size in SAMPLED:  # tokens are all that a leader which samples has to tell of that
        found[f"tokens {size}"] = took(size, [7]) - took(size, [])


def decodes(size: int, token_ids: Sequence[int]) -> Compute:
    """A step of `size` sequences with CONTEXT tokens before each."""
    chunk = Chunk(
        token_ids=token_ids,
        start=CONTEXT,
        block_ids=list(range(CONTEXT // BLOCK + 1)),
        num_sequence_tokens=CONTEXT + 1,
        kind=ChunkKind.DECODE,
    )
    return Compute(chunks=[chunk] * size, rows=[Row(number, 0) for number in range(size)])


def samplings(found: dict[str, float], ranks: Ranks, group: GroupRanks) -> None:
    """By the leader while the others wait, and by every rank, which takes the logits to all of them."""
    said = torch.zeros(1)
    exchange = share_exchange(group, AHEAD_BYTES)
    for size in SAMPLED:
        part, logits = torch.zeros(size, VOCAB // ranks.size), PEAKED * torch.randn(size, VOCAB)
        found[f"gathered {size} to the leader"] = timed(lambda: ranks.gather(part), ranks)  # noqa: B023
        if exchange is not None:
            found[f"gathered {size} to all"] = timed(lambda: exchange.begin(part).wait(ranks.size), ranks)  # noqa: B023
        for name, params in SAMPLINGS.items():
            rows = [SampleRow(chunk=0, choice=0, params=params, prompt_token_ids=[], output_token_ids=[])] * size

            def by(sampling: bool, logits: Tensor = logits, rows: Sequence[SampleRow] = rows) -> None:
                if sampling:
                    sample(logits, rows)
                ranks.all_reduce(said)

            found[f"{name} {size} by the leader"] = timed(lambda: by(ranks.rank == 0), ranks)
            found[f"{name} {size} by all"] = timed(lambda: by(True), ranks)


def measure(gang: Gang) -> dict[str, float]:
    group = GroupRanks(gang.group, rank=gang.rank, size=gang.size)
    shared = share_memory(group)
    found: dict[str, float] = {}
    broadcasts(found, gang, shared or group)
    gathers(found, shared or group)
    samplings(found, shared or group, group)
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
