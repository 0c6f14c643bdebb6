"""Running means on the device, and the guard that stands in them."""

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.training.means import Means


def _add(means, *losses, **metrics):
    for loss in losses:
        means.add({name: tf.constant(value) for name, value in ({"loss": loss} | metrics).items()})


def test_means_forget_at_a_reset_and_have_nothing_before_the_first_step():
    means = Means()
    assert means.read() == means.totals() == {}
    assert means.bad() is None
    _add(means, 2.0, 4.0)
    assert (means.read(), means.totals()) == ({"loss": 3.0}, {"loss": 6.0})
    means.reset()
    assert means.read() == {}
    _add(means, 7.0)
    assert means.read() == {"loss": 7.0}


def test_means_go_on_from_their_totals_with_the_same_bits():
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(20, 2)).astype(np.float32)
    whole, rest = Means(), Means()
    for loss, other in values[:11]:
        _add(whole, loss, other=other)
    rest.reset(11, whole.totals())
    assert rest.read() == whole.read()
    for loss, other in values[11:]:
        _add(whole, loss, other=other)
        _add(rest, loss, other=other)
    assert rest.totals() == whole.totals()
    assert rest.read() == whole.read()
    assert rest.read()["loss"] == pytest.approx(values[:, 0].mean(), rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_the_first_step_that_is_not_finite_is_told_with_its_metrics(name, value):
    means = Means()
    _add(means, 1.0, 2.0, grad_norm=3.0)
    assert means.bad() is None
    bad = {"loss": 5.0, "grad_norm": 6.0} | {name: value}
    _add(means, bad["loss"], grad_norm=bad["grad_norm"])
    _add(means, np.nan, grad_norm=np.nan)
    _add(means, 1.0, grad_norm=3.0)
    found = means.bad()
    assert found.step == 2
    np.testing.assert_equal(found.metrics, bad)
    means.reset()
    assert means.bad() is None
    # Counted from the step at which a pass goes on.
    means.reset(7, {"loss": 1.0, "grad_norm": 1.0})
    _add(means, 1.0, np.nan, grad_norm=3.0)
    assert means.bad().step == 8


def test_another_metric_may_be_infinite():
    means = Means()
    _add(means, 1.0, eta=np.inf)
    assert means.bad() is None
    assert means.read() == {"loss": 1.0, "eta": np.inf}
