"""Blocks of each worker by state, as a scrape of /metrics tells them."""

from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tools.soak.watch import View, workers_of

FAMILY = "baton_worker_blocks"
HELD = ("referenced", "quarantined")  # by what runs, or by what a write may still touch
Blocks = Mapping[str, Mapping[str, float]]  # worker -> state -> blocks


def blocks_in(text: str) -> Blocks:
    """Empty where this version does not tell states apart."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        if family.name == FAMILY:
            for sample in family.samples:
                if "state" in sample.labels:
                    found[sample.labels["worker"]][sample.labels["state"]] = sample.value
    return found


def sums_that_are_off(blocks: Blocks, view: View) -> list[str]:
    """Workers whose blocks by state are not all that they have."""
    wanted = {worker["worker_id"]: worker["num_blocks"] for worker in workers_of(view) if worker["num_blocks"]}
    return [
        f"blocks of {worker} by state are {dict(states)}, and it has {wanted[worker]}"
        for worker, states in blocks.items()
        if worker in wanted and sum(states.values()) != wanted[worker]
    ]


def held(blocks: Blocks) -> list[str]:
    """Of an idle cluster: workers with blocks that somebody holds."""
    return [
        f"{worker} has {states[state]:.0f} blocks {state} with nothing running, says /metrics"
        for worker, states in blocks.items()
        for state in HELD
        if states.get(state)
    ]
