"""Steps of all kinds, and a check that graphs give what eager steps give."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.model.contract import Chunk, ChunkKind, Row
from workers.model.runner import TorchRunner

BLOCK = 4


def random_step(rng: random.Random, num_blocks: int) -> tuple[list[Chunk], list[Row]]:
    """Up to 5 chunks, which share no blocks: single tokens, drafts one after the other or as trees, and prompts."""
    free = list(range(num_blocks))
    rng.shuffle(free)
    chunks: list[Chunk] = []
    rows: list[Row] = []
    kinds = ["token", "drafts", "prompt", "tree"] if rng.random() < 0.8 else ["token"]
    for kind in rng.choices(kinds, k=rng.randint(1, 5)):
        count = 1 if kind == "token" else rng.randint(2, 6)
        start = rng.choice([0, 1, BLOCK, rng.randint(0, 30)])
        parents = [rng.randint(-1, place - 1) for place in range(count - 1)] if kind == "tree" else ()
        blocks = [free.pop() for _ in range(-(-(start + count) // BLOCK))]
        if kind != "prompt" or rng.random() < 0.5:
            rows.append(Row(len(chunks), 0 if kind == "prompt" else count - 1))
        chunks.append(
            Chunk(
                token_ids=[rng.randrange(2, 160) for _ in range(count)],
                start=start,
                block_ids=blocks,
                num_sequence_tokens=start + count,
                kind=ChunkKind.PREFILL if kind == "prompt" else ChunkKind.DECODE,
                parents=parents,
            )
        )
    return chunks, rows or [Row(0, 0)]


def fill_blocks(runner: TorchRunner) -> None:
    generator = torch.Generator().manual_seed(3)
    for layer in runner.store.layers:
        layer.copy_(torch.randn(layer.shape, generator=generator))


def eagerly(runner: TorchRunner, chunks: Sequence[Chunk], rows: Sequence[Row]) -> tuple[Tensor, list[Tensor]]:
    """Logits and blocks after the step, without graphs; the runner's own blocks are as they were."""
    kept = [layer.clone() for layer in runner.store.layers]
    with torch.inference_mode():
        found = runner._computed(chunks, rows, None)
    after = [layer.clone() for layer in runner.store.layers]
    for layer, before in zip(runner.store.layers, kept, strict=True):
        layer.copy_(before)
    assert found is not None
    return found, after


def assert_replayed(runner: TorchRunner, chunks: Sequence[Chunk], rows: Sequence[Row], tolerance: float = 2e-5) -> None:
    """The same logits and blocks from a graph; the scratch block alone may be any."""
    assert runner.graphs is not None
    want, blocks = eagerly(runner, chunks, rows)
    found = runner.graphs.run(chunks, rows)
    assert found is not None
    torch.testing.assert_close(found, want, atol=tolerance, rtol=0)
    for layer, after in zip(runner.store.layers, blocks, strict=True):
        torch.testing.assert_close(layer[:, :-1], after[:, :-1], atol=tolerance, rtol=0)
