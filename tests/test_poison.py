"""Bounds that are no numbers certify nothing, whatever computes them from then on.

Weights near the largest float32 overflow: `inf - inf` before a ReLU compares as neither dead nor
active, and `u / (u - l)` is 0 where `u - l` is infinite. Every network here has a point in the ball
that is classified otherwise (`wrong`), or logits that are no numbers themselves.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.crown import crown_margins, optimised_margins
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import intersection, interval_margins, lesser
from robustra_tf.bounds.lines import adaptive
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.relu import relax
from robustra_tf.bounds.slopes import Descent
from robustra_tf.bounds.sound import outward_ball, sound_interval_margins, sound_margins
from robustra_tf.counting import certified
from robustra_tf.exact.tighten import Enclosed
from robustra_tf.exact.verdict import Status
from robustra_tf.graph import build
from robustra_tf.graph.graph import Network
from robustra_tf.objective.losses import robust_error
from robustra_tf.objective.robustra import ball_margins, objective
from tests import nets

NAN, INF, HUGE = np.nan, np.inf, 3e38
BOX = (0.0, 1.0)
BALLS = [("linf", None), ("l2", None), ("l1", BOX)]
X = np.full((1, 2), 0.5, "float32")


def dense(*weights):
    """Dense layers with these kernels and biases, ReLUs between."""
    model = keras.Sequential([keras.Input((len(weights[0][0]),))])
    for k, (kernel, bias) in enumerate(weights):
        last = k == len(weights) - 1
        model.add(layers.Dense(len(bias), activation=None if last else "relu"))
        model.layers[-1].set_weights([np.array(kernel), np.array(bias)])
    return model


def difference_of_infinities():
    """The second hidden unit is inf - inf; read as dead, the margin is 1."""
    first = [[HUGE, HUGE], [HUGE, HUGE]], [0.0, 0.0]
    second = [[HUGE], [-HUGE]], [0.0]
    return dense(first, second, ([[0.0, 1.0]], [1.0, 0.0]))


def width_overflows():
    """Bounds of +-3e38: finite, but not their distance. Read with slope 0, the margin is 1."""
    return dense(([[HUGE], [-HUGE]], [0.0]), ([[0.0, 1.0]], [1.0, 0.0]))


def one_end_overflows():
    """From -1 to infinity."""
    first = [[HUGE], [HUGE]], [-HUGE]
    return dense(first, ([[HUGE]], [-1.0]), ([[0.0, 1.0]], [1.0, 0.0]))


def convolved():
    """The same within a convolution, where most windows know nothing of the pixel."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(2, 2, activation="relu"),
            layers.Conv2D(2, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    nets.randomise(model, 3)
    kernel = np.zeros((2, 2, 1, 2))
    kernel[0, 0, 0], kernel[1, 1, 0] = HUGE, -HUGE
    model.layers[0].set_weights([kernel, np.zeros(2)])
    reads = np.tile([0.0, 1.0], (32, 1))
    model.layers[-1].set_weights([reads, np.array([1.0, 0.0])])
    return model


def skipped():
    """A residual sum of +inf and -inf."""
    inputs = keras.Input((2,))
    plus, minus, last = layers.Dense(1), layers.Dense(1), layers.Dense(2)
    first = layers.Dense(1, activation="relu")
    hidden = first(inputs)
    total = layers.ReLU()(layers.Add()([plus(hidden), minus(hidden)]))
    model = keras.Model(inputs, last(total))
    for layer, kernel, bias in (
        (first, [[HUGE], [HUGE]], [0.0]),
        (plus, [[HUGE]], [0.0]),
        (minus, [[-HUGE]], [0.0]),
        (last, [[0.0, 1.0]], [1.0, 0.0]),
    ):
        layer.set_weights([np.array(kernel), np.array(bias)])
    return model


NETWORKS = {
    "inf - inf": difference_of_infinities,
    "width": width_overflows,
    "one end": one_end_overflows,
    "convolved": convolved,
    "skipped": skipped,
}


def uppers(network, region, y):
    """Every method's upper bounds of the margins, [n, classes], by name."""
    graph = (network, region)
    found = {
        f"{inner}, {rows}": margins(*graph, y, BoundOptions(rows, inner=inner)).upper
        for inner, rows in (
            ("dual", "every"),
            ("dual", "needed"),
            ("mixed", "auto"),
            ("interval", "every"),
        )
    }
    found["intervals"] = interval_margins(*graph, y).upper
    for inner in ("dual", "interval", "mixed"):
        bounds = enclose(*graph, BoundOptions(inner=inner)).bounds
        found[f"crown on {inner}"] = crown_margins(*graph, y, bounds, adaptive(bounds))
    found["alpha"] = optimised_margins(*graph, y, bounds, Descent(1))
    return found


@pytest.mark.parametrize(
    ("name", "norm", "box"),
    [*((name, "linf", BOX) for name in NETWORKS), *(("inf - inf", *region) for region in BALLS)],
)
def test_no_method_certifies_by_bounds_that_are_no_numbers(name, norm, box):
    model = NETWORKS[name]()
    graph, y = build(model), np.array([0])
    x = np.full((1, *model.input_shape[1:]), 0.5, "float32")
    eps = 0.5 * {"linf": 1.0, "l2": np.sqrt(2), "l1": 2.0}[norm]
    region = ball(tf.constant(x), tf.constant(eps), norm, box)
    found = uppers(graph.network(), region, tf.constant(y))
    for method, upper in found.items():
        assert not certified(-upper.numpy(), y).any(), (method, upper)
        assert robust_error(upper, y).numpy().all(), method
    # With rounding counted, in float64, overflow in the model's own float32 is what must not pass.
    outward = outward_ball(tf.constant(x, tf.float64), tf.constant(eps), norm, box)
    network = Network(graph.structure, graph.weights(tf.float64))
    sides = network, outward, tf.constant(y)
    for proof in (sound_margins(*sides), sound_interval_margins(*sides)):
        assert not certified(proof.lower.numpy(), y).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_neither_does_the_objective_nor_a_certificate(name):
    model = NETWORKS[name]()
    x = np.full((1, *model.input_shape[1:]), 0.5, "float32")
    graph, y, radius = build(model), tf.constant([0]), tf.constant(0.5)
    sides = [ball_margins(graph.network(), tf.constant(x), y, radius, BoundOptions())] * 2
    for other in (None, sides[1]):
        found = objective(sides[0], other, radius)
        assert robust_error(found.h, y).numpy().all()
        assert robust_error(found.wk, y).numpy().all()
    verdict = rt.Verifier(model, 0.5, box=BOX, time_limit=2).verify(x[0], 0)
    assert verdict.status is not Status.VERIFIED


@pytest.mark.parametrize("method", ["crown", "alpha"])
def test_certify_says_that_it_proved_nothing(method):
    found = rt.certify(difference_of_infinities(), X, [0], 0.1, method=method)
    assert not found.certified.any()
    assert found.worst_margin == -INF
    assert "0 of 1 certified" in found.summary()


def test_the_verifier_leaves_open_what_the_model_cannot_compute():
    """In real numbers the margin is 1 everywhere; in float32 the logits are NaN."""
    model = difference_of_infinities()
    assert np.isnan(model(X).numpy()).any()
    verdict = rt.Verifier(model, 0.01, box=None).verify(X[0], 0)
    assert verdict.status is Status.UNKNOWN
    assert verdict.reason == "logits that are not finite numbers"


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["lower", "upper", "margin"])
def test_the_verifier_leaves_open_what_has_no_bounds(where, bad, monkeypatch):
    """As a chain of some ten such layers would have it in float64."""
    model = dense(([[1.0], [-1.0]], [0.0]), ([[0.0, 2.0]], [1.0, 0.0]))

    def enclosed(structure, *rest):
        (relu,) = structure.relus
        ends = {"lower": -1.0, "upper": 1.0, "margin": -1.0} | {where: bad}
        bounds = {relu: (np.array([ends["lower"]]), np.array([ends["upper"]]))}
        return Enclosed(bounds, np.array([0.0, ends["margin"]]))

    monkeypatch.setattr("robustra_tf.exact.decision.enclosed", enclosed)
    verdict = rt.Verifier(model, 0.2, box=BOX, time_limit=2).verify(X[0], 0)
    if where == "margin":
        # The search has bounds of its own: the logits are 1 and at most 0.8.
        assert verdict.status is Status.VERIFIED
        assert 0 < verdict.margin_lower <= 0.2 + 1e-6
    else:
        assert verdict.status is Status.UNKNOWN
        assert verdict.reason == "bounds of pre-activations that are not finite numbers"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("lower", "upper", "slope"),
    [
        (NAN, NAN, NAN),
        (NAN, 1.0, NAN),
        (-1.0, NAN, NAN),
        (-INF, INF, NAN),
        (-INF, -1.0, NAN),
        (1.0, INF, NAN),
        (-INF, -INF, NAN),
        (INF, INF, NAN),
        (-1.0, 1.0, 0.5),
        (-HUGE, -1.0, 0.0),
        (1.0, HUGE, 1.0),
    ],
)
def test_a_relaxation_keeps_what_is_no_number(lower, upper, slope, dtype):
    found = relax(tf.constant([[lower]], dtype), tf.constant([[upper]], dtype))
    np.testing.assert_array_equal(found.slope, [[slope]])
    assert np.isnan(found.error).all() == np.isnan(slope)
    assert np.isnan(found.forward(tf.constant([[0.5]], dtype))).all() == np.isnan(slope)


def test_a_width_beyond_the_type_is_no_number():
    ends = tf.constant([[-HUGE]]), tf.constant([[HUGE]])
    assert np.isnan(relax(*ends).slope).all()
    assert np.isfinite(relax(*(tf.cast(end, tf.float64) for end in ends)).slope).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_ends_keep_what_is_no_number(compiled):
    """In either place, by every compiler; and ReLUs keep it too."""
    first, second = np.array([[NAN, 1, NAN, 2, -1], [1, NAN, NAN, 1, 3]], "float32")
    expected = [NAN, NAN, NAN, 1, -1]

    def run(first, second):
        return lesser(first, second), *intersection((-first, first), (-second, second))

    function = tf.function(run, jit_compile=True) if compiled else run
    least, low, high = function(tf.constant(first), tf.constant(second))
    np.testing.assert_array_equal(least, expected)
    np.testing.assert_array_equal(high, expected)
    np.testing.assert_array_equal(low, np.negative(expected))
    relu = tf.function(tf.nn.relu, jit_compile=True) if compiled else tf.nn.relu
    for count in (1, 7, 64):
        assert np.isnan(relu(tf.fill([count], NAN))).all()
