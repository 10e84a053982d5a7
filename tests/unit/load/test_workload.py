"""The requests of a run: lengths, shared prefixes, arrival times, and what is cut to fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from baton.errors import ConfigError
from cluster.load.arrival import gamma_arrivals_s
from cluster.load.options import LoadOptions
from cluster.load.requests import LoadRequest, Segment, token_ids, words
from cluster.load.workload import Workload, make_workload, warmup_requests


def _ids(request: LoadRequest, seed: int = 0) -> list[int]:
    return token_ids(request, seed=seed, vocab_size=500)


def _trace(tmp_path: Path, *rows: tuple[float, int, int, list[int]]) -> Path:
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    return path


def test_synthetic_prompts_have_the_exact_length_and_differ() -> None:
    workload = make_workload(LoadOptions(num_prompts=3, input_len=700, output_len=20), max_model_len=2048)
    prompts = [_ids(request) for request in workload.requests]
    assert [len(prompt) for prompt in prompts] == [700, 700, 700]
    assert len({tuple(prompt) for prompt in prompts}) == 3
    assert all(0 <= token_id < 500 for prompt in prompts for token_id in prompt)
    assert [request.output_len for request in workload.requests] == [20, 20, 20]
    assert workload.notes == ()


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    def run(seed: int) -> Workload:
        return make_workload(LoadOptions(rate=5.0, num_prompts=20, range_ratio=0.5, seed=seed), max_model_len=None)

    assert run(1) == run(1)
    assert run(1) != run(2)
    request = run(1).requests[0]
    assert _ids(request, seed=1) == _ids(request, seed=1) != _ids(request, seed=2)


def test_the_range_ratio_bounds_lengths_on_both_sides() -> None:
    options = LoadOptions(num_prompts=500, input_len=100, output_len=10, range_ratio=0.3)
    requests = make_workload(options, max_model_len=None).requests
    input_lens = {request.input_len for request in requests}
    assert min(input_lens) == 70
    assert max(input_lens) == 130
    assert {request.output_len for request in requests} == set(range(7, 14))


def test_equal_hash_ids_give_equal_blocks(tmp_path: Path) -> None:
    path = _trace(tmp_path, (0, 1100, 5, [0, 1, 2]), (10, 900, 5, [0, 1]), (20, 600, 5, [0, 3]))
    first, second, third = make_workload(LoadOptions(trace=path), max_model_len=None).requests
    assert [len(_ids(request)) for request in (first, second, third)] == [1100, 900, 600]
    assert _ids(second) == _ids(first)[:900]
    assert _ids(third)[:512] == _ids(first)[:512]
    assert _ids(third)[512:] != _ids(first)[512:600]


def test_trace_times_follow_the_speed(tmp_path: Path) -> None:
    path = _trace(tmp_path, (0, 5, 5, [0]), (1000, 5, 5, [0]), (4000, 5, 5, [0]))
    requests = make_workload(LoadOptions(trace=path, trace_speed=2.0), max_model_len=None).requests
    assert [request.arrival_s for request in requests] == [0.0, 0.5, 2.0]


def test_a_closed_loop_over_a_trace_says_that_it_drops_the_times(tmp_path: Path) -> None:
    path = _trace(tmp_path, (0, 5, 5, [0]), (1000, 5, 5, [0]))
    workload = make_workload(LoadOptions(trace=path, concurrency=2), max_model_len=None)
    assert [request.arrival_s for request in workload.requests] == [None, None]
    assert "the trace's times are not used" in workload.notes[0]


def test_spreading_is_said(tmp_path: Path) -> None:
    rows = [(tick * 3000.0, 5, 5, [0]) for tick in (0, 0, 0, 1, 1, 1)]
    workload = make_workload(LoadOptions(trace=_trace(tmp_path, *rows)), max_model_len=None)
    assert workload.notes == ("the trace's times are rounded to 3 s; spread over their ticks at random",)


def test_what_does_not_fit_is_refused_without_clip(tmp_path: Path) -> None:
    path = _trace(tmp_path, (0, 50, 5, [0]), (10, 1000, 100, [0, 1]))
    with pytest.raises(ConfigError, match=r"request 1 needs 1000 \+ 100 tokens, .* has 1024; add --clip"):
        make_workload(LoadOptions(trace=path), max_model_len=1024)


def test_clipping_keeps_the_head_of_the_prompt_and_is_said(tmp_path: Path) -> None:
    path = _trace(tmp_path, (0, 50, 5, [0]), (10, 1000, 100, [0, 1]), (20, 600, 900, [2, 3]))
    whole = make_workload(LoadOptions(trace=path), max_model_len=None).requests
    clipped = make_workload(LoadOptions(trace=path, clip=True), max_model_len=1024)
    assert [(request.input_len, request.output_len) for request in clipped.requests] == [
        (50, 5),
        (924, 100),
        (512, 512),
    ]
    for before, after in zip(whole, clipped.requests, strict=True):
        assert _ids(after) == _ids(before)[: after.input_len]
    assert clipped.notes == ("2 of 3 requests clipped to the context of 1024 tokens",)


def test_a_text_file_gives_its_lines_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("one\n\ntwo\nthree\n")
    options = LoadOptions(prompts=path, limit=2, num_prompts=5, output_len=7)
    requests = make_workload(options, max_model_len=2048).requests
    assert [request.text for request in requests] == ["one", "two", "one", "two", "one"]
    assert {request.output_len for request in requests} == {7}


def test_a_jsonl_file_gives_its_prompts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "one", "id": 1}\n{"prompt": "two\\nlines"}\n')
    requests = make_workload(LoadOptions(prompts=path), max_model_len=None).requests
    assert [request.text for request in requests] == ["one", "two\nlines"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", " \n", "holds no prompts"),
        ("p.jsonl", "{", r"p\.jsonl:1 is not JSON"),
        ("p.jsonl", '{"text": "x"}', r"p\.jsonl:1 needs a key 'prompt'"),
        ("p.jsonl", '"x"', "needs a key 'prompt'"),
    ],
)
def test_a_fault_of_a_prompt_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_workload(LoadOptions(prompts=path), max_model_len=None)


def test_a_missing_prompt_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt cannot be read"):
        make_workload(LoadOptions(prompts=tmp_path / "none.txt"), max_model_len=None)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 16.0])
def test_arrivals_offer_the_rate_with_the_burstiness_asked_for(burstiness: float) -> None:
    times_s = gamma_arrivals_s(4.0, burstiness, 20_000, np.random.default_rng(3))
    assert times_s[-1] == pytest.approx(20_000 / 4.0)
    gaps_s = np.diff(times_s)
    assert gaps_s.min() >= 0
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_warm_up_shares_lengths_but_no_tokens() -> None:
    workload = make_workload(LoadOptions(num_prompts=2, input_len=64, output_len=3), max_model_len=None)
    warmup = warmup_requests(workload, 3)
    assert [(request.input_len, request.output_len) for request in warmup] == [(64, 3)] * 3
    measured = {tuple(_ids(request)) for request in workload.requests}
    assert not measured & {tuple(_ids(request)) for request in warmup}


def test_chats_say_a_word_per_token_and_share_prefixes() -> None:
    long = LoadRequest(index=0, segments=(Segment(key=(1, 7), length=40),), output_len=1)
    short = LoadRequest(index=1, segments=(Segment(key=(1, 7), length=9),), output_len=1)
    assert len(words(long, seed=0).split()) == 40
    assert words(long, seed=0).startswith(words(short, seed=0))
