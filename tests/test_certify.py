"""`certify` and `layer_bounds`: what users call, from NumPy to NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from robustra_tf.certificates.certificate import Certificate
from robustra_tf.graph import build
from tests import nets, oracle_intervals, oracle_nets, oracles
from tests.oracles import assert_close

COUNT, EPS = 7, 0.06


@pytest.fixture(scope="module")
def case():
    """A model, its matrices, images and labels."""
    model = nets.two_conv()
    x = nets.images(model, COUNT, seed=11)
    y = np.arange(COUNT) % nets.CLASSES
    return model, oracle_nets.of_model(model), x, y


def test_margins_in_batches_are_the_oracle(case):
    model, net, x, y = case
    found = rt.certify(model, x, y, EPS, batch_size=3)  # The last batch has one image.
    expected = [oracles.margins(net, a, b, EPS, box=(0.0, 1.0)) for a, b in zip(x, y, strict=True)]
    assert found.margin_lower.shape == (COUNT, nets.CLASSES)
    assert found.margin_lower.dtype == np.float32
    assert_close(found.margin_lower, expected, 1e-4)
    np.testing.assert_array_equal(found.margin_lower[np.arange(COUNT), y], 0)
    np.testing.assert_array_equal(found.predicted, model(x).numpy().argmax(1))
    np.testing.assert_array_equal(found.labels, y)
    # Every target counts but the label.
    worst = [np.delete(m, k).min() for m, k in zip(found.margin_lower, y, strict=True)]
    np.testing.assert_array_equal(found.worst_margin, worst)
    np.testing.assert_array_equal(found.certified, np.array(worst) > 0)
    at_worst = found.margin_lower[np.arange(COUNT), found.worst_target]
    np.testing.assert_array_equal(at_worst, worst)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1},
        {"batch_size": 100},
        {"rows": "every"},
        {"rows": "auto"},
        {"dtype": "float64"},
    ],
    ids=str,
)
def test_how_it_is_computed_does_not_matter(case, options):
    model, _, x, y = case
    plain = rt.certify(model, x, y, EPS, batch_size=3)
    other = rt.certify(model, x, y, EPS, **{"batch_size": 3} | options)
    assert_close(other.margin_lower, plain.margin_lower, 1e-4)
    np.testing.assert_array_equal(other.predicted, plain.predicted)
    if "dtype" in options:
        assert other.margin_lower.dtype == np.float64


def test_long_work_shows_a_bar_where_it_is_asked_for(case, capsys):
    model, _, x, y = case
    plain = rt.certify(model, x, y, EPS, batch_size=3)
    assert capsys.readouterr() == ("", "")
    found = rt.certify(model, x, y, EPS, batch_size=3, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "certify:   0%" in err
    assert f"{COUNT}/{COUNT}" in err.splitlines()[-1]
    np.testing.assert_array_equal(found.margin_lower, plain.margin_lower)


def test_graphs_and_tensors_are_taken_too(case):
    model, _, x, y = case
    plain = rt.certify(model, x, y, EPS, batch_size=3)
    other = rt.certify(build(model), tf.constant(x), tf.constant(y), np.float32(EPS), batch_size=3)
    np.testing.assert_allclose(other.margin_lower, plain.margin_lower, rtol=1e-5, atol=1e-6)
    margins = rt.margin_bounds(model, x.tolist(), y.tolist(), EPS, batch_size=3)
    np.testing.assert_allclose(margins, plain.margin_lower, rtol=1e-5, atol=1e-6)


def test_a_radius_may_be_a_tensor_of_either_type(case):
    model, _, x, y = case
    for radius in (tf.constant(EPS), tf.constant(EPS, tf.float64), np.array(EPS)):
        found = rt.certify(model, x, y, radius, batch_size=3, dtype="float64")
        assert found.eps == pytest.approx(EPS, rel=1e-7)
        assert isinstance(found.eps, float)


def test_a_certificate_tells_its_figures(case):
    model, _, x, y = case
    found = rt.certify(model, x, y, EPS, batch_size=3)
    first, correct, certified, margins = found.summary().splitlines()
    assert (
        first == "7 images, linf balls of radius 0.06 in pixels cut to [0, 1], dual bound, float32"
    )
    share = (model(x).numpy().argmax(1) == y).mean()
    assert correct.strip() == f"{round(7 * share)} of 7 correct ({share:.2%})"
    proven = found.certified.mean()
    assert certified.strip() == (
        f"{round(7 * proven)} of 7 certified ({proven:.2%}): robust error at most {1 - proven:.2%}"
    )
    assert f"least {found.worst_margin.min():.3g}" in margins
    assert f"median {np.median(found.worst_margin):.3g}" in margins


def test_layer_bounds_ask_for_no_rival_class():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, "relu"), layers.Dense(1)])
    model.layers[0].set_weights([np.array([[2.0]]), np.array([-0.5])])
    [(low, high)] = rt.layer_bounds(model, np.array([[0.5]]), 0.25)
    np.testing.assert_allclose([low, high], [[[0.0]], [[1.0]]], atol=1e-6)


def test_layer_bounds_are_the_oracle(case):
    model, net, x, _ = case
    found = rt.layer_bounds(model, x, EPS, batch_size=3, dtype="float64")
    intervals = rt.layer_bounds(model, x, EPS, batch_size=3, dtype="float64", method="interval")
    assert [low.shape for low, _ in found] == [(COUNT, 4, 4, 3), (COUNT, 2, 2, 4), (COUNT, 6)]
    relus = [net.nodes[k][1][0] for k in net.relus]
    for k in range(COUNT):
        expected, cheap = (
            oracles.enclose(net, x[k], EPS),
            oracle_intervals.intervals(net, x[k], EPS),
        )
        for layer, (lower, upper) in enumerate(found):
            assert_close(lower[k], expected.lower[layer], 1e-10)
            assert_close(upper[k], expected.upper[layer], 1e-10)
            assert_close(intervals[layer][0][k], cheap[relus[layer]][0], 1e-10)
            assert_close(intervals[layer][1][k], cheap[relus[layer]][1], 1e-10)


def test_interval_margins_are_the_oracle(case):
    model, net, x, y = case
    found = rt.certify(model, x, y, 0.01, box=None, method="interval", dtype="float64")
    for k in range(COUNT):
        expected = -oracle_intervals.interval_margins(net, x[k], y[k], 0.01)
        assert_close(found.margin_lower[k], expected, 1e-10)


def test_methods_are_ordered_where_theory_says_so():
    """Each counts those before it; nor are mixed inner bounds looser than the dual's."""
    model = nets.dense()
    x = nets.images(model, COUNT, seed=2)
    y = np.argmax(model(x), axis=1)
    found = {
        method: rt.certify(model, x, y, EPS, method=method, dtype="float64").margin_lower
        for method in ("interval", "dual", "crown", "alpha")
    }
    for below, above in (("interval", "crown"), ("dual", "crown"), ("crown", "alpha")):
        assert np.all(found[above] >= found[below] - 1e-12)
        assert np.max(found[above] - found[below]) > 1e-4
    inner = {
        kind: rt.certify(model, x, y, EPS, inner=kind, dtype="float64").worst_margin.sum()
        for kind in ("dual", "interval", "mixed")
    }
    assert inner["interval"] < inner["dual"] <= inner["mixed"]
    with pytest.raises(
        ValueError, match="inner must be one of dual, interval, mixed, crown, alpha, got 'x'"
    ):
        rt.certify(model, x, y, EPS, inner="x")


def test_no_images(case):
    model, _, x, y = case
    found = rt.certify(model, x[:0], y[:0], EPS)
    assert found.margin_lower.shape == (0, nets.CLASSES)
    assert found.certified.shape == found.predicted.shape == (0,)
    assert "0 of 0" in found.summary()
    assert rt.layer_bounds(model, x[:0], EPS)[0][0].shape == (0, 4, 4, 3)


def test_weights_are_read_when_it_is_called(case):
    """No weights stay behind in what was compiled."""
    model, _, x, y = case
    before = rt.certify(model, x, y, EPS, batch_size=3).margin_lower
    values = model.get_weights()
    model.set_weights([2.0 * value for value in values])
    changed = rt.certify(model, x, y, EPS, batch_size=3).margin_lower
    model.set_weights(values)
    assert np.abs(changed - before).max() > 0.1
    again = rt.certify(model, x, y, EPS, batch_size=3).margin_lower
    np.testing.assert_array_equal(again, before)


def test_a_margin_that_is_no_number_certifies_nothing():
    lower = np.array([[0.0, 1.0, np.nan], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0], [3.0, 0.0, np.inf]])
    about = (np.array([0, 0, 0, 1]), np.zeros(4, int), 0.1, "linf", None, "dual", "float32")
    found = Certificate(lower, *about)
    np.testing.assert_array_equal(found.certified, [False, True, False, False])
    assert "1 of 4 certified (25.00%)" in found.summary()
    assert "\n" not in repr(found)
    assert "n=4, correct=3, certified=1, eps=0.1, norm='linf', box=None" in repr(found)
    # The certified error is the share of all that are not certified.
    assert "robust error at most 75.00%" in found.summary()
    assert "3 of 4 correct (75.00%)" in found.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, "eps must be one finite number of pixels >= 0, got -0.1"),
        ({"eps": float("nan")}, "eps must be"),
        ({"eps": [0.1, 0.2]}, "eps must be"),
        ({"norm": "l3"}, "norm must be one of linf, l2, l1, got 'l3'"),
        ({"method": "magic"}, "method must be one of dual, interval, crown, alpha, got 'magic'"),
        ({"rows": "most"}, "rows must be one of every, needed, auto, got 'most'"),
        ({"rows": "most", "method": "interval"}, "rows must be one of"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"box": (1.0, 0.0)}, "box must be"),
        ({"box": (0.0, 0.5)}, "x must lie in the box"),
        ({"x": np.zeros((COUNT, 8, 8, 2))}, "x must have shape"),
        ({"x": np.full((COUNT, 8, 8, 1), np.nan)}, "x must be finite"),
        ({"x": np.full((COUNT, 8, 8, 1), 255)}, "x must lie in the box"),
        ({"y": np.zeros(COUNT)}, "y must be one axis of integers, got float64"),
        ({"y": np.zeros((COUNT, 1), int)}, "y must be one axis of integers"),
        ({"y": np.zeros(COUNT - 1, int)}, "y must have a label for each of the 7 images, got 6"),
        ({"y": np.full(COUNT, nets.CLASSES)}, r"y must lie in 0\.\.2, got 3\.\.3"),
        ({"y": np.full(COUNT, -1)}, r"y must lie in 0\.\.2"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(case, change, message):
    model, _, x, y = case
    arguments = {"x": x, "y": y, "eps": EPS} | change
    with pytest.raises(ValueError, match=message):
        rt.certify(model, **arguments)


def test_model_that_is_none(case):
    _, _, x, y = case
    with pytest.raises(TypeError, match="model: expected a keras"):
        rt.certify("mnist_small", x, y, EPS)
