"""One layer's keys and values in the blocks, as a step writes and reads them."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from workers.model import fp8
from workers.model.fp8 import KVScales

# (key, value [1, heads, T, dim], k_rows, v_rows [num_slots, heads, dim], slots [T]): writes the rows at `slots`
WriteKV = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]


def copy_rows(key: Tensor, value: Tensor, k_rows: Tensor, v_rows: Tensor, slots: Tensor) -> None:
    k_rows.index_copy_(0, slots, key[0].transpose(0, 1))
    v_rows.index_copy_(0, slots, value[0].transpose(0, 1))


class LayerCache(NamedTuple):
    """Views of one layer's blocks.

    Attributes:
        k_rows, v_rows: [num_slots, num_kv_heads, head_dim]; bytes where they are in FP8.
        k_cache, v_cache: [num_blocks, block_size, num_kv_heads, head_dim], as attention reads them.
        scales: None: they are of the model's dtype.
    """

    k_rows: Tensor
    v_rows: Tensor
    k_cache: Tensor
    v_cache: Tensor
    scales: KVScales | None = None

    @classmethod
    def of(cls, layer: Tensor, scales: KVScales | None = None) -> "LayerCache":
        """`layer`: [2, num_blocks, block_size, num_kv_heads, head_dim]."""
        read = layer if scales is None else layer.view(fp8.DTYPE)
        return cls(layer[0].flatten(0, 1), layer[1].flatten(0, 1), read[0], read[1], scales)

    def write(self, write_kv: WriteKV, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """`write_kv` is given what is kept, bytes in FP8."""
        if self.scales is not None:
            key, value = fp8.to_bytes(key, self.scales.inverses[0]), fp8.to_bytes(value, self.scales.inverses[1])
        write_kv(key, value, self.k_rows, self.v_rows, slots)
