"""What a profile makes of the steps that workers noted."""

import pytest

from cluster.profiling.points import NotedStep, Round, costs_s, step_points, transfer_points


def decodes(*times_s: tuple[float, float], num_decodes: int = 4, context: int = 100) -> tuple[NotedStep, ...]:
    return tuple(NotedStep(began, ended, (), num_decodes, context) for began, ended in times_s)


def test_a_step_costs_what_passes_until_the_next_begins() -> None:
    steps = decodes((0.0, 0.010), (0.0105, 0.020), (0.0207, 0.030))
    assert costs_s(steps) == pytest.approx([0.0105, 0.0102, 0.0093])


def test_a_pause_of_the_worker_is_no_part_of_a_step() -> None:
    assert costs_s(decodes((0.0, 0.010), (0.5, 0.510))) == pytest.approx([0.010, 0.010])


def test_equal_steps_of_all_rounds_become_one_median() -> None:
    rounds = [
        Round(scenario="a", steps=decodes((0.0, took_s)), waited=0.0) for took_s in (0.011, 0.010, 0.012, 0.013, 0.009)
    ]
    (point,) = step_points(rounds)
    assert (point.kind, point.num_decodes, point.num_context, point.num_samples) == ("decode", 4, 100, 5)
    assert point.step_s == pytest.approx(0.011)


def test_the_rounds_in_which_the_worker_waited_for_its_core_do_not_count() -> None:
    rounds = [
        Round(scenario="a", steps=decodes((0.0, took_s)), waited=waited)
        for took_s, waited in ((0.010, 0.0), (0.030, 0.6), (0.011, 0.1), (0.040, 0.7), (0.012, 0.1))
    ]
    (point,) = step_points(rounds)
    assert point.step_s == pytest.approx(0.011)
    assert point.num_samples == 3


def test_what_came_about_once_in_several_rounds_is_left_out() -> None:
    mixed = NotedStep(9.0, 9.02, [[64, 0]], 4, 100)
    rounds = [Round(scenario="a", steps=(*decodes((1.0, 1.01)), mixed), waited=0.0)]
    rounds += [Round(scenario="a", steps=decodes((1.0, 1.01)), waited=0.0)]
    assert [point.kind for point in step_points(rounds)] == ["decode"]
    assert [point.kind for point in step_points(rounds[:1])] == ["decode", "mixed"]


def test_chunks_of_one_make_up_are_one_point_whatever_their_order_and_scenario() -> None:
    rounds = [
        Round(scenario="a", steps=(NotedStep(0.0, 0.02, [[64, 0], [16, 32]], 0, 0),), waited=0.0),
        Round(scenario="b", steps=(NotedStep(0.0, 0.04, [[16, 32], [64, 0]], 0, 0),), waited=0.0),
    ]
    (point,) = step_points(rounds)
    assert (point.kind, point.prompts) == ("prefill", ((16, 32), (64, 0)))
    assert point.step_s == pytest.approx(0.03)


def test_transfers_are_medians_by_transport_and_size() -> None:
    points = transfer_points({("shm", 2000): [0.3, 0.1, 0.2], ("grpc", 1000): [0.5]})
    assert [(point.transport, point.num_bytes, point.transfer_s) for point in points] == [
        ("grpc", 1000, 0.5),
        ("shm", 2000, 0.2),
    ]
