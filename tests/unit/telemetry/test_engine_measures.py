"""What an engine's steps and phases are counted as."""

from workers.engine.draft import Draft
from workers.engine.measures import EngineMeasures
from workers.engine.scheduler import ScheduledChunk
from workers.engine.sequence import Sequence
from workers.model.contract import ChunkKind
from workers.model.sampling_params import SamplingParams


def sequence(num_tokens: int = 4) -> Sequence:
    return Sequence(
        request_id="r",
        choice=0,
        attempt=0,
        ingress_id="i",
        prompt_token_ids=tuple(range(num_tokens)),
        params=SamplingParams(max_tokens=9),
        arrived_s=1.0,
        deadline_s=99.0,
    )


def chunk(kind: ChunkKind, num_tokens: int = 1, seq: Sequence | None = None) -> ScheduledChunk:
    return ScheduledChunk(seq or sequence(), num_tokens, kind)


def test_steps_are_told_apart_by_what_they_did() -> None:
    measures = EngineMeasures()
    decode, prefill = chunk(ChunkKind.DECODE), chunk(ChunkKind.PREFILL, 100)
    decode.draft = Draft((7, 8))
    measures.step([decode], 0.01)
    measures.step([prefill], 0.2)
    measures.step([decode, prefill], 0.3)
    assert [h.count for h in (measures.decode_step_s, measures.prefill_step_s, measures.mixed_step_s)] == [1, 1, 1]
    assert measures.batch_sequences.sum == 4
    assert measures.batch_tokens.sum == 3 + 100 + 103


def test_a_request_waits_once_and_its_prompt_is_read_once() -> None:
    measures, seq = EngineMeasures(), sequence()
    measures.admitted([seq], 3.0)
    seq.num_computed_tokens = 2
    measures.computed([chunk(ChunkKind.PREFILL, 2, seq)], 4.0)
    seq.num_computed_tokens = 4
    measures.computed([chunk(ChunkKind.PREFILL, 2, seq)], 5.0)
    measures.admitted([seq], 8.0)  # after a preemption
    seq.output_token_ids.append(1)
    seq.num_computed_tokens = 5
    measures.computed([chunk(ChunkKind.PREFILL, 5, seq)], 9.0)
    assert (measures.queue_s.count, measures.queue_s.sum) == (1, 2.0)
    assert (measures.prefill_s.count, measures.prefill_s.sum) == (1, 2.0)


def test_the_message_is_made_once_a_second_at_most_and_only_after_news() -> None:
    measures = EngineMeasures()
    assert measures.message(10.0) is None
    measures.step([chunk(ChunkKind.DECODE)], 0.01)
    first = measures.message(10.0)
    assert first is not None
    measures.step([chunk(ChunkKind.DECODE)], 0.01)
    assert measures.message(10.9) is first
    second = measures.message(11.0)
    assert second is not None
    assert sum(second.decode_step_s.counts) == 2
    assert measures.message(99.0) is second
