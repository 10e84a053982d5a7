"""What a look sees."""

import pytest

from cluster.planner.online.observation import Observation, SeenRequest
from cluster.planner.online.setup import Setup


def request(arrived_s: float, prompt: int, ended_s: float | None, **others: object) -> SeenRequest:
    told: dict[str, object] = {"ttft_s": 1.0, "tpot_s": 0.1 if ended_s is not None else None}
    status = "open" if ended_s is None else "ok"
    return SeenRequest(
        arrived_s=arrived_s,
        num_prompt_tokens=prompt,
        num_output_tokens=100,
        ended_s=ended_s,
        status=status,
        **{**told, **others},  # type: ignore[arg-type]
    )


def context(*requests: SeenRequest, since_s: float = 0.0) -> float:
    return Observation(now_s=20.0, requests=requests, workers=(), setup=Setup()).mean_context(since_s)


def test_the_context_of_decodes_is_of_those_that_were_there_as_long_as_they_were() -> None:
    long_prompt = request(0.0, 4000, 3.0)  # writes for 2 s, 20 tokens
    long_answer = request(0.0, 100, 19.0)  # for 18 s, 180 tokens
    assert context(long_prompt) == pytest.approx(4010)
    assert context(long_prompt, long_answer) == pytest.approx((2 * 4010 + 18 * 190) / 20)
    assert context(long_prompt, long_answer, since_s=9.0) == pytest.approx(100 + 130), "the first had ended"


def test_an_open_request_counts_until_now_and_one_that_waits_does_not() -> None:
    ended, opened = request(0.0, 100, 11.0), request(9.0, 500, None)
    assert context(ended, opened, since_s=15.0) == pytest.approx(500 + 75)
    assert context(request(9.0, 500, None, ttft_s=None)) == 0.0
    assert context() == 0.0
