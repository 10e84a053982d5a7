"""The load that is simulated is made of requests that were seen."""

import numpy as np

from cluster.planner.online.observation import SeenRequest
from cluster.planner.online.sampling import cut, num_for, replayed, sampled, with_answers


def whole(at_s: float, prompt: int, output: int, cached: int = 0) -> SeenRequest:
    return SeenRequest(
        arrived_s=at_s,
        num_prompt_tokens=prompt,
        num_cached_tokens=cached,
        num_output_tokens=output,
        ended_s=at_s + 1,
        ttft_s=0.1,
        tpot_s=0.01,
        status="ok",
    )


def test_two_humps_stay_two_and_nothing_between_is_drawn() -> None:
    seen = [(whole(i, 100, 400), 400) if i % 2 else (whole(i, 4000, 20), 20) for i in range(40)]
    drawn = sampled(seen, rate=2.0, num_requests=300, block_size=64, seed=1)
    kinds = {(one.num_prompt_tokens, one.num_output_tokens) for one in drawn}
    assert kinds == {(100, 400), (4000, 20)}
    short = sum(one.num_prompt_tokens == 100 for one in drawn)
    assert 110 < short < 190


def test_the_rate_is_the_one_that_is_asked_for_and_bursts_stay() -> None:
    times = [burst * 10 + i * 0.01 for burst in range(10) for i in range(10)]
    drawn = sampled([(whole(at_s, 10, 10), 10) for at_s in times], rate=5.0, num_requests=200, block_size=64, seed=0)
    gaps = np.diff([one.at_s for one in drawn])
    assert drawn[-1].at_s == np.float64(200 / 5.0).item() or abs(drawn[-1].at_s - 40.0) < 1e-6
    assert np.std(gaps) > 2 * np.mean(gaps)


def test_equal_seeds_draw_equal_loads() -> None:
    seen = [(whole(i, i + 1, 2 * i + 1), 2 * i + 1) for i in range(30)]
    first, second = (sampled(seen, rate=1.0, num_requests=50, block_size=64, seed=7) for _ in range(2))
    assert first == second


def test_an_open_request_is_taken_for_as_long_as_whole_ones_of_its_kind() -> None:
    seen = [whole(i, 100, 500) if i % 2 else whole(i, 5000, 10) for i in range(40)]
    seen.append(SeenRequest(arrived_s=50.0, num_prompt_tokens=100, num_output_tokens=30))
    lengths = with_answers(seen, np.random.default_rng(0))
    assert lengths[-1][1] == 500


def test_an_answer_that_is_longer_than_any_seen_counts_as_what_it_has() -> None:
    seen = [whole(0, 10, 5), SeenRequest(arrived_s=1.0, num_prompt_tokens=10, num_output_tokens=70)]
    assert with_answers(seen, np.random.default_rng(0))[1][1] == 70


def test_a_shed_request_counts_as_demand() -> None:
    shed = SeenRequest(arrived_s=2.0, num_prompt_tokens=10, ended_s=2.0, status="overloaded")
    lengths = with_answers([whole(0, 10, 5), shed], np.random.default_rng(0))
    assert [length for _, length in lengths] == [5, 5]


def test_what_was_cached_is_shared() -> None:
    first, second = replayed([(whole(3, 640, 1, cached=320), 1), (whole(4, 640, 1), 1)], block_size=64)
    assert first.block_hashes == (0, 1, 2, 3, 4)
    assert second.block_hashes == ()
    assert (first.at_s, second.at_s) == (0.0, 1.0)


def test_no_requests_make_no_load() -> None:
    assert sampled([], rate=1.0, num_requests=5, block_size=64, seed=0) == ()
    assert replayed([], block_size=64) == ()
    assert num_for(0.0, 10.0, 100, 300) == 0
    assert num_for(2.0, 100.0, 100, 300) == 200


def test_what_fits_no_worker_is_left_out() -> None:
    arrivals = replayed([(whole(0, 900, 200), 200), (whole(1, 10, 10), 10)], block_size=64)
    assert [one.num_prompt_tokens for one in cut(arrivals, 1000)] == [10]


def test_what_came_last_is_drawn_more_often_than_what_came_first() -> None:
    seen = [(whole(i, 4000, 20), 20) for i in range(50)] + [(whole(50 + i, 100, 400), 400) for i in range(50)]
    drawn = sampled(seen, rate=2.0, num_requests=400, block_size=64, seed=0)
    assert 0.65 < sum(one.num_prompt_tokens == 100 for one in drawn) / 400 < 0.85
