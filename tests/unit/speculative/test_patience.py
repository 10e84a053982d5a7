from workers.speculative.patience import Patience


def seasoned(*, answer_s: float, step_s: float, gain: float) -> Patience:
    patience = Patience()
    for _ in range(200):
        patience.answered(answer_s)
        patience.stepped(step_s)
        patience.proved(gain)
    return patience


def test_nothing_is_waited_for_before_times_are_known() -> None:
    assert Patience().wait_s(1, 1) == 0.0


def test_a_lone_sequence_waits_a_little_for_a_quick_drafter() -> None:
    patience = seasoned(answer_s=0.003, step_s=0.02, gain=2)
    assert 0.003 < patience.wait_s(1, 1) < 0.01


def test_many_sequences_do_not_wait_for_one() -> None:
    patience = seasoned(answer_s=0.003, step_s=0.02, gain=2)
    assert patience.wait_s(1, 16) == 0.0
    assert patience.wait_s(14, 16) > 0.0


def test_nothing_is_waited_for_that_is_seldom_right_or_takes_as_long_as_a_step() -> None:
    assert seasoned(answer_s=0.003, step_s=0.02, gain=0).wait_s(1, 1) == 0.0
    assert seasoned(answer_s=0.015, step_s=0.02, gain=5).wait_s(1, 1) == 0.0


def test_a_drafter_that_hangs_is_waited_for_a_few_times_and_again_when_it_answers() -> None:
    patience = seasoned(answer_s=0.003, step_s=0.02, gain=3)
    waited_s, num_waits = 0.0, 0
    while wait_s := patience.wait_s(1, 1):
        patience.gave_up(wait_s)
        waited_s, num_waits = waited_s + wait_s, num_waits + 1
    assert num_waits < 10
    assert waited_s < 0.1
    for _ in range(20):
        patience.answered(0.003)
    assert patience.wait_s(1, 1) > 0.0


def test_a_pause_between_answers_is_no_step() -> None:
    patience = seasoned(answer_s=0.003, step_s=0.02, gain=3)
    patience.stepped(60.0)
    assert patience.step_s is not None
    assert patience.step_s < 0.03
