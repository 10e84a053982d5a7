"""Runs a step's chunks through a transformers model over paged KV.

Chunks are packed ragged as one row of T tokens; what happens in a layer is `workers.model.step`'s to say.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.adapters.adapter import AdapterSpec
from workers.memory_shares import check_spacing
from workers.model import attention_torch, fp8, specs
from workers.model.attention import PagedAttention, PagedMeta, build_meta
from workers.model.contract import Batch, Chunk, Row, Sampled
from workers.model.cpu import attention as cpu_attention
from workers.model.cpu import elementwise as cpu_elementwise
from workers.model.cpu import memory as cpu_memory
from workers.model.cpu import packed
from workers.model.cuda import sampling as cuda_sampling
from workers.model.cuda.capture import Capture
from workers.model.cuda.choose import Case, Chosen, choose
from workers.model.cuda.fused import fuse_layers
from workers.model.cuda.graph_sizes import GraphSizes
from workers.model.cuda.graphs import StepGraphs
from workers.model.cuda.inputs import Taken, following, take_tokens, together
from workers.model.cuda.kinds import Kind, KindsNoted, filled
from workers.model.cuda.launching import StreamMark, marked
from workers.model.cuda.ways import Way, ways
from workers.model.device_faults import lost_devices_named
from workers.model.drafts import accept, num_accepted, single_rows
from workers.model.hybrid.mixer import LinearStep
from workers.model.hybrid.split import linear_step
from workers.model.kv_scales import kv_format
from workers.model.kv_store import LayerShape, TorchKVStore
from workers.model.last_drawn import LastDrawn
from workers.model.layer_cache import LayerCache, WriteKV, copy_rows
from workers.model.likeliest import tell
from workers.model.loader import LoadedModel, load_model
from workers.model.lora.adapters import Adapters
from workers.model.masking import apply_masks
from workers.model.memory_account import Part, account_of, names_parts, peak_of
from workers.model.memory_plan import plan_memory
from workers.model.prompt_rows import PromptRow
from workers.model.prompt_scores import KeptOutputs, has_scored, score_prompts
from workers.model.sampler import Drawn, draw
from workers.model.state_shape import StateShape
from workers.model.step import Step
from workers.model.tensor_parallel.ranks import Ranks
from workers.model.warm_steps import largest_batch, smallest_batches
from workers.spec import EngineSpec, WorkerSpec

logger = logging.getLogger(__name__)

MAX_TOLD_LATE = 64  # new tokens of a step that is replayed though it is handed over: see docs/gpu.md


class LaunchedStep:
    """Implements `workers.model.contract.Launched`."""

    def __init__(self, runner: "TorchRunner", batch: Batch, drawn: Drawn | None) -> None:
        self._runner = runner
        self._batch = batch
        self._drawn = drawn
        self._has_drafts = runner.has_unsettled
        self._done = marked(runner.device) if drawn is None else None  # else what was drawn comes last

    @lost_devices_named()
    def result(self) -> list[list[Sampled]]:
        if self._done is not None:
            self._done.wait()
        if self._drawn is None:
            return []
        found = accept(self._batch.samples, self._drawn.result())
        if self._has_drafts:
            self._runner.settle_states(num_accepted(self._batch, found))
        return found


class TorchRunner:
    """Implements `workers.model.contract.ModelRunner`. Not thread-safe."""

    @names_parts
    def __init__(
        self, spec: WorkerSpec, *, native: bool = True, ranks: Ranks | None = None, loaded: LoadedModel | None = None
    ) -> None:
        """
        Args:
            native: False: torch's own ops alone, to compare with; no compiled kernels, packed weights or graphs.
            ranks: Beside which this one holds a share of the model; None: it holds all of it.
            loaded: What to run; None: what `load_model` gives.
        """
        self.memory = account_of(spec.device)
        loaded = loaded or load_model(spec, ranks)
        self._ranks = ranks
        self.model: Any = loaded.model
        self.device, self.dtype = loaded.device, loaded.dtype
        self.vocab_size: int = int(loaded.config.vocab_size)
        self.eos_token_ids = loaded.eos_token_ids
        self.fingerprint = loaded.fingerprint
        self.kv_shares = loaded.num_shares
        self.state_nbytes = sum(shape.nbytes for shape in loaded.whole_shapes if isinstance(shape, StateShape))
        self._engine = engine = spec.engine
        if native and self.device.type == "cuda":
            fuse_layers(self.model, loaded.dtype)  # before KV takes the memory that it needs meanwhile
        self.memory.begin(Part.KV)
        kv = kv_format(spec, loaded.whole_shapes, loaded.place, loaded.dtype, loaded.device)
        # Of the whole model, so that blocks do not depend on how many ranks share them.
        shares = plan_memory(loaded.whole_shapes, engine, kv.dtype)
        self.num_blocks, self.num_states, self.state_spacing = shares
        self.max_model_len = engine.max_model_len or min(
            specs.max_positions(loaded.config), self.num_blocks * engine.block_size
        )
        check_spacing(engine, self.max_model_len)
        held = {layer: loaded.shapes[layer] for layer in loaded.layers}
        self.store = TorchKVStore(
            list(held.values()),
            num_blocks=self.num_blocks + (self.device.type == "cuda"),  # the last is scratch for padded decodes
            block_size=engine.block_size,
            dtype=kv.dtype,
            device=self.device,
            place=loaded.place,
            whole=[loaded.whole_shapes[layer] for layer in held],
            names=[kv.names.get(layer, "") for layer in held],
            num_states=self.num_states,
        )
        attending = [index for index, shape in held.items() if isinstance(shape, LayerShape)]
        recurring = [index for index, shape in held.items() if isinstance(shape, StateShape)]
        self._caches = {
            index: LayerCache.of(layer, kv.scales.get(index))
            for index, layer in zip(attending, self.store.layers, strict=True)
        }
        self._states = dict(zip(recurring, self.store.states, strict=True))
        self._adapters = Adapters(loaded.model, loaded.linears, dtype=loaded.dtype, device=self.device)
        shares_stream = ranks is None or ranks.can_capture  # what ranks tell each other is in order with the rest
        self.runs_ahead = self.device.type == "cuda" and shares_stream and engine.async_scheduling
        self._last = LastDrawn(ranks, self.device)
        self._unsettled: LinearStep | None = None  # of the last pass, if it had drafts
        self.attention: PagedAttention = attention_torch.paged_attention
        self.attention_name = ""  # how a GPU attends, as `cuda.choose` found
        self._write_kv: WriteKV = copy_rows
        self.graphs: StepGraphs | None = None
        self.memory.begin(Part.WORKSPACE)
        if native and self.device.type == "cuda":
            self._prepare_cuda(loaded, spec)
        elif native:
            self._prepare_cpu(loaded)
        loaded.begin()
        for adapter_id, adapter in enumerate(spec.adapters, start=1):
            self.load_adapter(adapter_id, adapter)

    def load_adapter(self, adapter_id: int, adapter: AdapterSpec) -> None:
        self._adapters.load(adapter_id, adapter)

    def unload_adapter(self, adapter_id: int) -> None:
        self._adapters.unload(adapter_id)

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        return self.launch(batch, on_layer).result()

    @lost_devices_named()
    @torch.inference_mode()
    def launch(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> "LaunchedStep":
        """As `workers.model.contract.ModelRunner` has it; on a CPU the step is done when this returns."""
        try:
            drawn = self._drawn(batch, on_layer)
        except BaseException:
            self._unsettled = None
            self._synchronize()
            raise
        self._last.drew(None if drawn is None else drawn.token_ids, 0 if drawn is None else len(drawn.token_ids))
        return LaunchedStep(self, batch, drawn)

    def _drawn(self, batch: Batch, on_layer: Callable[[int], None] | None) -> Drawn | None:
        rows = batch.rows
        logits = self._read(batch.chunks, rows, on_layer, batch.prompts)
        if not rows or logits is None:
            return None
        if batch.watch is not None:
            tell(batch.watch, batch, logits)
        logits = logits.float()
        if batch.masks is not None:
            apply_masks(logits, batch.masks)
        return draw(logits, single_rows(batch.samples), self.eos_token_ids, self._last.token_ids)

    @torch.inference_mode()
    def begin(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None = None
    ) -> StreamMark:
        """Implements `workers.model.contract.Share`."""
        try:
            self._read(chunks, rows, on_layer)
        except BaseException:
            self._synchronize()
            raise
        self._last.drew(None, sum(1 + row.num_drafts for row in rows))
        return marked(self.device)

    @torch.inference_mode()
    def compute(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None = None
    ) -> Tensor | None:
        """Implements `workers.model.contract.Share`."""
        try:
            return self._read(chunks, rows, on_layer)
        finally:
            self._synchronize()

    def _synchronize(self) -> None:
        """Waits for the device: blocks that are freed now may be written by a link's stream next."""
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def _read(
        self,
        chunks: Sequence[Chunk],
        rows: Sequence[Row],
        on_layer: Callable[[int], None] | None,
        prompts: Sequence[PromptRow] = (),
    ) -> Tensor | None:
        """As `_logits`; where prompts are to be scored, that too. `prompts` are given on the rank that leads alone."""
        if not has_scored(chunks):
            return self._logits(chunks, rows, on_layer)
        graphs, self.graphs = self.graphs, None  # a prompt's last token may be alone: a replay keeps no outputs
        try:
            with KeptOutputs(self.model) as kept:
                logits = self._logits(chunks, rows, on_layer)
        finally:
            self.graphs = graphs
        self._score(kept, chunks, rows, prompts)
        return logits

    def _score(
        self, kept: KeptOutputs, chunks: Sequence[Chunk], rows: Sequence[Row], prompts: Sequence[PromptRow]
    ) -> None:
        """`rows`: the step's, for those who divide it."""
        score_prompts(kept, chunks, prompts, vocab_size=self.vocab_size, whole=self._whole)

    def _logits(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None
    ) -> Tensor | None:
        """[tokens of all rows, vocab_size]; None on a rank that does not lead."""
        has_adapters = self._adapters.use(chunks)  # no graph has any, nor shall one that is made now
        logits = self._replayed(chunks, rows, on_layer) if self.graphs is not None and not has_adapters else None
        if logits is None:
            logits = self._computed(chunks, rows, on_layer)
        return logits if logits is None or not rows else self._whole(logits)

    def _whole(self, logits: Tensor) -> Tensor | None:
        """Of all tokens of the vocabulary, where each rank has some; None on a rank that does not lead."""
        if self._ranks is None:
            return logits
        parts = self._ranks.gather(logits)
        return None if parts is None else torch.cat(parts, dim=1)[:, : self.vocab_size]

    def _computed(
        self,
        chunks: Sequence[Chunk],
        rows: Sequence[Row],
        on_layer: Callable[[int], None] | None,
        write_kv: WriteKV | None = None,
        states: LinearStep | None = None,
    ) -> Tensor | None:
        """`write_kv`, `states`: in place of the runner's own."""
        self._adapters.use(chunks)
        meta = build_meta(chunks, self.store.block_size)
        assert not (meta.trees and self._states), "a state goes through one path alone"
        tokens = torch.tensor([[token for chunk in chunks for token in chunk.token_ids]])
        followed = following(chunks)
        ends = [(meta.query_starts[row.chunk + 1], row.num_drafts) for row in rows]
        places = torch.tensor([at for end, drafts in ends for at in range(end - drafts - 1, end)], dtype=torch.int64)
        device = self.device
        positions, slots = meta.positions[None], meta.slot_mapping
        if device.type != "cpu":
            tokens, positions, slots, places, followed = together((tokens, positions, slots, places, followed), device)
        self._follow(tokens[0], followed)
        if states is None and self._states:
            states = linear_step(self._states, chunks, device)
        has_drafts = states is not None and any(chunk.num_drafts for chunk in chunks)
        self._unsettled = states if has_drafts else None
        return self._forward(tokens, positions, slots, meta, self.attention, on_layer, places, write_kv, states)

    def _follow(self, tokens: Tensor, followed: Tensor) -> None:
        """Puts into `tokens` [T] what the last step drew: see `workers.model.cuda.inputs.following`."""
        if followed.shape[1]:
            take_tokens(tokens, self._last.on_every_rank(), *followed)

    def _replayed(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None
    ) -> Tensor | None:
        """The same from a CUDA graph; None when there is none for such a step.

        Layers are told of when all are launched, and so are sent when all are computed: larger chunks are not replayed.
        """
        assert self.graphs is not None
        num_tokens = sum(len(chunk.token_ids) for chunk in chunks)
        if not rows or (on_layer is not None and num_tokens > max(len(chunks), MAX_TOLD_LATE)):
            return None
        followed = following(chunks)
        taken = None
        if followed.shape[1]:
            taken = Taken(self._last.on_every_rank(), where=followed[0], rows=followed[1])
        logits = self.graphs.run(chunks, rows, taken)
        if logits is not None and on_layer is not None:
            for layer in range(len(self._caches)):
                on_layer(layer)
        return logits

    def _forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        meta: PagedMeta,
        attention: PagedAttention,
        on_layer: Callable[[int], None] | None = None,
        rows: Tensor | None = None,
        write_kv: WriteKV | None = None,
        states: LinearStep | None = None,
    ) -> Tensor:
        """Logits [num_rows, vocab_size] of the given rows, of all when None. Tensors are on the device."""
        step = Step(slots, self._caches, meta, attention, write_kv or self._write_kv, on_layer, states)
        inputs = {"input_ids": tokens, "position_ids": positions, "use_cache": False, "step": step}
        if rows is not None and not len(rows):
            self.model.base_model(**inputs)
            return rows
        logits: Tensor = self.model(**inputs, logits_to_keep=0 if rows is None else rows).logits[0]
        return logits

    @lost_devices_named()
    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self.store.copy_blocks(pairs)
            self._synchronize()

    @lost_devices_named()
    def copy_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self.store.copy_tokens(pairs)
            self._synchronize()

    @lost_devices_named()
    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self.store.copy_states(pairs)
            self._synchronize()

    @property
    def has_unsettled(self) -> bool:
        """The last step had drafts, and states wait for what came of them."""
        return self._unsettled is not None

    @torch.inference_mode()
    def settle_states(self, num_tokens: Mapping[int, int]) -> None:
        """Implements `workers.model.contract.Share`."""
        if self._unsettled is not None:
            self._unsettled.settle(num_tokens)
            self._unsettled = None
            self._synchronize()

    @names_parts
    def warm_up(self) -> None:
        """A prompt and a decode, in blocks and slots that are free by contract: called before the engine runs.

        On a GPU graphs and the largest step too, so that none runs out of memory later.
        """
        self.memory.begin(Part.GRAPHS)
        if self.graphs is not None:
            self.graphs.capture_usual(most_of_all=self._most_of_all)
        self.memory.begin(Part.WORKSPACE)
        if self.device.type == "cuda":
            self._run_largest()
            logger.info("memory of the device %s", self.memory)
        for batch in smallest_batches(self.store.block_size, self.max_model_len, has_states=bool(self.num_states)):
            self.run(batch)
            self._empty(batch)

    def _empty(self, batch: Batch) -> None:
        """The blocks of a batch that warmed up."""
        for chunk in batch.chunks:
            for layer in self.store.layers:
                layer[:, chunk.block_ids] = 0

    def _run_largest(self) -> None:
        """Without graphs, as some steps are run; adds what it takes to the account."""
        batch = largest_batch(
            self._engine,
            num_blocks=self.num_blocks,
            max_model_len=self.max_model_len,
            has_states=bool(self.num_states),
        )
        graphs, self.graphs = self.graphs, None
        try:
            with peak_of(self.device) as peak:
                self.run(batch)
        finally:
            self.graphs = graphs
        self.memory.add(peak.nbytes)
        self._empty(batch)

    def _prepare_cpu(self, loaded: LoadedModel) -> None:
        cpu_memory.keep_freed_memory()
        if self.store.dtype in cpu_attention.DTYPES and cpu_attention.available():
            self.attention = cpu_attention.paged_attention
        if loaded.dtype in cpu_elementwise.DTYPES and cpu_elementwise.available():
            packed.fuse_layers(loaded.model, loaded.dtype)
            cpu_elementwise.replace(loaded.model, loaded.dtype)
            self._write_kv = cpu_elementwise.write_kv
        packed.pack_linears(loaded.model)
        cpu_memory.use_huge_pages()

    def _prepare_cuda(self, loaded: LoadedModel, spec: WorkerSpec) -> None:
        engine = spec.engine
        cuda_sampling.works(self.device, self.vocab_size)  # compiled before anybody waits
        head_dims = {shape.head_dim for shape in loaded.shapes if isinstance(shape, LayerShape)}
        is_fp8 = self.store.dtype == fp8.DTYPE
        found = ways(self.device, head_dims, loaded.dtype, is_fp8=is_fp8)
        shares_graphs = self._ranks is None or self._ranks.can_capture
        has_graphs = not self._states and shares_graphs  # which slots a step writes is no input of a graph
        kinds = self._kinds()
        chosen = self._choose_way(found, kinds, engine, has_graphs=has_graphs)
        self.attention = chosen.mixed.eager()
        self.runs_ahead = self.runs_ahead and chosen.mixed.runs_ahead and chosen.decode.runs_ahead
        self.attention_name = f"{chosen.text if has_graphs else chosen.mixed.name}{', FP8 KV' if is_fp8 else ''}"
        if has_graphs:
            self.graphs = self._make_graphs(chosen, kinds, spec)

    def _make_graphs(
        self, chosen: Chosen, kinds: Sequence[Kind], spec: WorkerSpec, capture: Capture | None = None
    ) -> StepGraphs:
        engine = spec.engine
        # Ranks that read a prompt together cut its chunks.
        mixed = chosen.ragged if spec.gang.sequence_parallel == 1 else None
        sizes = GraphSizes(
            max_sequences=engine.max_sequences,
            max_tokens=engine.max_batched_tokens,
            max_blocks=-(-self.max_model_len // engine.block_size),
            block_size=engine.block_size,
            has_width=not chosen.decode.is_ragged,
            has_mixed=mixed is not None,
            has_trees=(spec.speculation.tree_width or 1) > 1,
        )
        return StepGraphs(
            self._replayable,
            sizes=sizes,
            decode=chosen.decode,
            mixed=mixed,
            device=self.device,
            scratch_block=self.num_blocks,
            windows=sorted({kind.scoring.window for kind in kinds}, key=lambda window: window or 0),
            capture=capture,
            is_lazy=self._ranks is None,
        )

    def _replayable(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, meta: PagedMeta, attention: PagedAttention, rows: Tensor
    ) -> Tensor:
        return self._forward(tokens, positions, slots, meta, attention, rows=rows)

    def _most_of_all(self, number: float) -> float:
        """The largest of all ranks'."""
        if self._ranks is None:
            return number
        return float(self._ranks.all_gather(torch.tensor([number], device=self.device)).max())

    def _kinds(self) -> Sequence[Kind]:
        noted = KindsNoted()
        self.attention = noted
        slot = 0 if self.num_states else None
        with torch.inference_mode():
            chunk = Chunk(token_ids=[0], start=0, block_ids=[0], num_sequence_tokens=1, state_id=slot)
            TorchRunner._computed(self, [chunk], [], None)  # of this rank alone
        return noted.commonest_first()

    def _choose_way(
        self, found: Sequence[Way], kinds: Sequence[Kind], engine: EngineSpec, *, has_graphs: bool
    ) -> Chosen:
        case = Case(
            kinds=kinds,
            num_layers=len(self._caches),
            max_sequences=engine.max_sequences,
            max_chunk=engine.max_batched_tokens,
            max_model_len=self.max_model_len,
            has_graphs=has_graphs,
            is_timed=self._ranks is None,
        )
        with filled(case.kinds):
            return choose(found, case)
