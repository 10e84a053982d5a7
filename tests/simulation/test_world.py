"""Single requests and small loads whose times can be told by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from baton.errors import ConfigError
from cluster.config.schema import EngineConfig, KVConfig, RouterConfig
from cluster.contracts.latency import PromptChunk
from cluster.contracts.simulation import Arrival, Fault, SimCluster, SimPool
from cluster.planner.costs.transfer import Path
from cluster.simulator.world import simulate
from workers.spec import Role

TOKEN_S, STEP_S = 1e-3, 0.01


@dataclass(frozen=True)
class Costs:
    """A prompt token takes 1 ms, a step with decodes 10 ms more."""

    pipeline_stages: int = 1

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        return sum(chunk.num_tokens for chunk in prompts) * TOKEN_S + (STEP_S if num_decodes else 0.0)

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return num_steps * STEP_S


def cluster(
    *, prefill: int = 0, decode: int = 0, mixed: int = 0, stages: int = 1, num_blocks: int = 1000
) -> SimCluster:
    counts = {Role.PREFILL: prefill, Role.DECODE: decode, Role.MIXED: mixed}
    return SimCluster(
        pools=[
            SimPool(role=role, num_workers=count, latency=Costs(stages), num_blocks=num_blocks)
            for role, count in counts.items()
            if count
        ],
        engine=EngineConfig(max_batched_tokens=10_000),
        router=RouterConfig(disaggregate_over_tokens=16),
        num_layers=10,
        token_bytes=1000,
    )


def arrival(at_s: float, num_prompt: int, num_output: int, hashes: tuple[int, ...] = ()) -> Arrival:
    return Arrival(at_s=at_s, num_prompt_tokens=num_prompt, num_output_tokens=num_output, block_hashes=hashes)


def test_a_worker_alone_reads_the_prompt_and_writes_a_token_per_step() -> None:
    spec = replace(cluster(mixed=1), ingress_s=0.002)
    (record,) = simulate(spec, [arrival(1.0, 100, 5)]).records
    assert record.ttft_s == pytest.approx(0.1 + 2 * 0.002)
    assert record.tpot_s == pytest.approx(STEP_S)
    assert (record.prefill_id, record.decode_id, record.num_attempts) == ("", "mixed-0", 1)


def test_a_long_prompt_is_handed_over_and_a_short_one_is_not() -> None:
    result = simulate(cluster(prefill=1, decode=1), [arrival(0.0, 100, 3), arrival(1.0, 10, 3)])
    long, short = result.records
    assert (long.prefill_id, long.decode_id) == ("prefill-0", "decode-0")
    assert (short.prefill_id, short.decode_id) == ("", "decode-0")
    assert long.ttft_s == pytest.approx(0.1)
    assert long.finished_s == pytest.approx(0.1 + 2 * STEP_S)
    assert result.bytes_sent == 100 * 1000


@pytest.mark.parametrize(("push", "left_s"), [("layer", 0.005), ("bulk", 0.05)])
def test_layers_leave_while_the_prompt_is_read(push: str, left_s: float) -> None:
    """The transfer takes half of the prefill: of ten layers only the last is left at its end."""
    spec = replace(cluster(prefill=1, decode=1), transfer=Path(bandwidth=2e6), kv=KVConfig(push=push))
    (record,) = simulate(spec, [arrival(0.0, 100, 2)]).records
    assert record.finished_s == pytest.approx(0.1 + left_s + STEP_S)


def test_a_slow_path_is_what_a_hand_over_waits_for() -> None:
    """Ten times slower than the prefill: it begins with the first layer and goes on without a gap."""
    spec = replace(cluster(prefill=1, decode=1), transfer=Path(bandwidth=1e5))
    (record,) = simulate(spec, [arrival(0.0, 100, 2)]).records
    assert record.finished_s == pytest.approx(0.01 + 1.0 + STEP_S)


@pytest.mark.parametrize(("num_outputs", "num_tokens"), [(1, 0), (2, 100)])
def test_an_answer_of_one_token_moves_no_kv(num_outputs: int, num_tokens: int) -> None:
    spec = replace(cluster(prefill=1, decode=1), transfer=Path(bandwidth=1e5))
    result = simulate(spec, [arrival(0.0, 100, num_outputs)])
    assert result.bytes_sent == num_tokens * spec.token_bytes
    assert result.peak_blocks["decode-0"] == (num_outputs > 1) * result.peak_blocks["prefill-0"]


def test_a_state_goes_over_with_the_last_of_a_sequence_s_kv() -> None:
    spec = replace(cluster(prefill=1, decode=1), transfer=Path(bandwidth=1e6))
    plain = simulate(spec, [arrival(0.0, 100, 2)])
    with_state = simulate(replace(spec, state_bytes=500_000), [arrival(0.0, 100, 2)])
    assert with_state.bytes_sent - plain.bytes_sent == 500_000
    assert with_state.records[0].first_token_s == plain.records[0].first_token_s
    assert with_state.records[0].finished_s > plain.records[0].finished_s + 0.1


def test_transfers_to_one_worker_come_one_after_the_other() -> None:
    spec = replace(cluster(prefill=2, decode=1), transfer=Path(bandwidth=1e5))
    records = simulate(spec, [arrival(0.0, 100, 2), arrival(0.0, 100, 2)]).records
    first_s, second_s = sorted(record.finished_s for record in records)
    assert {record.prefill_id for record in records} == {"prefill-0", "prefill-1"}
    assert first_s == pytest.approx(0.01 + 1.0 + STEP_S)
    assert second_s == pytest.approx(0.01 + 2.0 + STEP_S)


def test_a_pipeline_of_two_stages_begins_the_next_step_after_half_of_one() -> None:
    spec = replace(cluster(mixed=1, stages=2), engine=EngineConfig(max_batched_tokens=100))
    first, second, third = simulate(spec, [arrival(0.0, 100, 1) for _ in range(3)]).records
    assert first.ttft_s == pytest.approx(0.1)
    assert second.ttft_s == pytest.approx(0.15)
    assert third.ttft_s == pytest.approx(0.2)


def test_whole_prompts_first_makes_decodes_pause_and_chunks_do_not() -> None:
    arrivals = [arrival(0.0, 10, 21), arrival(0.055, 400, 1)]
    chunked = EngineConfig(max_batched_tokens=41)
    whole = EngineConfig(max_batched_tokens=41, chunked_prefill=False)
    first, second = simulate(replace(cluster(mixed=1), engine=whole), arrivals).records
    assert second.ttft_s == pytest.approx(0.4, abs=STEP_S)
    assert first.finished_s == pytest.approx(0.01 + 20 * STEP_S + 0.4)
    first, second = simulate(replace(cluster(mixed=1), engine=chunked), arrivals).records
    assert first.finished_s == pytest.approx(0.01 + 20 * STEP_S + 0.4)  # ten steps with a chunk of 40 tokens each
    assert second.ttft_s > 0.4 + 9 * STEP_S


def test_a_prefix_is_read_once_per_worker_and_found_by_the_router() -> None:
    hashes = tuple(range(1, 7))
    spec = replace(cluster(mixed=2), report_interval_s=0.1)
    arrivals = [arrival(0.0, 100, 2, hashes), arrival(1.0, 100, 2, hashes), arrival(2.0, 100, 2)]
    first, second, third = simulate(spec, arrivals).records
    assert [record.num_cached_tokens for record in (first, second, third)] == [0, 96, 0]
    assert second.decode_id == first.decode_id
    assert second.ttft_s == pytest.approx(4 * TOKEN_S)


def test_a_full_queue_sheds_and_what_can_never_fit_is_refused() -> None:
    spec = replace(cluster(mixed=1, num_blocks=10), router=RouterConfig(max_running=1, max_queue=1))
    arrivals = [arrival(0.0, 50, 50), arrival(0.01, 50, 5), arrival(0.02, 50, 5), arrival(0.03, 150, 20)]
    records = simulate(spec, arrivals).records
    assert [record.error for record in records] == ["", "", "overloaded", "invalid_request"]


@pytest.mark.parametrize("ingress_s", [0.0, 0.004])
def test_a_dead_worker_s_answer_goes_on_elsewhere_from_the_tokens_it_sent(ingress_s: float) -> None:
    spec = replace(cluster(mixed=2), ingress_s=ingress_s, start_s=100.0)
    fault = Fault(kind="kill", target="mixed-0", at_s=0.1 + 20.5 * STEP_S + ingress_s)
    results = [simulate(spec, [arrival(0.0, 100, 50)], faults=[fault], seed=seed) for seed in range(8)]
    (record,) = next(result.records for result in results if result.records[0].num_attempts == 2)
    # 21 tokens came; the other worker reads 121 and writes one, then 28 more.
    read_again_s = 121 * TOKEN_S + 3 * ingress_s  # the loss is seen, the new attempt sent, its tokens come
    assert record.finished_s == pytest.approx(fault.at_s + read_again_s + 28 * STEP_S)
    assert record.decode_id == "mixed-1"


def test_memory_for_one_of_two_makes_the_younger_read_its_prompt_again() -> None:
    spec = replace(cluster(mixed=1, num_blocks=12), engine=EngineConfig(max_batched_tokens=10_000, prefix_cache=False))
    result = simulate(spec, [arrival(0.0, 60, 60), arrival(0.0, 60, 60)], check_every=1)
    assert result.num_preemptions == 1
    assert [record.error for record in result.records] == ["", ""]
    assert result.peak_blocks["mixed-0"] == 12


def test_the_same_seed_gives_the_same_trace_and_another_one_breaks_ties_otherwise() -> None:
    arrivals = [arrival(index * 0.01, 50 + index, 20) for index in range(40)]
    spec = cluster(prefill=3, decode=3)
    first, second, other = (simulate(spec, arrivals, seed=seed) for seed in (1, 1, 2))
    assert (first.trace_hash, first.records) == (second.trace_hash, second.records)
    assert first.trace_hash != other.trace_hash


def test_spans_tell_of_every_phase_in_order() -> None:
    spec = replace(cluster(prefill=1, decode=1), transfer=Path(bandwidth=1e5))
    spans = simulate(spec, [arrival(0.0, 100, 3), arrival(0.01, 50, 3)], spans=True).spans
    second = [(span.kind, span.start_s) for span in spans if span.lane == "request 1"]
    assert [kind for kind, _ in second] == ["queued", "prefill", "transfer", "decode"]
    assert [at_s for _, at_s in second] == sorted(at_s for _, at_s in second)
    assert {span.kind for span in spans if span.lane == "prefill-0"} == {"prefill"}
    assert simulate(spec, [arrival(0.0, 100, 3)]).spans == []


@pytest.mark.parametrize(
    ("arrivals", "says"),
    [
        ([arrival(1.0, 5, 5), arrival(0.5, 5, 5)], r"arrivals\[1\]\.at_s: 0\.5, after one at 1\.0; sort them"),
        ([arrival(float("nan"), 5, 5)], r"arrivals\[0\]\.at_s: nan"),
        ([arrival(0.0, 0, 5)], r"arrivals\[0\]\.num_prompt_tokens: 0; give at least 1"),
        ([arrival(0.0, 5, 0)], r"arrivals\[0\]\.num_output_tokens: 0; give at least 1"),
        ([arrival(0.0, 31, 5, (1, 2))], r"arrivals\[0\]\.block_hashes: 2, but the prompt fills 1 blocks of 16"),
    ],
)
def test_arrivals_that_cannot_be_are_refused_by_name(arrivals: list[Arrival], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        simulate(cluster(mixed=1), arrivals)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (cluster(prefill=1), "pools: no worker can decode; give a decode or a mixed pool"),
        (replace(cluster(mixed=1), pools=cluster(mixed=1).pools * 2), "pools: two of role mixed; give one per role"),
        (cluster(mixed=1, num_blocks=0), "pools: mixed: num_blocks 0; give at least 1"),
        (replace(cluster(mixed=1), report_interval_s=0.0), "report_interval_s: 0; give a number above 0"),
        (replace(cluster(mixed=1), ingress_s=-1.0), "ingress_s: -1; give a number of 0 or more"),
    ],
)
def test_clusters_that_cannot_be_are_refused_by_name(spec: SimCluster, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        simulate(spec, [])
