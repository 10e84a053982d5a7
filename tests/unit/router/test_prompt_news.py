"""A request's prompt logprobs across attempts: each delivered once, in order, and none missing."""

from baton.errors import UnavailableError
from baton.v1.inference_pb2 import FINISH_REASON_ERROR, FINISH_REASON_LENGTH, SamplingParams
from baton.v1.worker_pb2 import DecodeRoute, PromptLogprobs, Submit, TokenOutput, WorkerError
from cluster.router.lifecycle import Lifecycle
from cluster.router.prompt_news import PromptNews
from cluster.router.workers import WorkerKey

P0, D0 = WorkerKey("p0", "x"), WorkerKey("d0", "x")
NUM_PROMPT = 10


def news(start: int, end: int, *, choice: int = 0, attempt: int = 0, num_top: int = 2) -> TokenOutput:
    """Of places [start, end): each value is its place."""
    places = range(start, end)
    return TokenOutput(
        request_id="r",
        choice=choice,
        attempt=attempt,
        prompt_logprobs=PromptLogprobs(
            start=start,
            logprobs=places,
            ranks=places,
            num_top=num_top,
            top_token_ids=[place for place in places for _ in range(num_top)],
            top_logprobs=[place for place in places for _ in range(num_top)],
        ),
    )


def token(index: int, *, choice: int = 0, attempt: int = 0) -> TokenOutput:
    return TokenOutput(request_id="r", choice=choice, attempt=attempt, index=index, token_ids=[7])


def lifecycle(*, n: int = 1, max_tokens: int = 4) -> Lifecycle:
    return Lifecycle(
        request_id="r",
        prompt_token_ids=list(range(NUM_PROMPT)),
        sampling=SamplingParams(n=n, max_tokens=max_tokens, seed=5, prompt_logprobs=2),
        deadline_s=100.0,
        max_retries=2,
    )


def dispatch(life: Lifecycle) -> list[Submit]:
    route = DecodeRoute(worker_id=D0.worker_id, incarnation=D0.incarnation, address="a:1")
    return [life.dispatch(launch, prefill=P0, route=route, now_s=0.0) for launch in life.launches()]


def places(outputs: list[TokenOutput]) -> list[int]:
    for output in outputs:
        one = output.prompt_logprobs
        assert list(one.ranks) == list(one.logprobs)
        assert [place for place in one.ranks for _ in range(one.num_top)] == list(one.top_token_ids)
        assert list(one.top_logprobs) == list(one.top_token_ids)
        assert not one.ranks or one.ranks[0] == one.start
    return [place for output in outputs for place in output.prompt_logprobs.ranks]


def test_what_was_delivered_is_cut_off() -> None:
    cursor = PromptNews(NUM_PROMPT)
    for output, left in ((news(1, 4), [1, 2, 3]), (news(2, 6), [4, 5]), (news(1, 6), []), (news(6, 10), [6, 7, 8, 9])):
        cursor.cut(output)
        assert places([output]) == left
    assert cursor.is_whole


def test_a_lost_attempt_goes_on_where_it_was() -> None:
    life = lifecycle()
    (first,) = dispatch(life)
    assert (first.num_prompt_logprobs, life.reads_from) == (1, 0)
    found = life.accept(news(1, 5), P0, 0.0)
    life.lose(P0, "killed", 1.0)
    (second,) = dispatch(life)
    assert (second.num_prompt_logprobs, life.reads_from) == (5, 4)
    assert life.accept(news(5, 7), P0, 1.0) == []  # of the first attempt, late
    found += life.accept(news(4, 10, attempt=1), P0, 1.0)
    found += life.accept(token(0, attempt=1), P0, 1.0)
    assert places(found) == list(range(1, 10))
    assert life.reads_from is None
    life.lose(D0, "killed", 2.0)
    (third,) = dispatch(life)
    assert not third.sampling.HasField("prompt_logprobs")  # all is told: a prefix hit is of use again
    assert first.sampling.prompt_logprobs == 2


def test_of_several_choices_that_start_anew_each_may_tell() -> None:
    life = lifecycle(n=2)
    dispatch(life)
    found = life.accept(news(1, 3), P0, 0.0)
    life.lose(P0, "killed", 1.0)
    first, second = dispatch(life)
    found += life.accept(news(3, 6, choice=0, attempt=first.attempt), P0, 1.0)
    found += life.accept(news(3, 8, choice=1, attempt=second.attempt), P0, 1.0)
    found += life.accept(news(6, 10, choice=0, attempt=first.attempt), P0, 1.0)
    found += life.accept(news(8, 10, choice=1, attempt=second.attempt), P0, 1.0)
    assert places(found) == list(range(1, 10))
    assert all(output.prompt_logprobs.ranks for output in found)


def test_one_that_writes_nothing_is_read_to_its_end() -> None:
    life = lifecycle(max_tokens=0)
    dispatch(life)
    life.accept(news(1, 5), P0, 0.0)
    assert life.lose(P0, "killed", 1.0) == []  # no token is missing, but the rest of the prompt is
    dispatch(life)
    assert places(life.accept(news(5, 10, attempt=1), P0, 1.0)) == [5, 6, 7, 8, 9]
    (end,) = life.lose(P0, "killed", 2.0)  # its end alone was lost
    assert (end.finish_reason, len(end.token_ids)) == (FINISH_REASON_LENGTH, 0)
    assert life.finished


def test_one_that_was_preempted_tells_the_rest() -> None:
    life = lifecycle()
    dispatch(life)
    life.accept(news(1, 5), P0, 0.0)
    error = WorkerError(code="preempted", message="out of blocks", retryable=True)
    life.accept(TokenOutput(request_id="r", finish_reason=FINISH_REASON_ERROR, error=error), P0, 0.0)
    (again,) = dispatch(life)
    assert again.num_prompt_logprobs == 5
    life.fail(UnavailableError("over"))
