"""One round of drafting by a model: sequences that go on together, a token each with every pass."""

from collections.abc import Callable, Collection
from collections.abc import Sequence as List
from dataclasses import dataclass, field, replace

from workers.engine.sequence import Sequence
from workers.model.contract import Batch, Chunk, ChunkKind, Sampled, SampleRow
from workers.model.sampling_params import SamplingParams

Run = Callable[[Batch], list[list[Sampled]]]


@dataclass(slots=True, eq=False)
class Line:
    """One sequence in a round.

    Attributes:
        start: Its first pass computes tokens [start, end) of the text.
        depth: Tokens to draft; 0: it only reads.
        token_ids: Drafted so far.
    """

    seq: Sequence
    block_ids: List[int]
    start: int
    end: int
    depth: int
    params: SamplingParams = field(init=False)
    token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.params = replace(self.seq.params, logprobs=None)

    @property
    def goes_on(self) -> bool:
        """With another token after those that there are."""
        return 0 < len(self.token_ids) < self.depth

    def chunk(self) -> Chunk:
        """Of the text, or of the last drafted token."""
        if not self.token_ids:
            return self._chunk(self.seq.tokens(self.start, self.end), self.start, self.seq.num_tokens)
        start = self.seq.num_tokens + len(self.token_ids) - 1
        return self._chunk(self.token_ids[-1:], start, start + 1)

    def _chunk(self, token_ids: List[int], start: int, num_tokens: int) -> Chunk:
        return Chunk(
            token_ids=token_ids,
            start=start,
            block_ids=self.block_ids,
            num_sequence_tokens=num_tokens,
            kind=ChunkKind.DECODE if len(token_ids) == 1 else ChunkKind.PREFILL,
        )

    def row(self, chunk: int) -> SampleRow:
        return SampleRow(
            chunk=chunk,
            choice=self.seq.choice,
            params=self.params,
            prompt_token_ids=self.seq.prompt_token_ids,
            output_token_ids=[*self.seq.output_token_ids, *self.token_ids],
        )

    def take(self, token_id: int, eos_token_ids: Collection[int]) -> None:
        """Nothing follows a token that ends the answer."""
        self.token_ids.append(token_id)
        if token_id in self.params.stops(eos_token_ids):
            self.depth = len(self.token_ids)


def run_pass(run: Run, lines: List[Line], eos_token_ids: Collection[int]) -> None:
    """One more token for each of `lines` that drafts."""
    lines = sorted(lines, key=lambda line: line.end - line.start)  # single tokens first
    drafting = [index for index, line in enumerate(lines) if line.depth]
    batch = Batch(chunks=[line.chunk() for line in lines], samples=[lines[index].row(index) for index in drafting])
    for index, (sampled,) in zip(drafting, run(batch), strict=True):
        lines[index].take(sampled.token_id, eos_token_ids)


def num_useful(seq: Sequence, max_model_len: int) -> int:
    """Tokens that a draft may have; the answer's last token needs none."""
    answer = seq.params.max_tokens - len(seq.output_token_ids) - 1
    return min(answer, max_model_len - seq.num_tokens)
