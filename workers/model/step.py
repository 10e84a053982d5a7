"""One forward pass over paged KV: what `workers.model.binding` hands to each layer.

Per layer, keys and values go into the blocks first, then `on_layer` is told, then attention runs, so that a link may
push while the layer is still attending.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from workers.model.attention import PagedAttention, PagedMeta, Scoring
from workers.model.cuda.elementwise import HeadNorms, rotate_and_write
from workers.model.cuda.fused import turned
from workers.model.hybrid.mixer import LinearStep, Recurrence
from workers.model.layer_cache import LayerCache, WriteKV, copy_rows


class Step:
    """One forward pass: what `workers.model.binding` hands to each layer."""

    __slots__ = ("attention", "caches", "meta", "on_layer", "slots", "states", "write_kv")

    def __init__(
        self,
        slots: Tensor,
        caches: Mapping[int, LayerCache],
        meta: PagedMeta,
        attention: PagedAttention,
        write_kv: WriteKV,
        on_layer: Callable[[int], None] | None,
        states: LinearStep | None = None,
    ) -> None:
        self.write_kv = write_kv
        self.meta = meta
        self.slots = slots  # [T], on the device
        self.caches = caches
        self.attention = attention
        self.on_layer = on_layer
        self.states = states  # None: no layer keeps one

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scoring: Scoring,
    ) -> Tensor:
        cache = self.caches[layer]
        cache.write(self.write_kv, key, value, self.slots)
        if self.on_layer is not None:
            self.on_layer(layer)
        rows = query[0].transpose(0, 1)
        return self.attention(rows, cache.k_cache, cache.v_cache, self.meta, scoring, cache.scales)[None]

    def turn_and_attend(
        self, layer: int, qkv: Tensor, cos: Tensor, sin: Tensor, norms: HeadNorms | None, scoring: Scoring
    ) -> Tensor:
        """The same of queries and keys that are to be turned yet, on a GPU: see `workers.model.cuda.fused`."""
        cache = self.caches[layer]
        if self.write_kv is not copy_rows:
            num_heads = qkv.shape[1] - 2 * cache.k_rows.shape[1]
            return self.attend(layer, *turned(qkv, cos, sin, num_heads, norms), scoring)
        query = rotate_and_write(qkv, cos, sin, cache.k_rows, cache.v_rows, self.slots, norms, cache.scales)
        if self.on_layer is not None:
            self.on_layer(layer)
        return self.attention(query, cache.k_cache, cache.v_cache, self.meta, scoring, cache.scales)[None]

    def convolve(self, layer: int, x: Tensor, convolution: nn.Conv1d) -> Tensor:
        assert self.states is not None
        return self.states.convolve(layer, x, convolution)

    def recur(self, layer: int, recurrence: Recurrence) -> Tensor:
        assert self.states is not None
        out = self.states.recur(layer, recurrence)
        if self.on_layer is not None:
            self.on_layer(layer)
        return out
