import pytest

from bench.engine_points import DUMMY_POINTS, QUICK_POINTS, REAL_POINTS, Point, PointKind, parse_points
from bench.rates import Rates
from cluster.planner.models.known_models import known_model

RATES = Rates(read=10e9, products={"float32": 1e12, "bfloat16": 4e12})


def test_the_usual_points_parse() -> None:
    assert [str(point) for point in parse_points("decode 8 @ 1000, prefill 256,ragged 16")] == [
        "decode 8 @ 1,000",
        "prefill 256",
        "ragged 16",
    ]
    assert parse_points("decode 4") == [Point(kind=PointKind.DECODE, size=4, context=64)]
    assert all(len(parse_points(text)) > 2 for text in (DUMMY_POINTS, REAL_POINTS, QUICK_POINTS))


@pytest.mark.parametrize("text", ["decode", "decode 0", "prefill 8 @ 4", "ragged 3", "encode 1"])
def test_what_is_no_point_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}.* is no point"):
        parse_points(text)


def test_a_lone_decode_is_bound_by_reading_and_a_prompt_by_products() -> None:
    model = known_model("meta-llama/Llama-3.1-8B-Instruct")
    decode, prefill = parse_points("decode 1 @ 1000, prefill 2048")
    assert decode.limit_s(model, RATES) == pytest.approx(model.decode_bytes(1, 1000) / 10e9)
    assert prefill.limit_s(model, RATES) == pytest.approx(model.prefill_flops(2048) / 4e12)


def test_a_slow_machine_is_asked_for_fewer_steps() -> None:
    (point,) = parse_points("decode 1 @ 1000")
    assert point.job(1e-3)["steps"] > point.job(0.05)["steps"] >= point.job(10.0)["steps"] == 4
