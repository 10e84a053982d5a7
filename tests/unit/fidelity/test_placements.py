"""The question that DistServe's placements answer, and what it is asked with."""

from pathlib import Path

import numpy as np
import pytest

from bench.fidelity.placements import Unit, best, segment_counts
from bench.fidelity.published_cases import cases, chat_lengths, code_lengths, summary_lengths
from bench.fidelity.published_costs import HOST_STEP_S, HOST_TOKEN_S, OPT_13B, PublishedCosts
from cluster.config.schema import EngineConfig
from cluster.contracts.latency import Parallelism, PromptChunk
from cluster.contracts.simulation import Arrival
from cluster.planner.costs.memory import Footprint, MemoryFit
from cluster.planner.search.candidates import Candidate
from cluster.planner.search.goodput import BOUND_SLACK
from cluster.planner.search.placement import WorkerShape
from workers.spec import Role

FITS = {
    "prefill": [10.0, 0.1, 0.0],
    "decoding_smallbs": [20.0, 0.001, 0.01],
    "decoding_largebs": [20.0, 0.001, 0.01],
    "decoding_large_small_bs_threshold": 95,
}
SHAREGPT = [Arrival(at_s=0.0, num_prompt_tokens=2000, num_output_tokens=n) for n in (10, 40, 60)]


def candidate(role: Role, tensor: int, pipeline: int, bound: float = 1.0) -> Candidate:
    none = Footprint(weight_bytes=0, activation_bytes=0, token_bytes=0)
    fit = MemoryFit(footprint=none, device_bytes=1, num_blocks=1, kv_bytes=0, min_blocks=1)
    degrees = Parallelism(tensor=tensor, pipeline=pipeline)
    return Candidate(shape=WorkerShape(role=role, parallelism=degrees, fit=fit, bound=bound), engine=EngineConfig())


def unit(prefill: tuple[int, int], decode: tuple[int, int], num_segments: int = 1, bound: float = 1.0) -> Unit:
    return Unit(
        prefill=candidate(Role.PREFILL, *prefill, bound),
        decode=candidate(Role.DECODE, *decode, bound),
        num_segments=num_segments,
    )


def test_pipelines_are_cut_where_both_can_be_and_over_no_more_nodes_than_there_are() -> None:
    assert segment_counts((3, 3), 4) == [1, 3]
    assert segment_counts((1, 2), 4) == [1]
    assert segment_counts((4, 8), 3) == [1, 2]


def test_units_leave_idle_what_a_node_cannot_hold_another_of() -> None:
    assert unit((4, 1), (2, 2)).share_of_nodes(8) == 1.0
    assert unit((4, 1), (3, 1)).share_of_nodes(8) == 7 / 8
    assert unit((2, 1), (1, 1)).share_of_nodes(8) == 6 / 8
    assert unit((3, 3), (4, 3), num_segments=3).share_of_nodes(8) == 7 / 8
    assert unit((3, 3), (4, 3)).share_of_nodes(8) == 0.0  # fits no node whole


def test_the_best_unit_is_found_without_asking_those_whose_bound_is_lower() -> None:
    goodputs = {unit((1, 1), (1, 1), bound=bound): goodput for bound, goodput in ((9.0, 3.0), (8.0, 5.0), (4.0, 4.0))}
    published, asked = unit((1, 1), (1, 1), bound=2.0), []

    def goodput(each: Unit) -> float:
        asked.append(each.prefill.bound)
        return goodputs.get(each, 2.0)

    answer = best([*goodputs, published], published, goodput, lambda each: 0.5)
    assert (answer.unit.prefill.bound, answer.goodput, answer.published) == (8.0, 2.5, 1.0)
    assert answer.share == pytest.approx(0.4)
    assert 4.0 * BOUND_SLACK < 5.0
    assert asked == [2.0, 9.0, 8.0]


def test_each_step_costs_its_fit_and_the_host_time_of_the_released_search() -> None:
    costs = PublishedCosts(shape=OPT_13B, profile={OPT_13B.name: {"1": FITS}}, capacity={})
    alone, piped = (costs.latency(Parallelism(pipeline=stages)) for stages in (1, 2))
    prompt_s, decode_s = 0.010 + 100 * 0.0001, 0.020 + 500 * 1e-6 + 2 * 1e-5
    assert alone.step_s([PromptChunk(100, 0)], 0, 0) == pytest.approx(prompt_s + HOST_STEP_S + 100 * HOST_TOKEN_S)
    assert alone.step_s((), 2, 500) == pytest.approx(decode_s + HOST_STEP_S + 500 * HOST_TOKEN_S)
    assert piped.step_s((), 2, 500) == pytest.approx(decode_s + 2 * (HOST_STEP_S + 500 * HOST_TOKEN_S))


def test_lengths_have_the_published_means_and_fit_the_model() -> None:
    for shape, means in ((code_lengths(Path("nowhere")), (171.3, 98.2)), (summary_lengths(), (1738.3, 90.7))):
        prompts, outputs = shape.draw(20_000, np.random.default_rng(1))
        assert (np.mean(prompts), np.mean(outputs)) == pytest.approx(means, rel=0.03)
        assert np.max(prompts + outputs) <= 2048


def test_chat_outputs_are_stretched_but_not_beyond_the_model() -> None:
    assert [output for _, output in chat_lengths(SHAREGPT).pairs] == [48, 48, 48]


def test_published_placements_fit_their_sites() -> None:
    for case in cases(SHAREGPT, Path("nowhere")):
        counts = segment_counts((case.prefill.pipeline, case.decode.pipeline), case.site.num_nodes)
        size = case.prefill.num_devices + case.decode.num_devices
        assert any(size // count <= case.site.devices_per_node for count in counts), case.name
