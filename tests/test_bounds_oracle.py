"""Bounds of the published networks against the values of the authors' implementation.

float64 agrees within 1e-6 and float32 within 1e-3, both relative to the mean size of the compared
values (a bound near zero has no digits of its own).
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf import models
from robustra_tf.certificates import certify, layer_bounds
from robustra_tf.graph import build
from robustra_tf.objective.robustra import literal, objective, side
from tests import oracle_nets, oracles
from tests.oracles import assert_close

pytestmark = pytest.mark.oracle

DIGITS = {"float64": 1e-6, "float32": 1e-3}
dtypes = pytest.mark.parametrize("dtype", DIGITS)


def values_of(shared, name):
    with np.load(shared / "oracle" / name) as file:
        return dict(file)


@pytest.fixture(scope="module")
def mnist(shared):
    """The values, f and g."""
    values = values_of(shared, "mnist_small_pair_eps0.1.npz")
    f = models.load_mat(models.build("mnist_small"), shared / oracle_nets.MNIST_WEIGHTS)
    return values, f, models.load_arrays(models.build("mnist_small"), values, prefix="g/")


@pytest.fixture(scope="module")
def cifar10(shared):
    """The values, the network behind its normalisation, the images in pixels, and their radius."""
    values = values_of(shared, "cifar10_small_eps0.0347_normalised.npz")
    model = models.build("cifar10_small")
    models.load_mat(model, shared / oracle_nets.CIFAR10_WEIGHTS, normalised=True)
    pixels = values["x"] * oracle_nets.CIFAR10_STD + oracle_nets.CIFAR10_MEAN
    return values, model, pixels, values["eps"] * oracle_nets.CIFAR10_STD


@pytest.fixture(scope="module")
def residual(shared):
    """The values and the random residual network."""
    values = values_of(shared, "residual_net_eps0.02.npz")
    plain = {"dtype": "float64"}

    inputs = keras.Input((8, 8, 1), dtype="float64")
    stem = layers.Conv2D(4, 3, padding="same", activation="relu", name="0", **plain)(inputs)
    branch = layers.ZeroPadding2D(1, **plain)(stem)
    branch = layers.Conv2D(6, 4, 2, activation="relu", name="2_Ws_0", **plain)(branch)
    branch = layers.Conv2D(6, 3, padding="same", name="4_Ws_2", **plain)(branch)
    skip = layers.Conv2D(6, 2, 2, name="4_Ws_0", **plain)(stem)
    joined = layers.ReLU(**plain)(layers.Add(**plain)([branch, skip]))
    flat = layers.Flatten(**plain)(joined)
    hidden = layers.Dense(12, activation="relu", name="7", **plain)(flat)
    model = keras.Model(inputs, layers.Dense(10, name="9", **plain)(hidden))
    for name in ("0", "2_Ws_0", "4_Ws_2", "4_Ws_0", "7", "9"):
        kernel, bias = (values[f"w/{name.replace('_', '/')}/{end}"] for end in ("weight", "bias"))
        if name == "7":
            kernel = oracles.flattened(kernel, (4, 4, 6)).T
        model.get_layer(name).set_weights([kernel, bias])
    return values, model


def assert_layers(model, x, eps, values, dtype):
    found = layer_bounds(model, x, eps, dtype=dtype)
    for k, (lower, upper) in enumerate(found):
        assert_close(lower, values[f"lower_{k}"], DIGITS[dtype])
        assert_close(upper, values[f"upper_{k}"], DIGITS[dtype])
    assert f"lower_{len(found)}" not in values


def assert_margins(model, x, values, eps, expected, dtype, norm="linf", box=None):
    for rows in ("every", "needed"):
        found = certify(model, x, values["y"], eps, norm, box, dtype=dtype, rows=rows)
        assert_close(found.margin_lower, values[expected], DIGITS[dtype])


@dtypes
def test_mnist_layers(mnist, dtype):
    values, f, _ = mnist
    assert_close(build(f)(tf.constant(values["x"], dtype)), values["logits_f"], DIGITS[dtype])
    assert_layers(f, values["x"], values["eps"], values, dtype)


@dtypes
def test_mnist_margins(mnist, dtype):
    values, f, g = mnist
    x, eps = values["x"], values["eps"]
    assert_margins(f, x, values, eps, "margin_lb", dtype)
    assert_margins(g, x, values, eps, "margin_lb_g", dtype)
    assert_margins(f, x, values, eps, "margin_lb_box01", dtype, box=(0.0, 1.0))
    assert_margins(f, x, values, values["eps_l2"], "margin_lb_l2", dtype, norm="l2")


@dtypes
def test_residual_layers_and_margins(residual, dtype):
    values, model = residual
    assert_close(model(values["x"]), values["logits"], 1e-6)
    assert_layers(model, values["x"], values["eps"], values, dtype)
    assert_margins(model, values["x"], values, values["eps"], "margin_lb", dtype)


@dtypes
def test_cifar10_in_pixels(cifar10, dtype):
    """The file's images and radius are normalised; the graph takes pixels."""
    values, model, pixels, eps = cifar10
    assert_close(build(model)(tf.constant(pixels, dtype)), values["logits_f"], DIGITS[dtype])
    assert_layers(model, pixels, eps, values, dtype)
    assert_margins(model, pixels, values, eps, "margin_lb", dtype)
    radius = values["eps_l2"] * oracle_nets.CIFAR10_STD
    assert_margins(model, pixels, values, radius, "margin_lb_l2", dtype, norm="l2")


@pytest.fixture(scope="module")
def pair(mnist):
    """dtype -> both duals, the objective and the literal Equation 8 of the published pair."""

    def evaluate(dtype):
        values, *both = mnist
        x, eps = tf.constant(values["x"], dtype), tf.constant(values["eps"], dtype)
        y = tf.constant(values["y"], tf.int32)
        graphs = [build(model) for model in both]
        f, g = (side(net.structure, net.weights(x.dtype), x, y, eps) for net in graphs)
        found = objective(f, g, eps)
        return f, g, found, literal(f, g, eps, found.eta, found.t0)

    return {dtype: evaluate(dtype) for dtype in DIGITS}


def test_pair_in_float64(mnist, pair):
    values, (_, _, found, eqn8) = mnist[0], pair["float64"]
    np.testing.assert_array_equal(found.positive, values["n_positive"])
    for ours, theirs in (
        (found.eta, "eta_med"),
        (found.t0, "t0"),
        (found.h, "h"),
        (eqn8, "h"),
        (-found.wk, "margin_lb"),
        (found.tightness.left, "grad_left_t0"),
        (found.tightness.right, "grad_right_t0"),
    ):
        assert_close(ours, values[theirs], DIGITS["float64"])


def test_pair_in_float32(mnist, pair):
    values, (_, _, found, eqn8) = mnist[0], pair["float32"]
    for ours, theirs in (
        (found.t0, "t0"),
        (found.h, "h"),
        (eqn8, "h"),
        (-found.wk, "margin_lb"),
        (found.tightness.left, "grad_left_t0"),
        (found.tightness.right, "grad_right_t0"),
    ):
        assert_close(ours, values[theirs], DIGITS["float32"])


def test_eta_in_float32_is_a_median_that_rounding_allows(mnist, pair):
    """A coordinate that rounding may carry over zero may shift the median by a transition.

    So `eta` is held to what the float64 rows allow: every entry of `nuhat` and `qhat` is taken as
    an interval of 1e-5 of its row's mean size, which the float32 rows are shown to keep to, and
    `eta_med` must lie between the medians of the smallest and of the largest transitions.
    """
    values = mnist[0]
    (f, g, found, _), (f64, g64, *_) = pair["float32"], pair["float64"]
    nuhat, slack_f = entries(f64.rows)
    qhat, slack_g = entries(g64.rows)
    for rows, exact, slack in ((f.rows, nuhat, slack_f), (g.rows, qhat, slack_g)):
        assert (np.abs(rows - exact) <= slack).all()
    widths = []
    for k, y in enumerate(values["y"]):
        for target in set(range(10)) - {int(y)}:
            low, high = medians(
                nuhat[k, target], slack_f[k, target], qhat[k, target], slack_g[k, target]
            )
            assert low * (1 - 1e-6) <= found.eta[k, target] <= high * (1 + 1e-6)
            widths.append((high - low) / values["eta_med"][k, target])
    assert np.median(widths) < 0.05, "the intervals say nothing"


def entries(rows):
    """The rows and how far float32 may be from them, `[n, classes, 1]`."""
    rows = rows.numpy()
    return rows, 1e-5 * np.abs(rows).mean(-1, keepdims=True)


def medians(nuhat, slack_f, qhat, slack_g):
    """The smallest and the largest lower median of the positive transitions."""
    size, rate = np.abs(nuhat), np.abs(qhat)
    possible = nuhat * qhat < 0
    possible |= (size <= slack_f) | (rate <= slack_g + oracles.NO_TRANSITION)
    certain = possible & (size > slack_f) & (rate > slack_g + oracles.NO_TRANSITION)
    low = (size - slack_f)[certain] / (rate + slack_g)[certain]
    high = (size + slack_f)[certain] / (rate - slack_g)[certain]
    doubtful = possible.sum() - certain.sum()
    low = np.sort(np.concatenate([low, np.zeros(doubtful)]))
    high = np.sort(np.concatenate([high, np.full(doubtful, np.inf)]))
    middle = (len(low) - 1) // 2
    return low[middle], high[middle]


# Slow: 1,017 CIFAR-10 images through every layer's rows.
@pytest.mark.slow
def test_cifar10_errors_on_the_lossless_images(shared, cifar10):
    """The authors' own code counts 501 LP errors and 349 clean errors on these images."""
    with np.load(shared / "data" / "cifar10_test_first1017_lossless.npz") as file:
        x, y = file["x"].astype(np.float32) / 255, file["y"]
    _, model, _, eps = cifar10
    found = certify(model, x, y, eps, box=None)
    assert (~found.certified).sum() == 501
    assert (found.predicted != y).sum() == 349
