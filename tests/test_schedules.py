"""The schedules of radius and learning rate, against NumPy and the paper's words."""

import numpy as np
import pytest

from robustra_tf.training import schedules


@pytest.mark.parametrize(
    ("start", "end", "warmup"), [(0.01, 0.1, 20), (0.0, 0.3, 2), (0.2, 0.2, 5)]
)
def test_epsilon_is_linspace_then_constant(start, end, warmup):
    ramp = [schedules.epsilon(epoch, start, end, warmup) for epoch in range(warmup)]
    np.testing.assert_allclose(ramp, np.linspace(start, end, warmup), rtol=1e-12)
    assert [schedules.epsilon(epoch, start, end, warmup) for epoch in (warmup, 99)] == [end, end]


def test_epsilon_with_a_ramp_of_one_epoch_begins_at_the_start():
    assert [schedules.epsilon(epoch, 0.01, 0.1, 1) for epoch in (0, 1)] == [0.01, 0.1]


def test_epsilon_without_warm_up_is_the_full_radius_at_once():
    assert schedules.epsilon(0, 0.01, 0.1, 0) == 0.1


def test_epsilon_never_exceeds_the_full_radius():
    ramp = [schedules.epsilon(epoch, 0.00225, 2 / 255, 20) for epoch in range(100)]
    assert max(ramp) <= 2 / 255
    assert np.all(np.diff(ramp) >= 0)


def test_learning_rate_is_constant_along_the_warm_up_and_then_halves_every_ten_epochs():
    rates = [schedules.halving(epoch, 1e-3, 20) for epoch in range(100)]
    assert set(rates[:30]) == {1e-3}
    for epoch in range(20, 90):
        assert rates[epoch + 10] == rates[epoch] / 2
    assert rates[30:40] == [5e-4] * 10


def test_epsilon_within_an_epoch_is_linear_and_then_constant():
    found = [schedules.epsilon_within(t, 0.0, 0.3, 4) for t in (0.0, 0.5, 1.0, 3.9, 4.0, 40.0)]
    np.testing.assert_allclose(found, [0.0, 0.0375, 0.075, 0.2925, 0.3, 0.3], rtol=1e-12)
    assert schedules.epsilon_within(0.0, 0.1, 0.3, 0) == 0.3


def test_cosine_is_constant_along_the_warm_up_and_then_falls_towards_zero():
    rates = [schedules.cosine(epoch, 2.0, 5, 15) for epoch in range(15)]
    assert rates[:6] == [2.0] * 6
    assert np.all(np.diff(rates[5:]) < 0)
    np.testing.assert_allclose(rates[10], 1.0, rtol=1e-12)
    assert 0 < rates[-1] < 0.1
