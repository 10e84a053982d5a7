"""A deterministic model without torch, for tests of all that is around a model.

The next token is a hash of the token ids, the split between prompt and output, the choice and (above temperature 0)
the seed. Before each token the whole sequence is read back from its blocks and compared, so that whatever the engine or
a link did wrong to a block fails the step. Of the sampling parameters it honours what control planes depend on:
temperature (0 or not), seed, logprobs, `min_tokens`, and a `logit_bias` of 100 (forced) and -100 (never).
"""

import json
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from baton.errors import ConfigError
from workers.adapters.adapter import AdapterSpec
from workers.model.contract import Batch, Begun, Chunk, Launched, Row, Sampled, SampleRow, TokenMasks, Watch
from workers.model.drafts import accept, single_rows
from workers.model.fake_store import TOKEN_NBYTES, FakeStore
from workers.model.prompt_rows import MAX_ROWS, PromptRow, PromptScores
from workers.model.sampling_params import SamplingParams
from workers.model.trees import depths
from workers.spec import WorkerSpec

NUM_LAYERS = 4
MAX_NUM_BLOCKS = 8192  # of the 1 GiB that is the default, this much is enough
VOCAB_SIZE = 512
EOS_TOKEN_ID = 0
MAX_MODEL_LEN = 8192
FORCED = 100.0  # of `logit_bias`


class FakeRunner:
    """A ModelRunner. Vocabulary, EOS and length are those of `spec.model`/config.json where that file exists."""

    runs_ahead = False
    num_states = 0
    state_spacing: int | None = None

    def __init__(self, spec: WorkerSpec) -> None:
        engine = spec.engine
        block_nbytes = NUM_LAYERS * engine.block_size * TOKEN_NBYTES
        self.num_blocks = min(engine.memory_bytes // block_nbytes, MAX_NUM_BLOCKS)
        if self.num_blocks < 1:
            raise ConfigError(f"engine.memory: {engine.memory_bytes} bytes hold no block of {block_nbytes}; give more")
        self.vocab_size, self.eos_token_ids, model_len = _shape(Path(spec.model))
        num_tokens = self.num_blocks * engine.block_size
        if (engine.max_model_len or 0) > num_tokens:
            raise ConfigError(
                f"engine.max_model_len: {engine.max_model_len} tokens do not fit into {num_tokens} tokens of KV; "
                "lower it or raise engine.memory"
            )
        self.max_model_len = engine.max_model_len or min(model_len, num_tokens)
        self.kv_shares = 1
        self.state_nbytes = 0
        self.fingerprint = f"fake/{self.vocab_size}/{spec.seed}"
        self.store = FakeStore(num_layers=NUM_LAYERS, num_blocks=self.num_blocks, block_size=engine.block_size)
        self._layer_s = spec.fake_step_s / NUM_LAYERS

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        """Raises: KVMismatchError, AssertionError on a batch that breaks the contract."""
        self.compute(batch.chunks, (), on_layer)
        self._verify(batch)
        for row in batch.prompts:
            self._score(row, batch.chunks[row.chunk])
        singles = single_rows(batch.samples)
        if batch.watch is not None:
            self._tell(batch.watch, singles)
        return accept(batch.samples, self._sample_all(singles, _forbidden(batch.masks)))

    def launch(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> Launched:
        raise NotImplementedError("steps of a fake are run")

    def compute(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None = None
    ) -> None:
        """As a rank that does not lead: each has all of the KV. Raises: AssertionError, as `run`."""
        self._check(chunks)
        for layer in range(NUM_LAYERS):
            for chunk in chunks:
                self.store.compute(layer, chunk.block_ids, chunk.start, chunk.token_ids, _positions(chunk))
            if self._layer_s:
                time.sleep(self._layer_s)
            if on_layer is not None:
                on_layer(layer)

    def begin(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None = None
    ) -> Begun:
        raise NotImplementedError("steps of a fake are run")

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.store.copy(source, target)

    def copy_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.store.copy_tokens(pairs)

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        """There are none."""

    def load_adapter(self, adapter_id: int, adapter: AdapterSpec) -> None:
        """Of any folder: answers are the same with it."""

    def unload_adapter(self, adapter_id: int) -> None:
        """There are no weights."""

    def settle_states(self, num_tokens: Mapping[int, int]) -> None:
        """There are none."""

    def warm_up(self) -> None:
        """Nothing to pay for: there are no weights and no kernels."""

    @staticmethod
    def expected_output(
        prompt: Sequence[int],
        params: SamplingParams,
        choice: int,
        n: int,
        *,
        vocab_size: int = VOCAB_SIZE,
        eos_token_ids: Iterable[int] = (EOS_TOKEN_ID,),
    ) -> list[int]:
        """The first `n` tokens of a choice; fewer if `max_tokens`, EOS or a stop token (included) ends it before."""
        stops = params.stops(eos_token_ids)
        output: list[int] = []
        while len(output) < min(n, params.max_tokens):
            state = _state(_packed([*prompt, *output]), len(output), choice, params)
            output.append(_token(state, len(output), params, vocab_size, stops))
            if output[-1] in stops and len(output) >= params.min_tokens:
                break
        return output

    @staticmethod
    def expected_prompt_logprob(prompt: Sequence[int], place: int) -> tuple[float, int]:
        """(logprob, rank) of the token at `place` of a prompt, from 1."""
        value = (31 * prompt[place] + 7 * prompt[place - 1] + place) % 1000
        return -value / 1000, value + 1

    def _score(self, row: PromptRow, chunk: Chunk) -> None:
        """A function of a token, the one before it and its place; the likeliest ones are the tokens after it."""
        tokens = [chunk.token_ids[0], *row.next_token_ids]
        assert len(row.next_token_ids) == chunk.num_scored, f"{len(row.next_token_ids)} tokens for {chunk.num_scored}"
        assert tokens[1 : len(chunk.token_ids)] == [*chunk.token_ids[1 : len(tokens)]], "tokens that do not follow"
        padded = [0] * chunk.start + tokens
        places = range(chunk.start + 1, len(padded))
        found = [self.expected_prompt_logprob(padded, place) for place in places]
        logprobs = np.array([logprob for logprob, _ in found], dtype=np.float32)
        ids = (np.array(row.next_token_ids)[:, None] + np.arange(row.num_top)) % self.vocab_size
        tops = logprobs[:, None] - np.arange(row.num_top)
        ranks = np.array([rank for _, rank in found])
        for first in range(0, len(places), MAX_ROWS):
            some = slice(first, first + MAX_ROWS)
            row.found.append(PromptScores(logprobs[some], ranks[some], ids[some], tops[some]))

    def _check(self, chunks: Sequence[Chunk]) -> None:
        """No block that one chunk writes belongs to another, and every token exists."""
        size = self.store.block_size
        writers: dict[int, int] = {}
        for index, chunk in enumerate(chunks):
            end = chunk.start + len(chunk.token_ids)
            assert chunk.token_ids, f"chunk {index} has no tokens"
            assert end <= chunk.num_sequence_tokens, f"chunk {index} ends at {end} of {chunk.num_sequence_tokens}"
            assert 0 <= min(chunk.token_ids) <= max(chunk.token_ids) < self.vocab_size, f"chunk {index}: unknown token"
            for block_id in chunk.block_ids[chunk.start // size : -(-end // size)]:
                assert writers.setdefault(block_id, index) == index, f"two chunks write block {block_id}"
        for index, chunk in enumerate(chunks):
            for block_id in chunk.block_ids:
                assert writers.get(block_id, index) == index, f"a chunk writes block {block_id} of another sequence"

    def _verify(self, batch: Batch) -> None:
        """Reads back all tokens of each sequence that is sampled from, up to the chunk's end."""
        for row in {row.chunk: row for row in batch.samples}.values():
            chunk = batch.chunks[row.chunk]
            token_ids = [*row.prompt_token_ids, *row.output_token_ids, *row.draft_token_ids]
            end = chunk.start + len(chunk.token_ids)
            assert end == len(token_ids), f"sampled after {end} of {len(token_ids)} tokens"
            assert len(row.draft_token_ids) < len(chunk.token_ids), "a chunk of drafts alone has nothing to follow"
            assert chunk.parents == row.parents, "the tree that is computed is not the one that is sampled from"
            own = _positions(chunk)
            self.store.verify(chunk.block_ids, token_ids, None if own is None else [*range(chunk.start), *own])

    def _sample_all(self, rows: Sequence[SampleRow], forbidden: Mapping[int, Any] | None = None) -> list[Sampled]:
        """`forbidden`: by row, a bool for each token."""
        packed: dict[int, tuple[SampleRow, bytes]] = {}  # of each chunk the first row, whose tokens others begin with
        sampled = []
        for number, row in enumerate(rows):
            if row.chunk not in packed:
                packed[row.chunk] = row, _packed([*row.prompt_token_ids, *row.output_token_ids])
            first, begin = packed[row.chunk]
            tail = row.output_token_ids[len(first.output_token_ids) :]
            state = begin + _packed(tail) if tail else begin
            sampled.append(self._sample(row, state, (forbidden or {}).get(number, ())))
        return sampled

    def _tell(self, watch: Watch, rows: Sequence[SampleRow]) -> None:
        """What would be sampled, and the tokens after it."""
        token_ids = [(row.output_token_ids or row.prompt_token_ids)[-1] for row in rows]
        likeliest = np.array([[sampled.token_id] for sampled in self._sample_all(rows)])
        watch.saw(token_ids, (likeliest + np.arange(watch.num_successors)) % self.vocab_size)

    def _sample(self, row: SampleRow, packed_token_ids: bytes, forbidden: Sequence[bool]) -> Sampled:
        params, num_outputs = row.params, len(row.output_token_ids)
        stops = frozenset() if row.is_masked else params.stops(self.eos_token_ids)
        state = _state(packed_token_ids, num_outputs, row.choice, params)
        token_id = _token(state, num_outputs, params, self.vocab_size, stops, forbidden)
        if params.logprobs is None:
            return Sampled(token_id=token_id)
        logprob = -(state % 1000) / 1000
        ids = [(token_id + offset) % self.vocab_size for offset in range(min(params.logprobs, self.vocab_size))]
        top = tuple((other, logprob - offset) for offset, other in enumerate(ids))
        return Sampled(token_id=token_id, logprob=logprob, top=top)


def _shape(folder: Path) -> tuple[int, frozenset[int], int]:
    """(vocabulary, EOS ids, length) of the model in `folder`, the fake's own where it has no config.json."""
    path = folder / "config.json"
    if not path.is_file():
        return VOCAB_SIZE, frozenset({EOS_TOKEN_ID}), MAX_MODEL_LEN
    config = json.loads(path.read_text())
    eos = config.get("eos_token_id", EOS_TOKEN_ID)
    eos_token_ids = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])
    return config.get("vocab_size", VOCAB_SIZE), eos_token_ids, config.get("max_position_embeddings", MAX_MODEL_LEN)


def _positions(chunk: Chunk) -> list[int] | None:
    """Of its tokens; None: one after the other."""
    return [chunk.start + depth for depth in (0, *depths(chunk.parents))] if chunk.parents else None


def _packed(token_ids: Sequence[int]) -> bytes:
    """Four bytes for each."""
    return np.array(token_ids, dtype=np.int32).tobytes()


def _state(packed_token_ids: bytes, num_outputs: int, choice: int, params: SamplingParams) -> int:
    seed = params.seed if params.temperature > 0 else 0
    packed = packed_token_ids + struct.pack("<IIQ", num_outputs, choice, seed)
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little")


def _forbidden(masks: TokenMasks | None) -> Mapping[int, Any] | None:
    return dict(zip(masks.rows, masks.forbidden(), strict=True)) if masks is not None else None


def _token(
    state: int,
    num_outputs: int,
    params: SamplingParams,
    vocab_size: int,
    stops: frozenset[int],
    forbidden: Sequence[bool] = (),
) -> int:
    """The first allowed token at or after the hashed one."""
    forced = [token_id for token_id, bias in params.logit_bias if bias >= FORCED]
    barred = {token_id for token_id, bias in params.logit_bias if bias <= -FORCED}
    if num_outputs < params.min_tokens:
        barred |= stops
    barred.update(np.flatnonzero(forbidden).tolist() if len(forbidden) else ())
    for token_id in forced:
        if token_id not in barred:
            return token_id
    for offset in range(vocab_size):
        token_id = (state + offset) % vocab_size
        if token_id not in barred:
            return token_id
    raise AssertionError("every token of the vocabulary is barred")
