"""Moving KV, and draft rounds, in numbers."""

import pytest

from baton.errors import ConfigError
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import Parallelism
from cluster.planner.costs.devices import known_device
from cluster.planner.costs.draft import LayerParallelDraft
from cluster.planner.costs.roofline import RooflineLatency
from cluster.planner.costs.transfer import Path, path_between
from cluster.planner.models.known_models import known_model

H200 = known_device("h200")
TARGET = RooflineLatency.of(known_model("meta-llama/Llama-3.1-70B"), H200, Parallelism(tensor=4))


def draft(layer_parallel: int = 1, num_drafts: int = 4, acceptance: float = 0.8) -> LayerParallelDraft:
    return LayerParallelDraft.from_specs(
        target=TARGET,
        model=known_model("meta-llama/Llama-3.2-1B"),
        device=H200,
        layer_parallel=layer_parallel,
        num_drafts=num_drafts,
        acceptance=DraftChances((acceptance,)),
    )


def test_a_transfer_takes_its_latency_and_its_bytes() -> None:
    assert Path(bandwidth=1e9, latency_s=0.01).transfer_s(500_000_000) == pytest.approx(0.51)
    assert Path(bandwidth=1e9, latency_s=0.01).transfer_s(0) == 0.01


def test_a_path_has_a_lane_per_device_of_the_smaller_worker() -> None:
    one, two, four = (Parallelism(tensor=degree) for degree in (1, 2, 4))
    near = path_between(H200, four, two, within_node=True)
    assert near.bandwidth == 2 * path_between(H200, four, one, within_node=True).bandwidth
    far = path_between(H200, two, four, within_node=False)
    assert near.bandwidth / far.bandwidth == pytest.approx(H200.link_bandwidth / H200.network_bandwidth)
    assert far.latency_s > near.latency_s


def test_expected_tokens_follow_the_acceptance() -> None:
    assert draft(num_drafts=3, acceptance=0.8).tokens_per_round() == pytest.approx((1 - 0.8**4) / (1 - 0.8))
    assert draft(num_drafts=3, acceptance=1.0).tokens_per_round() == 4
    assert draft(num_drafts=3, acceptance=0.0).tokens_per_round() == 1


def test_chances_go_by_place_and_the_last_is_that_of_all_further_ones() -> None:
    chances = DraftChances.read("0.9,0.5", "--draft-acceptance")
    assert [chances.at(place) for place in range(4)] == [0.9, 0.5, 0.5, 0.5]
    assert chances.expected(3) == pytest.approx(0.9 + 0.45 + 0.225)
    for text in ("1.2", "", "0.5,", "half", "nan"):
        with pytest.raises(ConfigError, match=r"--draft-acceptance .* must be a share in \[0, 1\], for example 0\.7"):
            DraftChances.read(text, "--draft-acceptance")


def test_rounds_pay_for_one_sequence_and_not_for_a_full_batch() -> None:
    model = draft()
    gain = TARGET.step_s((), 1, 1000) * model.tokens_per_round() / model.round_s(1, 1000)
    assert gain > 1.3
    full = TARGET.step_s((), 256, 256_000) * model.tokens_per_round() / model.round_s(256, 256_000)
    assert full < gain


def test_layer_parallel_ranks_draft_faster_but_not_by_their_number() -> None:
    rounds_s = [draft(layer_parallel=degree).round_s(1, 1000) for degree in (1, 4)]
    assert 1 < rounds_s[0] / rounds_s[1] < 1.62  # EasySpec's best, with its feed-forward parts divided too
    assert draft(layer_parallel=4).round_s(0, 0) == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_drafts": 0}, "num_drafts 0 must be 1 or more"),
        ({"layer_parallel": 0}, "layer_parallel 0 must be 1 or more"),
    ],
)
def test_impossible_drafts_are_refused(fields: dict[str, float], message: str) -> None:
    arguments = {"num_drafts": 4, "acceptance": DraftChances((0.8,)), **fields}
    with pytest.raises(ConfigError, match=message):
        LayerParallelDraft(target=TARGET, draft=TARGET, **arguments)  # type: ignore[arg-type]


def test_impossible_paths_are_refused() -> None:
    with pytest.raises(ConfigError, match="bandwidth 0 must be above 0"):
        Path(bandwidth=0)
    with pytest.raises(ConfigError, match="latency_s -1 must be"):
        Path(bandwidth=1, latency_s=-1)
