"""The step that takes the most memory of all that a worker may be given."""

from workers.model.contract import Batch, Chunk, SampleRow
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec

# What samples with the most scratch.
PARAMS = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.9, logprobs=0)


def largest_batch(engine: EngineSpec, *, num_blocks: int, max_model_len: int, has_states: bool) -> Batch:
    """As many sequences as there may be, one of which reads a prompt with all tokens that a step has left.

    In blocks and slots from the first on, which chunks share: they must be nobody's.
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
    samples = [
        SampleRow(chunk=number, choice=0, params=PARAMS, prompt_token_ids=(0,), output_token_ids=())
        for number in range(len(chunks))
    ]
    return Batch(chunks=chunks, samples=samples)
