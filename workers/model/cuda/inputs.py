"""A step's numbers on their way to the device: of a decode where a CUDA graph reads them, of others anew."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.model.attention import PagedMeta
from workers.model.contract import Chunk
from workers.model.cuda.launching import to_device


def together(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same tensors of int64 on the device, by one copy that nobody waits for."""
    packed = torch.cat([part.reshape(-1) for part in parts])
    there = torch.split(to_device(packed, device), [part.numel() for part in parts])
    return [mine.view(part.shape) for mine, part in zip(there, parts, strict=True)]


def following(chunks: Sequence[Chunk]) -> Tensor:
    """[2, n] int64, of the chunks whose token the last step draws: its place among the step's tokens, and that row."""
    places: list[int] = []
    rows: list[int] = []
    at = 0
    for chunk in chunks:
        if chunk.follows is not None:
            places.append(at)
            rows.append(chunk.follows)
        at += len(chunk.token_ids)
    return torch.tensor([places, rows], dtype=torch.int64)


class DecodeInputs:
    """Of `batch` sequences of one new token each, whose tables have `width` blocks.

    Attributes:
        tokens, positions, slots: [batch] int32, as in a `PagedMeta`. A token's position is its number of tokens before.
        tables: [batch, width] int32.
        query_start: [batch + 1] int32: row i belongs to sequence i.
    """

    def __init__(self, batch: int, width: int, device: torch.device) -> None:
        self.batch = batch
        self.width = width
        parts = [batch, batch, batch, batch * width]
        self._packed = torch.zeros(sum(parts), dtype=torch.int32, device=device)
        self.tokens, self.positions, self.slots, tables = torch.split(self._packed, parts)
        self.tables = tables.view(batch, width)
        self.query_start = torch.arange(batch + 1, dtype=torch.int32, device=device)
        self._host = torch.zeros(sum(parts), dtype=torch.int32, pin_memory=device.type == "cuda")
        host = self._host.numpy()
        self._host_rows = host[: 3 * batch].reshape(3, batch)
        self._host_tables = host[3 * batch :].reshape(batch, width)

    def fill(self, token_ids: Sequence[int], meta: PagedMeta) -> None:
        """Without waiting: the last step's copy is over, since a step ends when the device is done with it."""
        self._host_rows[0] = token_ids
        self._host_rows[1] = meta.positions.numpy()
        self._host_rows[2] = meta.slot_mapping.numpy()
        tables = meta.block_tables.numpy()
        self._host_tables[:, : tables.shape[1]] = tables
        self._packed.copy_(self._host, non_blocking=True)
