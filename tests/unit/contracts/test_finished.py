"""What counts as served well."""

from dataclasses import replace

import pytest

from cluster.contracts.finished import FinishedRequest
from cluster.contracts.slo import SLO

SLO_ = SLO(ttft_s=0.5, tpot_s=0.05)


def request(*, status: str = "ok", ttft_s: float | None = 0.1, tpot_s: float | None = 0.01) -> FinishedRequest:
    return FinishedRequest(
        request_id="r",
        model="m",
        route="chat",
        status=status,
        arrived_s=1.0,
        ended_s=3.0,
        num_choices=1,
        num_prompt_tokens=10,
        num_cached_tokens=0,
        num_output_tokens=5,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
    )


@pytest.mark.parametrize(
    ("one", "meets"),
    [
        (request(), True),
        (request(tpot_s=None), True),
        (request(status="cancelled"), True),
        (request(ttft_s=0.6), False),
        (request(tpot_s=0.06), False),
        (request(ttft_s=None), False),
        (request(status="overloaded"), False),
    ],
)
def test_both_times_must_hold_and_an_error_is_not_served_well(one: FinishedRequest, meets: bool) -> None:
    assert one.meets(SLO_) is meets
    assert one.e2e_s == 2.0


def test_a_model_with_an_slo_of_its_own_is_held_to_that() -> None:
    one = replace(request(ttft_s=0.6), slo=SLO(ttft_s=1.0, tpot_s=0.05))
    assert one.meets(SLO_)
    assert not replace(one, slo=SLO(ttft_s=0.1, tpot_s=0.05)).meets(SLO(ttft_s=1.0, tpot_s=1.0))
