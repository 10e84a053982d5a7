"""What is noted of a request is exact where it must be, and bounded."""

import pytest

from baton.v1.worker_pb2 import PromptChunk, TokenOutput, WorkerTrace
from cluster.router.marks import Mark, Marks
from cluster.router.track import MAX_ATTEMPTS, Attempt, Track
from cluster.router.worker_story import told


def test_marks_of_a_short_answer_are_its_outputs() -> None:
    marks = Marks(8)
    for at_s, num_tokens, num_drafted in ((10.0, 1, 0), (10.5, 3, 4), (11.0, 2, 0)):
        marks.add(at_s, num_tokens, num_drafted)
    assert list(marks) == [Mark(10.0, 1, 0, 0), Mark(10.5, 3, 4, 2), Mark(11.0, 2, 0, 0)]
    assert (marks.num_outputs, marks.num_tokens, marks.num_drafted, marks.num_accepted) == (3, 6, 4, 2)
    assert (marks.first_s, marks.last_s, marks.outputs_per_mark) == (10.0, 11.0, 1)


@pytest.mark.parametrize("num", [8, 9, 16, 17, 100, 1000])
def test_marks_of_a_long_answer_cover_all_of_it_and_their_sums_are_exact(num: int) -> None:
    marks = Marks(8)
    for number in range(num):
        marks.add(float(number), 2, 3)
    assert len(marks) <= 8
    assert sum(mark.num_tokens for mark in marks) == marks.num_tokens == 2 * num
    assert sum(mark.num_drafted for mark in marks) == 3 * num
    assert sum(mark.num_accepted for mark in marks) == num
    times = [mark.at_s for mark in marks]
    assert times == sorted(times)
    assert times[-1] == num - 1
    if num > 8:
        assert times[0] == marks.outputs_per_mark - 1


def attempt(number: int, prefill: str | None = None) -> Attempt:
    return Attempt(
        number=number,
        choices=(0,),
        sent_s=float(number),
        prefill_id=prefill,
        decode_id="decode-0",
        draft_id=None,
        num_expected_tokens=0,
    )


def test_attempts_are_bounded_and_later_ones_are_counted() -> None:
    track = Track(10, 1)
    for number in range(MAX_ATTEMPTS + 5):
        track.sent(attempt(number))
        track.heard(TokenOutput(attempt=number, num_cached_tokens=1), "decode-0", 100.0)
        track.attempt_ended(number, "lost", "gone", 100.0)
    assert (len(track.attempts), track.num_attempts) == (MAX_ATTEMPTS, MAX_ATTEMPTS + 5)


def test_cached_tokens_are_those_of_who_reads_the_prompt() -> None:
    track = Track(10, 1)
    track.sent(attempt(0, "prefill-0"))
    track.heard(TokenOutput(attempt=0, trace=WorkerTrace(age_s=1)), "decode-0", 2.0)
    assert track.attempts[0].num_cached_tokens is None
    track.heard(TokenOutput(attempt=0, num_cached_tokens=8), "prefill-0", 2.0)
    assert (track.attempts[0].num_cached_tokens, track.num_cached_tokens) == (8, 8)


def test_of_several_choices_an_end_that_is_not_ok_stays() -> None:
    track = Track(10, 2)
    track.sent(attempt(0))
    track.attempt_ended(0, "ok", "", 1.0)
    track.attempt_ended(0, "lost", "gone", 2.0)
    track.attempt_ended(0, "ok", "", 3.0)
    assert (track.attempts[0].end, track.attempts[0].ended_s) == ("lost", 2.0)


def test_a_workers_account_is_put_between_sending_and_hearing() -> None:
    chunk = PromptChunk(start_s=0.2, end_s=0.5, num_tokens=7, num_steps=1)
    story = told(WorkerTrace(age_s=0.6, scheduled_s=0.2, chunks=[chunk]), "w", sent_s=10.0, now_s=10.8)
    assert story.received_s == pytest.approx(10.1)
    assert story.scheduled_s == pytest.approx(10.3)
    assert story.chunks[0].end_s == pytest.approx(10.6)


def test_a_workers_account_that_cannot_be_stays_between_them() -> None:
    story = told(WorkerTrace(age_s=9.0, scheduled_s=20.0), "w", sent_s=10.0, now_s=10.8)
    assert (story.received_s, story.scheduled_s) == (10.0, 10.8)
