"""The bounds of tiny networks against the matrix oracle: every layer, norm, box and way of rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import propagate
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.graph import build
from robustra_tf.graph.graph import Network
from tests import nets, oracle_intervals, oracle_nets, oracles
from tests.oracles import assert_close

COUNT = 3
EPS = {"linf": 0.06, "l2": 0.25, "l1": 0.6}
BALLS = [("linf", None), ("linf", (0.0, 1.0)), ("l2", None), ("l1", None)]
FLOAT64 = [(*ball, "float64") for ball in BALLS]
DIGITS = {"float64": 1e-11, "float32": 2e-5}


def grid():
    """ReLUs on the pixels themselves and on a tensor of two axes."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Rescaling(2.0, -1.0),
            layers.ReLU(),
            layers.Conv2D(2, 2, activation="relu"),
            layers.Reshape((6, 3)),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(nets.CLASSES),
        ]
    )
    return nets.randomise(model, 8)


def braid():
    """Skips from the image, of one tensor twice, and between windows of different sizes."""
    inputs = keras.Input((5, 5, 2))
    first = layers.Conv2D(2, 3, padding="same")(inputs)
    first = layers.ReLU()(layers.Add()([inputs, first]))
    second = layers.Conv2D(2, 3, padding="same", activation="relu")(first)
    second = layers.Conv2D(2, 2, padding="same")(second)
    joined = layers.ReLU()(layers.Add()([first, second, first]))
    hidden = layers.Dense(4, activation="relu")(layers.Flatten()(joined))
    return nets.randomise(keras.Model(inputs, layers.Dense(nets.CLASSES)(hidden)), 9)


MODELS = nets.ALL | {"grid": grid, "braid": braid}


class Case:
    """A tiny model with its graph, its matrices, images and labels."""

    def __init__(self, name):
        model, self.number = MODELS[name](), list(MODELS).index(name)
        self.graph, self.net = build(model), oracle_nets.of_model(model)
        self.structure = self.graph.structure
        self.x = nets.images(model, COUNT, seed=7)
        self.x[0] = np.round(self.x[0])  # pixels at the box's ends
        self.y = np.arange(COUNT, dtype=np.int32) % nets.CLASSES
        self.logits = model(self.x).numpy()

    def in_turn(self, choices, count):
        """So many of the choices, other ones for the next model: all have all of several models."""
        first = count * self.number
        return [choices[(first + k) % len(choices)] for k in range(count)]

    def ball(self, norm, box, dtype):
        eps = tf.constant(EPS[norm], dtype)
        return ball(tf.constant(self.x, dtype), eps, norm, box)

    def enclosures(self, norm, box):
        return [oracles.enclose(self.net, x, EPS[norm], norm, box) for x in self.x]

    def relu_bounds(self, found, example):
        """(lower, upper) of every ReLU of one example, flat."""
        return [[end[example].numpy().ravel() for end in found[k]] for k in self.structure.relus]


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    return Case(request.param)


def test_matrices_compute_the_model(case):
    """The oracle's premise: its matrices are the Keras model."""
    assert_close(case.net.logits(case.x.reshape(COUNT, -1)), case.logits, 1e-5)


@pytest.mark.parametrize(("norm", "box", "dtype"), [*FLOAT64, ("linf", None, "float32")])
def test_layers_and_margins_are_the_formula(case, norm, box, dtype):
    network = case.graph.network(tf.as_dtype(dtype))
    region, y = case.ball(norm, box, dtype), tf.constant(case.y)
    found = margins(network, region, y, BoundOptions("every"))
    for k, expected in enumerate(case.enclosures(norm, box)):
        bounds = case.relu_bounds(found.enclosure.bounds, k)
        for (lower, upper), low, up in zip(bounds, expected.lower, expected.upper, strict=True):
            assert_close(lower, low, DIGITS[dtype])
            assert_close(upper, up, DIGITS[dtype])
        rows = oracles.target_rows(case.y[k], nets.CLASSES)
        assert_close(found.upper[k], expected.upper_bound(rows), DIGITS[dtype])
        assert_close(found.rows[k], expected.backward(rows)[0], DIGITS[dtype])
        assert found.upper[k, case.y[k]] == 0


FEWER = [*((*ball, "needed") for ball in BALLS), ("linf", None, "auto")]


@pytest.mark.parametrize("turn", range(2))
def test_fewer_rows_leave_the_bounds_as_they_are(case, turn):
    """Rows are spared only where intervals prove the ReLU stable; margins stay WK's."""
    norm, box, rows = case.in_turn(FEWER, 2)[turn]
    network, region = case.graph.network(tf.float64), case.ball(norm, box, tf.float64)
    found = margins(network, region, tf.constant(case.y), BoundOptions(rows))
    for k, expected in enumerate(case.enclosures(norm, box)):
        bounds = case.relu_bounds(found.enclosure.bounds, k)
        for (lower, upper), low, up in zip(bounds, expected.lower, expected.upper, strict=True):
            unstable = (low < 0) & (up > 0)
            np.testing.assert_allclose(lower[unstable], low[unstable], rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(upper[unstable], up[unstable], rtol=1e-9, atol=1e-11)
            stable = ~unstable
            assert (lower[stable] <= low[stable] + 1e-11).all()
            assert (upper[stable] >= up[stable] - 1e-11).all()
            assert ((lower[stable] >= 0) | (upper[stable] <= 0)).all()
        c = oracles.target_rows(case.y[k], nets.CLASSES)
        assert_close(found.upper[k], expected.upper_bound(c), 1e-11)


def test_slices_of_rows_give_the_same_bounds(case):
    """A budget of a few kilobytes: one channel, or some neurons, at a time."""
    ((norm, rows),) = case.in_turn([("linf", "every"), ("l2", "every"), ("l2", "needed")], 1)
    network, region = case.graph.network(tf.float64), case.ball(norm, None, tf.float64)
    whole = enclose(network, region, BoundOptions(rows)).bounds
    sliced = enclose(network, region, BoundOptions(rows, budget=2.0**14)).bounds
    for k in case.structure.relus:
        for one, other in zip(whole[k], sliced[k], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def test_ways_and_slices_of_rows_give_the_same_gradient(case):
    region, y = case.ball("linf", None, tf.float64), tf.constant(case.y)
    weights = case.graph.weights(tf.float64)

    def gradient(rows, budget):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            network = Network(case.structure, weights)
            upper = margins(network, region, y, BoundOptions(rows, budget)).upper
            total = tf.reduce_sum(tf.square(upper))
        return tape.gradient(total, weights, unconnected_gradients="zero")

    whole = gradient("every", 2.0**28)
    ways = ("every", 2.0**14), ("needed", 2.0**28), ("auto", 2.0**15), ("auto", 2.0**28)
    for rows, budget in case.in_turn(ways, 2):
        for ours, expected in zip(gradient(rows, budget), whole, strict=True):
            assert_close(ours, expected, 1e-9)


@pytest.mark.parametrize(("norm", "box"), BALLS)
def test_intervals_are_the_formula(case, norm, box):
    network = case.graph.network(tf.float64)
    bounds, logits = propagate(network, case.ball(norm, box, tf.float64))
    for k, x in enumerate(case.x):
        expected = oracle_intervals.intervals(case.net, x, EPS[norm], norm, box)
        for index, (lower, upper) in bounds.items():
            low, up = expected[case.structure.nodes[index].inputs[0]]
            assert_close(lower[k], low, 1e-11)
            assert_close(upper[k], up, 1e-11)
        assert_close([logits[0][k], logits[1][k]], expected[-1], 1e-11)


def test_zero_radius_is_the_network_itself(case):
    """At eps = 0 every bound is the value, by every method."""
    x = tf.constant(case.x, tf.float64)
    region, network = ball(x, 0.0), case.graph.network(tf.float64)
    values = case.net.values(case.x.reshape(COUNT, -1))
    for bounds in (
        enclose(network, region, BoundOptions("every")).bounds,
        enclose(network, region, BoundOptions("needed")).bounds,
        propagate(network, region).bounds,
    ):
        for index, (lower, upper) in bounds.items():
            value = values[case.structure.nodes[index].inputs[0]]
            assert_close(lower, value, 1e-11)
            assert_close(upper, value, 1e-11)
    found = margins(network, region, tf.constant(case.y), BoundOptions("every")).upper
    own = np.take_along_axis(values[-1], case.y[:, None], 1)
    assert_close(found, values[-1] - own, 1e-11)


def test_box_tightens_the_ball(case):
    """The cut ball lies in the ball: no bound gets worse, those at black or white pixels better."""
    network, y, every = case.graph.network(tf.float64), tf.constant(case.y), BoundOptions("every")
    free, cut = (
        margins(network, case.ball("linf", box, tf.float64), y, every).enclosure.bounds
        for box in (None, (0.0, 1.0))
    )
    first = case.structure.relus[0]
    gain = (cut[first][0] - free[first][0]).numpy(), (free[first][1] - cut[first][1]).numpy()
    assert min(map(np.min, gain)) >= -1e-12
    assert max(map(np.max, gain)) > 1e-3


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_leave_the_box_out(norm):
    """The ball alone contains the cut ball."""
    x = tf.constant([[0.1, 0.9]])
    free, cut = ball(x, 0.5, norm), ball(x, 0.5, norm, (0.0, 1.0))
    np.testing.assert_array_equal(cut.centre, free.centre)
    np.testing.assert_array_equal(cut.radius, free.radius)


def test_balls_refuse_what_is_none():
    x = tf.constant([[0.1, 0.9]])
    with pytest.raises(ValueError, match="norm must be one of linf, l2, l1, got 'l0'"):
        ball(x, 0.5, "l0")
    with pytest.raises(ValueError, match="box must be"):
        ball(x, 0.5, "linf", (1.0, 0.0))
