"""The engine's only view of a model: a step's batch in, sampled tokens out.

Speculation is exact by construction: a draft token is accepted if and only if it is the token that is sampled at its
place anyway, so that drafts change how many tokens a step gives and never which.

Implementations: `workers.model.runner.TorchRunner`, and `workers.model.fake.FakeRunner` without torch.
Nothing here imports torch. What is made for every sequence in each step is not frozen, which would cost 1.5 us each;
nobody changes it all the same.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from workers.adapters.adapter import AdapterSpec
from workers.model.places import EVERY_BLOCK, PLAIN, HeadsOf, Place, Turn
from workers.model.prompt_rows import PromptRow
from workers.model.sampling_params import SamplingParams


class ChunkKind(enum.Enum):
    PREFILL = "prefill"  # tokens that are known: of a prompt, or of a sequence that is read again
    DECODE = "decode"  # the last token of a sequence that is read, and draft tokens that may follow it
    DRAFT = "draft"  # to guess what follows: may be computed nearly; read the tokens again before they count


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Consecutive tokens of one sequence to compute in this step.

    Attributes:
        token_ids: The tokens, at positions [start, start + len(token_ids)), if they are no tree.
        start: Number of the sequence's tokens whose KV is in its blocks already.
        block_ids: Blocks in token order; they cover at least start + len(token_ids) tokens.
        num_sequence_tokens: Tokens the sequence has in all so far (prompt, output and this chunk's drafts), >= start +
            len(token_ids). RoPE variants that depend on the length use this, so that chunking does not change a result.
        kind: What the tokens are; a runner may compute all kinds alike, but for states.
        state_id: The slot of the sequence's state, which is that after `start` tokens (whatever is there when `start`
            is 0), and is that after this chunk, without the drafts that were not accepted, when the step has run. None:
            the model keeps no states.
        num_scored: Of its first tokens, those after which it is wanted how likely the next one is: see `PromptRow`.
        parents: Of a tree of drafts: for each token after the first the one before it, as in `workers.model.trees`;
            at most `trees.MAX_TOKENS`. The position of a token is then that of its parent + 1, and it sees the tokens
            on the way to it alone; keys and values lie in the order of `token_ids` all the same.
        adapter_id: Which LoRA adapter its tokens are computed with, of those that were loaded; 0: none.
        follows: Its only token is what this row of the samples of the step before gives, and `token_ids` a stand-in for
            it: see `ModelRunner.launch`. None: the tokens are known.
    """

    token_ids: Sequence[int]
    start: int
    block_ids: Sequence[int]
    num_sequence_tokens: int
    kind: ChunkKind = ChunkKind.PREFILL
    state_id: int | None = None
    parents: Sequence[int] = ()
    adapter_id: int = 0
    num_scored: int = 0
    follows: int | None = None

    @property
    def num_drafts(self) -> int:
        """Of its last tokens, how many are guesses."""
        return len(self.token_ids) - 1 if self.kind is ChunkKind.DECODE else 0


@dataclass(slots=True, kw_only=True)
class SampleRow:
    """What to sample from the logits of the last 1 + len(draft_token_ids) tokens of chunk number `chunk`.

    The token that follows `output_token_ids`, and after each draft token that proves right the one that follows it.
    Each is a function of (params.seed, choice, number of output tokens before it, token ids) alone, whatever the
    batch, and whether the tokens before it were drafts.

    Attributes:
        draft_token_ids: The chunk's last tokens, if they are guesses at what will be sampled.
        parents: The chunk's. Of the draft tokens after one, or after the root, no two are equal.
        is_masked: The batch's masks say where the answer may end, `min_tokens` and `ignore_eos` included.
        follows: The chunk's: what that row gives is one more output token, after `output_token_ids`.
    """

    chunk: int
    choice: int
    params: SamplingParams
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]
    draft_token_ids: Sequence[int] = ()
    parents: Sequence[int] = ()
    is_masked: bool = False
    follows: int | None = None

    @property
    def num_outputs(self) -> int:
        """Output tokens before the one to sample, if no draft counts."""
        return len(self.output_token_ids) + (self.follows is not None)


class Row(NamedTuple):
    """Whose logits are wanted: of the last 1 + num_drafts tokens of chunk number `chunk`."""

    chunk: int
    num_drafts: int


class Watch(Protocol):
    """Who is told what a step finds likely after tokens, drafts included. Called by the engine's thread, in `run`."""

    num_successors: int  # wanted of each, >= 1

    def saw(self, token_ids: Sequence[int], successors: Any) -> None:
        """Args:
        token_ids: Tokens, in no order that means anything; one may be there more than once.
        successors: For each the likeliest to follow there, likeliest first: an int array [tokens, num_successors].
        """
        ...


class TokenMasks(Protocol):
    """Which tokens may be sampled, of some rows. Made beside the forward pass: who asks before they are there waits."""

    @property
    def rows(self) -> Sequence[int]:
        """Which of `workers.model.drafts.single_rows` they are of, ascending."""
        ...

    def bits(self) -> Any:
        """Allowed tokens: an int32 array [len(rows), words], token i is bit i % 32 of word i // 32."""
        ...

    def forbidden(self) -> Any:
        """The others: a bool array [len(rows), vocab_size]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    chunks: Sequence[Chunk]  # decodes first
    samples: Sequence[SampleRow]
    watch: Watch | None = None  # told of the tokens that are sampled after
    masks: TokenMasks | None = None  # None: every token may be sampled
    prompts: Sequence[PromptRow] = ()  # one for each chunk with `num_scored`, in their order

    @property
    def rows(self) -> list[Row]:
        """Of `samples`, without what only sampling needs."""
        return [Row(row.chunk, len(row.draft_token_ids)) for row in self.samples]


@dataclass(slots=True, kw_only=True)
class Sampled:
    """Logprobs are natural, after bias and penalties, before temperature and truncation (OpenAI's meaning)."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), most likely first


class Unit(enum.Enum):
    """What a payload is counted in; a unit is sent whole."""

    TOKEN = "token"  # grows with its sequence: what is computed of it is final
    STATE = "state"  # one of fixed size for the whole sequence, final after its last token


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadSpec:
    """What one link hands over of one layer of a sequence; of a state with several parts, one part.

    Attributes:
        layer: The model's, from 0.
        unit_nbytes: Bytes of a token, or of the state.
        layout: What those bytes are, in one canonical text: "kv/heads=4/dim=32/float32", or where only some heads of
            the model are meant "kv/heads=2-3of4/dim=32/float32".
        turn: Which of a sequence's blocks; units are those of these alone.
        block_size: Tokens of a block; of no matter where the turn is every block.
    """

    layer: int
    unit: Unit = Unit.TOKEN
    unit_nbytes: int
    layout: str
    turn: Turn = EVERY_BLOCK
    block_size: int = 1

    @property
    def name(self) -> str:
        return f"layer {self.layer}"

    def num_units(self, num_tokens: int) -> int:
        """Of a sequence of `num_tokens`."""
        return self._num_tokens(num_tokens) if self.unit is Unit.TOKEN else 1

    def num_final(self, num_computed: int, num_tokens: int) -> int:
        """Units that change no more when the layer has computed `num_computed` of `num_tokens` tokens."""
        return self._num_tokens(num_computed) if self.unit is Unit.TOKEN else int(num_computed >= num_tokens)

    def num_cached(self, num_cached_tokens: int) -> int:
        """Units that are there where the first tokens are: a state of a prefix is no part of a later one."""
        return self._num_tokens(num_cached_tokens) if self.unit is Unit.TOKEN else 0

    def blocks(self, start: int, end: int, block_size: int) -> slice:
        """Which of a sequence's blocks (those of the turn) hold units [start, end); a block holds `block_size` tokens,
        or one state."""
        size = block_size if self.unit is Unit.TOKEN else 1
        return slice(start // size, -(-end // size))

    def _num_tokens(self, num_tokens: int) -> int:
        return self.turn.num_tokens(num_tokens, self.block_size)


class Units(Protocol):
    """Units [start, end) of payload number `index`, of the sequence whose blocks are `block_ids` (from its first)."""

    @property
    def index(self) -> int: ...

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def block_ids(self) -> Sequence[int]: ...


class KVStore(Protocol):
    """The blocks of one worker as the links see them: those of tokens, and beside them those of states.

    What is read is flat and contiguous: units [start, end) of payload number `index`, as `payloads[index]` says. It is
    a 1-D uint8 torch tensor on the store's device, or `bytes` in the fake. Reads and writes of different blocks may
    run at the same time on several threads.
    """

    payloads: tuple[PayloadSpec, ...]
    block_size: int  # tokens

    @property
    def head_counts(self) -> frozenset[int]:
        """How many heads the whole model has in its layers: what the ranks of a gang divide between them."""
        ...

    def part(self, heads: HeadsOf, turn: Turn = EVERY_BLOCK) -> "KVStore":
        """The same blocks, of which only these heads are handed over; layers without any have no payload there.

        Args:
            heads: Which of a layer's heads, by how many the whole model has there. What is not held is left out.
            turn: Which of a sequence's blocks, and whether states. `read` and `write` are given these blocks alone.
        """
        ...

    def read(self, index: int, block_ids: Sequence[int], start: int, end: int, out: Any = None) -> Any:
        """A copy of units [start, end) of the sequence whose blocks are `block_ids` (from its first unit).

        Args:
            out: Of the range's size, to copy into: part of an `empty_payload`, or any memoryview; None: a new one.
        """
        ...

    def write(self, index: int, block_ids: Sequence[int], start: int, end: int, payload: Any) -> None:
        """`payload` is as `read` gives it, part of an `empty_payload`, or `bytes`."""
        ...

    def read_all(self, units: Sequence[Units], outs: Sequence[Any]) -> None:
        """The same of several at once, each into its own `out`."""
        ...

    def write_all(self, units: Sequence[Units], payloads: Sequence[Any]) -> None:
        """The same of several at once; no unit comes twice."""
        ...

    def empty_payload(self, nbytes: int) -> Any:
        """A buffer to receive into or to send from; a slice of it shares its memory."""
        ...


class SharedKVStore(KVStore, Protocol):
    """A store whose blocks other workers of this machine can read, and that can write from theirs.

    Its `write` takes a `workers.model.cpu.kv_copy.ForeignRange` too.
    """

    memory: Any  # workers.model.shared_memory.SharedMemory; None: not shared
    num_blocks: int
    num_states: int  # slots for states; 0: no layer has one

    def foreign_caches(
        self, view: memoryview | None, num_blocks: int, num_states: int, place: Place = PLAIN
    ) -> tuple[list[Any], int]:
        """How these payloads lie in the `memory`, mapped here as `view`, of the rank at `place` of another gang with
        the same model; and its size."""
        ...


class Begun(Protocol):
    """A step that a rank's device was given."""

    def wait(self) -> None:
        """Until it is done."""
        ...


class Share(Protocol):
    """A rank's part of a runner: what the leader's engine asks of its own runner, each follower is asked as well."""

    def compute(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None = None
    ) -> Any:
        """The chunks' KV into their blocks; logits of `rows` on rank 0, as [their tokens, vocab_size]."""
        ...

    def begin(
        self, chunks: Sequence[Chunk], rows: Sequence[Row], on_layer: Callable[[int], None] | None = None
    ) -> Begun:
        """On a rank that does not lead: `compute`, without waiting for the device, of a step that is launched there."""
        ...

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None: ...

    def copy_tokens(self, pairs: Sequence[tuple[int, int]]) -> None: ...

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None: ...

    def load_adapter(self, adapter_id: int, adapter: AdapterSpec) -> None: ...

    def unload_adapter(self, adapter_id: int) -> None: ...

    def settle_states(self, num_tokens: Mapping[int, int]) -> None:
        """After `compute` of chunks that end in drafts, once it is known which were accepted: states become those after
        the tokens that count. Before anything else is done with them.

        Args:
            num_tokens: By slot of such a chunk: how many of its tokens count.
        """
        ...


class DeviceLostError(Exception):
    """The device of a rank computes rightly no more: its process must end, and nothing of its last steps is told."""


class Launched(Protocol):
    """A step that a device was given."""

    def result(self) -> list[list[Sampled]]:
        """As `ModelRunner.run` returns it, once: waits until the step is done. Raises: what the step raised."""
        ...


class ModelRunner(Protocol):
    """Not thread-safe: one engine thread calls `run` and the copies."""

    runs_ahead: bool  # a step may be launched while the one before it runs: `launch`

    @property
    def store(self) -> KVStore: ...

    num_blocks: int
    num_states: int  # slots for the states of sequences; 0: the model keeps none
    state_spacing: int | None  # tokens between the states that the prefix cache keeps; None: it keeps none
    vocab_size: int
    max_model_len: int
    eos_token_ids: frozenset[int]
    fingerprint: str  # of the weights, equal on two workers only if their weights are
    state_nbytes: int  # of one sequence's state, on all ranks together; 0: the model keeps none
    kv_shares: int  # in how many the KV heads are divided, of which this rank's store holds one

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        """Computes the chunks' KV into their blocks and samples.

        Returns, for each row of `batch.samples`, the tokens that follow: 1, and one more per accepted draft token. All
        but the last are draft tokens of the row: its first, or of a tree those on a way down from the root, whose keys
        and values `copy_tokens` brings to their places. The KV of drafts that were not accepted is in the blocks too;
        the next chunk of the sequence begins before it and overwrites it.
        `on_layer(i)` is called as soon as layer i's KV of every chunk is in its blocks, in order of i; on a GPU that
        is when the caller's stream gets there. Nothing is left to do when this returns, on a GPU neither.
        Raises: DeviceLostError; torch.OutOfMemoryError and the like as they come, for which the engine fails the batch
            by name.
        """
        ...

    def launch(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> Launched:
        """`run`, without waiting for the device: where `runs_ahead`, and nowhere else.

        Steps, and copies asked for between them, are done in the order in which they were asked for. A chunk may
        follow a row of the step before (`Chunk.follows`), which then has no drafts.
        """
        ...

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies block `source` to `target` in every layer, for each (source, target)."""
        ...

    def copy_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The same of single tokens: a place is block x block size + offset. All sources are read before a target is
        written.
        """
        ...

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies the state in slot `source` to slot `target`, for each (source, target)."""
        ...

    def load_adapter(self, adapter_id: int, adapter: AdapterSpec) -> None:
        """From now on chunks may name it, by an id of the caller's that is not in use, >= 1.

        Raises: ConfigError: it is none for this model, or there is no memory for it; nothing is held then.
        """
        ...

    def unload_adapter(self, adapter_id: int) -> None:
        """No chunk names it any more. Idempotent."""
        ...

    def warm_up(self) -> None:
        """Runs what first calls pay for (packing, allocation, graphs)."""
        ...


class RankRunner(ModelRunner, Share, Protocol):
    """What each rank of a gang holds, and a gang of one alone."""
