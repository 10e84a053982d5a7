"""Real runs that simulations are laid beside, over the fake model."""

from itertools import pairwise

from bench.fidelity.real_runs import prompt_of, run_for_real, set_ups
from cluster.config.load import from_tree
from cluster.contracts.simulation import Arrival
from cluster.planner.load.workload import mean_rate

FAKE = {"load_format": "fake", "device": "cpu", "fake_step_s": 0.001}


def test_arrivals_that_share_hashes_share_those_tokens_and_no_others() -> None:
    first, second = (
        Arrival(at_s=0.0, num_prompt_tokens=40, num_output_tokens=1, block_hashes=hashes) for hashes in ((1, 2), (1, 3))
    )
    one, two = prompt_of(0, first, 16), prompt_of(1, second, 16)
    assert (len(one), len(two)) == (40, 40)
    assert one[:16] == two[:16]
    assert one[16:32] != two[16:32]
    assert one[32:] != two[32:]


def test_a_run_answers_every_arrival_in_full_and_tells_when() -> None:
    arrivals = [
        Arrival(at_s=0.05 * number, num_prompt_tokens=length, num_output_tokens=6)
        for number, length in enumerate((20, 200, 90))
    ]
    records = run_for_real(from_tree(FAKE), arrivals)
    assert [record.index for record in records] == [0, 1, 2]
    assert not any(record.error for record in records)
    for arrival, record in zip(arrivals, records, strict=True):
        assert arrival.at_s <= record.arrived_s < record.first_token_s < record.finished_s


def test_the_set_ups_cover_both_layouts_from_light_to_saturated() -> None:
    found = set_ups(seconds=10.0)
    assert len(found) >= 12
    assert len({set_up.name for set_up in found}) == len(found)
    assert {bool(set_up.config.pools.mixed.workers) for set_up in found} == {True, False}
    rates = [mean_rate(set_up.arrivals) for set_up in found if set_up.name.startswith("split, ")][:4]
    assert all(low < high for low, high in pairwise(rates))
    assert any(arrival.block_hashes for set_up in found for arrival in set_up.arrivals)
