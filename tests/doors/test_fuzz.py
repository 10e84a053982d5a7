"""What nobody should send ends no server, hangs nowhere and is nobody's fault but the sender's."""

import pytest

from tests.doors.fuzz import fuzz

NUM_QUICK, NUM_SLOW = 1_000, 105_000


async def test_a_little_of_everything_malformed_harms_no_server() -> None:
    outcomes = await fuzz(NUM_QUICK, seed=1)
    print(outcomes.table())
    assert not outcomes.faults, outcomes.table()
    assert outcomes.num_cases >= NUM_QUICK - 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_a_hundred_thousand_malformed_requests_harm_no_server() -> None:
    outcomes = await fuzz(NUM_SLOW, seed=2)
    print(outcomes.table())
    assert not outcomes.faults, outcomes.table()
    assert outcomes.num_cases >= 100_000
