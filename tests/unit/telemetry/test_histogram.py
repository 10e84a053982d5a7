"""Counts in buckets, as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from workers.telemetry.described import counter, gauge, histogram
from workers.telemetry.exposition import text
from workers.telemetry.histogram import Histogram


def test_a_value_falls_into_the_first_bucket_that_is_not_below_it() -> None:
    counted = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        counted.observe(value)
    assert (counted.counts, counted.sum, counted.count) == ([2, 2, 1], 14.0, 5)


def test_what_is_exported_is_cumulative() -> None:
    told = histogram("baton_x_seconds", "seconds", "Of x", "model").histogram([(("m",), (1.0, 2.5), [2, 1, 4], 7.5)])
    (family,) = text_string_to_metric_families(text([told]).decode())
    values = {sample.labels.get("le", sample.name): sample.value for sample in family.samples}
    assert values == {"1.0": 2, "2.5": 3, "+Inf": 7, "baton_x_seconds_count": 7, "baton_x_seconds_sum": 7.5}


def test_counts_of_other_bounds_are_left_out() -> None:
    told = histogram("baton_x_seconds", "seconds", "Of x").histogram([((), (1.0, 2.5), [2, 1], 7.5)])
    assert told.samples == []
    assert text([told]) == b""


def test_what_is_written_is_read_as_it_was_meant() -> None:
    odd = gauge("baton_x", "1", 'Of "x" \\ and\nmore', "name", "other")
    values = {'a "b" \\ c\nd': 1e300, "plain": float("inf"), "": -0.5}
    samples = [((name, "é"), value) for name, value in values.items()]
    (family,) = text_string_to_metric_families(text([odd.family(samples)]).decode())
    assert {sample.labels["name"]: sample.value for sample in family.samples} == values
    assert family.documentation == 'Of "x" \\ and\nmore'


def test_a_counters_name_is_that_of_its_samples() -> None:
    page = text([counter("baton_x_total", "things", "Counted").family([((), 2)])]).decode()
    assert page == "# HELP baton_x_total Counted\n# TYPE baton_x_total counter\nbaton_x_total 2.0\n"
