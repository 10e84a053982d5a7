"""The teacher's answers on disk, with the likeliest tokens at each place: what a draft model learns from.

Shards are written whole (renamed into place), so that training may read a folder which still grows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NUM_TOP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    Attributes:
        token_ids: [prompt + answer].
        num_prompt: >= 1.
        top_ids: [answer, NUM_TOP] by the teacher's probability; of the token at each place of the answer.
        top_logprobs: [answer, NUM_TOP], natural, at temperature 1.
        kind: What sort of prompt it answers; empty: of no interest.
    """

    token_ids: np.ndarray
    num_prompt: int
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    kind: str = ""


def write_shard(folder: Path, writer: int, answers: Sequence[Answer]) -> Path:
    """The next one of this writer, of several that may share a folder. Vocabularies up to 65,536 tokens."""
    number = len(list(folder.glob(f"answers-{writer:03}-*.npz")))
    path = folder / f"answers-{writer:03}-{number:05}.npz"
    with path.with_suffix(".tmp").open("wb") as file:
        np.savez(
            file,
            token_ids=np.concatenate([answer.token_ids for answer in answers]).astype(np.uint16),
            lengths=np.array([len(answer.token_ids) for answer in answers]),
            num_prompts=np.array([answer.num_prompt for answer in answers]),
            top_ids=np.concatenate([answer.top_ids for answer in answers]).astype(np.uint16),
            top_logprobs=np.concatenate([answer.top_logprobs for answer in answers]).astype(np.float16),
            kinds=np.array([answer.kind for answer in answers]),
        )
    return path.with_suffix(".tmp").replace(path)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("answers-*.npz"))


def read_shard(path: Path) -> Iterator[Answer]:
    with np.load(path) as shard:
        arrays = {name: shard[name] for name in shard.files}
    at = place = 0
    for length, num_prompt, kind in zip(arrays["lengths"], arrays["num_prompts"], arrays["kinds"], strict=True):
        num_answer = int(length - num_prompt)
        yield Answer(
            token_ids=arrays["token_ids"][at : at + length].astype(np.int64),
            num_prompt=int(num_prompt),
            top_ids=arrays["top_ids"][place : place + num_answer].astype(np.int64),
            top_logprobs=arrays["top_logprobs"][place : place + num_answer].astype(np.float32),
            kind=str(kind),
        )
        at, place = at + int(length), place + num_answer
