"""Runs a step's chunks through a transformers model over paged KV.

Chunks are packed ragged as one row of T tokens; per layer, keys and values go into the blocks first, then `on_layer`
is told, then attention runs, so that a link may push while the layer is still attending.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.engine.sampler import sample
from workers.engine.sequence import SamplingParams
from workers.model import attention_torch, cpu_attention, specs
from workers.model.attention import PagedAttention, PagedMeta, build_meta
from workers.model.contract import Batch, Chunk, Sampled, SampleRow
from workers.model.kv_store import TorchKVStore, count_blocks
from workers.model.loader import load_model
from workers.spec import WorkerSpec


class Step:
    """One forward pass: what `workers.model.binding` hands to each layer."""

    __slots__ = ("attention", "caches", "meta", "on_layer", "slots")

    def __init__(
        self,
        meta: PagedMeta,
        slots: Tensor,
        caches: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
        attention: PagedAttention,
        on_layer: Callable[[int], None] | None,
    ) -> None:
        self.meta = meta
        self.slots = slots  # [T], on the device
        self.caches = caches
        self.attention = attention
        self.on_layer = on_layer

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        k_rows, v_rows, k_cache, v_cache = self.caches[layer]
        k_rows.index_copy_(0, self.slots, key[0].transpose(0, 1))
        v_rows.index_copy_(0, self.slots, value[0].transpose(0, 1))
        if self.on_layer is not None:
            self.on_layer(layer)
        rows = query[0].transpose(0, 1)
        found = self.attention(
            rows, k_cache, v_cache, self.meta, scale=scale, window=window, softcap=softcap, sinks=sinks
        )
        return found[None]


class TorchRunner:
    """Implements `workers.model.contract.ModelRunner`. Not thread-safe."""

    def __init__(self, spec: WorkerSpec) -> None:
        loaded = load_model(spec)
        self.model: Any = loaded.model
        self.device = loaded.device
        self.vocab_size: int = int(loaded.config.vocab_size)
        self.eos_token_ids = loaded.eos_token_ids
        self.fingerprint = loaded.fingerprint
        engine = spec.engine
        self.num_blocks = count_blocks(
            loaded.shapes,
            block_size=engine.block_size,
            dtype=loaded.dtype,
            memory_bytes=engine.memory_bytes,
            max_model_len=engine.max_model_len,
        )
        self.max_model_len = engine.max_model_len or min(
            specs.max_positions(loaded.config), self.num_blocks * engine.block_size
        )
        self.store = TorchKVStore(
            loaded.shapes,
            num_blocks=self.num_blocks,
            block_size=engine.block_size,
            dtype=loaded.dtype,
            device=self.device,
        )
        self._caches = [
            (layer[0].flatten(0, 1), layer[1].flatten(0, 1), layer[0], layer[1]) for layer in self.store.layers
        ]
        self.attention = self._prepare(loaded.dtype)

    @torch.inference_mode()
    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[Sampled]:
        meta = build_meta(batch.chunks, self.store.block_size)
        tokens = torch.tensor([[token for chunk in batch.chunks for token in chunk.token_ids]], device=self.device)
        step = Step(meta, meta.slot_mapping.to(self.device), self._caches, self.attention, on_layer)
        inputs = {"input_ids": tokens, "position_ids": meta.positions[None].to(self.device), "use_cache": False}
        if not batch.samples:
            self.model.base_model(**inputs, step=step)
            return []
        rows = torch.tensor([meta.query_starts[row.chunk + 1] - 1 for row in batch.samples], device=self.device)
        logits = self.model(**inputs, logits_to_keep=rows, step=step).logits[0]  # [num_samples, vocab_size]
        return sample(logits.float(), batch.samples, self.eos_token_ids)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self.store.copy_blocks(pairs)

    def warm_up(self) -> None:
        """A prompt and a decode, in blocks that are free by contract: called before the engine runs."""
        size = self.store.block_size
        length = min(2 * size, self.max_model_len) - 1
        blocks = list(range(-(-(length + 1) // size)))
        for start, num_tokens in ((0, length), (length, 1)):
            if num_tokens:
                chunk = Chunk(
                    token_ids=[0] * num_tokens, start=start, block_ids=blocks, num_sequence_tokens=start + num_tokens
                )
                row = SampleRow(
                    chunk=0,
                    choice=0,
                    params=SamplingParams(max_tokens=1, temperature=0.0),
                    prompt_token_ids=(0,),
                    output_token_ids=(),
                )
                self.run(Batch(chunks=[chunk], samples=[row]))
        for layer in self.store.layers:
            layer[:, blocks] = 0

    def _prepare(self, dtype: torch.dtype) -> PagedAttention:
        """Picks the attention path of the device, and packs the weights where that pays."""
        if self.device.type == "cpu" and dtype in cpu_attention.DTYPES and cpu_attention.available():
            return cpu_attention.paged_attention
        return attention_torch.paged_attention
