"""One rank of a draft worker that `bench.layer_parallel` measures: `python -m bench.layer_parallel_rank < spec.json`.

Speaks as `workers.process` does; for each further line, {"kind", "batch", "context", "tokens"}, the leader drafts so
many tokens of so many sequences after so much context, in chunks of that kind, and answers {"seconds": float}: of one
token of all sequences. Other ranks than the leader follow until it ends.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench.engine_baton import FILL
from bench.tensor_parallel_rank import give_up, say
from workers.model.contract import Batch, Chunk, ChunkKind, ModelRunner, SampleRow
from workers.model.sampling_params import SamplingParams
from workers.parallel.member import enter, lead, open_lobby
from workers.parallel.runner import follow
from workers.spec import WorkerSpec
from workers.spec_line import parse
from workers.starting import build_runner, take_place

GREEDY = SamplingParams(max_tokens=1 << 20, temperature=0.0)


def drafted_s(runner: ModelRunner, job: dict[str, Any]) -> float:
    """Seconds of one token of each sequence; what is in the KV does not matter."""
    size = runner.store.block_size
    per_sequence = -(-(job["context"] + job["tokens"] + 1) // size)
    blocks = [range(per_sequence * number, per_sequence * (number + 1)) for number in range(job["batch"])]
    last = [1] * job["batch"]
    began_s = time.perf_counter()
    for start in range(job["context"], job["context"] + job["tokens"]):
        last = [sampled[0].token_id for sampled in runner.run(batch_of(last, start, blocks, ChunkKind(job["kind"])))]
    return (time.perf_counter() - began_s) / int(job["tokens"])


def batch_of(last: list[int], start: int, blocks: list[range], kind: ChunkKind) -> Batch:
    chunks = [
        Chunk(token_ids=[token], start=start, block_ids=own, num_sequence_tokens=start + 1, kind=kind)
        for token, own in zip(last, blocks, strict=True)
    ]
    rows = [
        SampleRow(chunk=number, choice=0, params=GREEDY, prompt_token_ids=(1,), output_token_ids=())
        for number in range(len(last))
    ]
    return Batch(chunks=chunks, samples=rows)


def serve(spec: WorkerSpec, jobs: Iterator[str]) -> None:
    runner: ModelRunner
    if spec.gang.size == 1:
        runner, gang = build_runner(spec), None
    else:
        lobby = open_lobby(spec)
        say({"lobby": lobby.address})
        runner, gang = lead(spec, lobby, give_up)
    store: Any = runner.store
    for layer in store.layers:
        layer.fill_(FILL)
    say({"address": "none"})
    for line in jobs:
        say({"seconds": drafted_s(runner, json.loads(line))})
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
