"""Steps that a runner takes before anybody asks: for what first calls pay, and for the most memory that one may want.

They lie in blocks and slots from the first on, which must be nobody's.
"""

from collections.abc import Iterator

from workers.model.contract import Batch, Chunk, SampleRow
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec

# What samples with the most scratch.
PARAMS = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.9, logprobs=0)


def largest_batch(engine: EngineSpec, *, num_blocks: int, max_model_len: int, has_states: bool) -> Batch:
    """As many sequences as there may be, one of which reads a prompt with all tokens that a step has left.

    Chunks share blocks.
    """
    most = min(max_model_len, num_blocks * engine.block_size)
    decodes = min(engine.max_sequences, engine.max_batched_tokens) - 1
    lengths = [1] * decodes + [min(engine.max_batched_tokens - decodes, most)]
    chunks = [
        Chunk(
            token_ids=[0] * length,
            start=0,
            block_ids=list(range(-(-length // engine.block_size))),
            num_sequence_tokens=length,
            state_id=number if has_states else None,
        )
        for number, length in enumerate(lengths)
    ]
    return Batch(chunks=chunks, samples=[_row(number, PARAMS) for number in range(len(chunks))])


def smallest_batches(block_size: int, max_model_len: int, *, has_states: bool) -> Iterator[Batch]:
    """A prompt, and a decode after it."""
    length = min(2 * block_size, max_model_len) - 1
    for start, num_tokens in ((0, length), (length, 1)):
        if num_tokens:
            chunk = Chunk(
                token_ids=[0] * num_tokens,
                start=start,
                block_ids=list(range(-(-(length + 1) // block_size))),
                num_sequence_tokens=start + num_tokens,
                state_id=0 if has_states else None,
            )
            yield Batch(chunks=[chunk], samples=[_row(0, SamplingParams(max_tokens=1, temperature=0.0))])


def _row(chunk: int, params: SamplingParams) -> SampleRow:
    return SampleRow(chunk=chunk, choice=0, params=params, prompt_token_ids=(0,), output_token_ids=())
