"""Bounds of the published networks against the values of the authors' implementation.

float64 agrees within 1e-6 and float32 within 1e-3, both relative to the mean size of the compared
values (a bound near zero has no digits of its own).
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf import models, published
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.certificates.certify import certify
from robustra_tf.graph import Network as Values
from robustra_tf.graph import build
from robustra_tf.objective.robustra import ball_margins, literal, objective
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
    f = published.load_mat(models.build("mnist_small"), shared / oracle_nets.MNIST_WEIGHTS)
    return values, f, published.load_arrays(models.build("mnist_small"), values, prefix="g/")


@pytest.fixture(scope="module")
def cifar10(shared):
    """The values, the network behind its normalisation, the images in pixels, and their radius."""
    values = values_of(shared, "cifar10_small_eps0.0347_normalised.npz")
    model = models.build("cifar10_small")
    published.load_mat(model, shared / oracle_nets.CIFAR10_WEIGHTS, normalised=True)
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


class Network:
    """A model's graph with weights and images in one dtype."""

    def __init__(self, model, x, y, dtype):
        graph = build(model)
        self.structure, self.digits = graph.structure, DIGITS[dtype]
        self.weights, self.x = graph.weights(tf.as_dtype(dtype)), tf.constant(x, dtype)
        self.y = tf.constant(y, tf.int32)

    def assert_logits(self, expected):
        assert_close(self.structure.forward(self.weights, self.x), expected, self.digits)

    def assert_margins(self, expected, eps, norm="linf", box=None, rows="needed"):
        """Compare WK's margins; returns the enclosure beneath."""
        region = ball(self.x, tf.constant(eps, self.x.dtype), norm, box)
        found = margins(Values(self.structure, self.weights), region, self.y, BoundOptions(rows))
        assert_close(-found.upper, expected, self.digits)
        return found.enclosure

    def assert_layers(self, enclosure, values):
        for k, node in enumerate(self.structure.relus):
            lower, upper = enclosure.bounds[node]
            assert_close(lower, values[f"lower_{k}"], self.digits)
            assert_close(upper, values[f"upper_{k}"], self.digits)
        assert f"lower_{len(self.structure.relus)}" not in values


def assert_plain(network, values, eps):
    """Every layer's bounds and the margins of the plain l_inf ball, with every row and with few."""
    network.assert_layers(network.assert_margins(values["margin_lb"], eps, rows="every"), values)
    network.assert_margins(values["margin_lb"], eps)


@dtypes
def test_mnist(mnist, dtype):
    values, f, g = mnist
    network = Network(f, values["x"], values["y"], dtype)
    network.assert_logits(values["logits_f"])
    assert_plain(network, values, values["eps"])
    network.assert_margins(values["margin_lb_box01"], values["eps"], box=(0.0, 1.0))
    network.assert_margins(values["margin_lb_l2"], values["eps_l2"], "l2")
    reference = Network(g, values["x"], values["y"], dtype)
    reference.assert_logits(values["logits_g"])
    reference.assert_margins(values["margin_lb_g"], values["eps"])


@dtypes
def test_residual(residual, dtype):
    values, model = residual
    network = Network(model, values["x"], values["y"], dtype)
    network.assert_logits(values["logits"])
    assert_plain(network, values, values["eps"])


@dtypes
def test_cifar10_in_pixels(cifar10, dtype):
    """The file's images and radii are normalised; the graph takes pixels."""
    values, model, pixels, eps = cifar10
    network = Network(model, pixels, values["y"], dtype)
    network.assert_logits(values["logits_f"])
    assert_plain(network, values, eps)
    radius = values["eps_l2"] * oracle_nets.CIFAR10_STD
    network.assert_margins(values["margin_lb_l2"], radius, "l2")


@pytest.fixture(scope="module")
def pair(mnist):
    """dtype -> both duals, the objective and the literal Equation 8 of the published pair."""

    def evaluate(dtype):
        values, *both = mnist
        eps = tf.constant(values["eps"], dtype)
        networks = [Network(model, values["x"], values["y"], dtype) for model in both]
        f, g = (
            ball_margins(Values(net.structure, net.weights), net.x, net.y, eps) for net in networks
        )
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
    """A coordinate that rounding carries over zero may shift the median by a transition.

    So `eta` is held to what the rows' rounding allows: both are within 1e-3 of the float64 rows,
    and with every entry somewhere between its two values, `eta_med` lies between the medians of
    the smallest and of the largest transitions. A coordinate whose sign is then in doubt counts as
    any transition or none; all others count as what they are.
    """
    values = mnist[0]
    (f, g, found, _), (f64, g64, *_) = pair["float32"], pair["float64"]
    nuhat, qhat = f64.rows.numpy(), g64.rows.numpy()
    assert_close(f.rows, nuhat, DIGITS["float32"])
    assert_close(g.rows, qhat, DIGITS["float32"])
    slack_f, slack_g = np.abs(f.rows - nuhat), np.abs(g.rows - qhat)
    widths = []
    for k, y in enumerate(values["y"]):
        for target in set(range(10)) - {int(y)}:
            at = (k, target)
            low, high = medians(nuhat[at], slack_f[at], qhat[at], slack_g[at])
            assert low * (1 - 1e-6) <= found.eta[at] <= high * (1 + 1e-6)
            widths.append((high - low) / values["eta_med"][at])
    assert np.median(widths) < 1e-3, "the intervals say nothing"


def medians(nuhat, slack_f, qhat, slack_g):
    """The smallest and the largest lower median of the positive transitions."""
    size, rate = np.abs(nuhat), np.abs(qhat)
    moving = size > slack_f
    moving &= rate > slack_g + oracles.NO_TRANSITION
    certain = moving & (nuhat * qhat < 0)
    impossible = (moving & (nuhat * qhat > 0)) | (rate + slack_g <= oracles.NO_TRANSITION)
    low = (size - slack_f)[certain] / (rate + slack_g)[certain]
    high = (size + slack_f)[certain] / (rate - slack_g)[certain]
    doubtful = (~certain & ~impossible).sum()
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
