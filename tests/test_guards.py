"""Where formulas divide by nothing: values are defined and gradients finite, each case by itself.

Cases are networks and batches in which a width, a row, a layer or a radius is zero. Values are
compared with what they must be: a network that is affine on the ball has exact bounds, one point
has the network's own logits.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds.balls import Ball, ball
from robustra_tf.bounds.crown import crown_margins, optimised_margins
from robustra_tf.bounds.dual import dual_norm
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.lines import adaptive, lines
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.relu import relax
from robustra_tf.bounds.slopes import Descent
from robustra_tf.graph import Network, build
from robustra_tf.objective.batch import LossOptions
from robustra_tf.objective.interval_losses import regulariser, spread
from robustra_tf.objective.layer import DualObjective
from robustra_tf.objective.robustra import ball_margins, objective
from robustra_tf.training.methods import METHODS
from robustra_tf.training.microbatches import gradients
from robustra_tf.training.options import StepOptions
from robustra_tf.training.problem import Problem
from robustra_tf.training.step import TrainStep
from tests import nets, oracle_nets, oracles

EPS = 0.1
Y = np.array([0, 2, 1])
OFTEN = 30.0  # a bias that no input of the ball outweighs


def network(first=0.0, second=0.0, scale=1.0, seed=3):
    """Two hidden layers whose biases are moved by `first` and `second`; the first one scaled."""
    model = nets.dense(seed)
    hidden, further, _ = (layer for layer in model.layers if layer.weights)
    hidden.kernel.assign(scale * hidden.kernel)
    hidden.bias.assign(scale * hidden.bias + first)
    further.bias.assign(further.bias + second)
    return model


def touching(sign):
    """One unit's lower (sign 1) or upper (-1) bound on the ball about a constant image is zero."""
    model = network()
    kernel, bias = model.layers[0].kernel.numpy(), model.layers[0].bias.numpy()
    kernel[:, 0] = 0.25
    bias[0] = -0.25 * 5 * (0.5 - sign * EPS)
    model.layers[0].set_weights([kernel, bias])
    return model


def last_is_zero():
    """A network whose logits do not depend on the image."""
    model = network()
    model.layers[-1].kernel.assign(tf.zeros_like(model.layers[-1].kernel))
    return model


def linear():
    """No ReLU at all."""
    return nets.randomise(keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]), 4)


NETWORKS = {
    "ordinary": network,
    "all active": lambda: network(OFTEN, OFTEN),
    "all dead": lambda: network(-OFTEN, -OFTEN),
    "first dead": lambda: network(-OFTEN),
    "last dead": lambda: network(second=-OFTEN),
    "zero width": lambda: network(scale=0.0),
    "hardly any width": lambda: network(scale=1e-36),
    "lower bound zero": lambda: touching(1),
    "upper bound zero": lambda: touching(-1),
    "logits constant": last_is_zero,
    "no ReLU": linear,
}
AFFINE = ("all active", "all dead", "first dead", "last dead", "zero width", "no ReLU")
BATCHES = {
    "images": lambda: nets.images(network(), 3, seed=5),
    "constant images": lambda: np.full((3, 5), [[0.0], [0.5], [1.0]], np.float32),
    "one image": lambda: np.full((1, 5), 0.5, np.float32),
}
ONE_IMAGE = [("ordinary", "one image"), ("all dead", "one image")]
BALLS = [
    ("linf", None, EPS),
    ("linf", (0.0, 1.0), EPS),
    ("l2", None, EPS),
    ("l1", None, EPS),
    ("linf", (0.0, 1.0), 0.0),
    ("l2", None, 0.0),
]


def uppers(structure, weights, region, y):
    """Every method's upper bounds of the margins, [n, classes], by name."""
    graph = Network(structure, weights), region
    mixed = margins(*graph, y, BoundOptions("every", inner="mixed"))
    inner = mixed.enclosure.bounds
    return {
        "dual": margins(*graph, y, BoundOptions("every")).upper,
        "dual, needed rows": margins(*graph, y, BoundOptions("needed")).upper,
        "mixed": mixed.upper,
        "inner intervals": margins(*graph, y, BoundOptions(inner="interval")).upper,
        "intervals": interval_margins(*graph, y).upper,
        "crown": crown_margins(*graph, y, inner, adaptive(inner)),
        "alpha": optimised_margins(*graph, y, inner, Descent(2)),
    }


@functools.cache
def compiled(structure, norm):
    """(weights, centre, radius, y) -> `uppers` and the gradient of their sum, traced once."""

    @tf.function(autograph=False)
    def run(weights, centre, radius, y):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            found = uppers(structure, weights, Ball(centre, radius, norm), y)
        # Of their sum: what is not finite in one of them is not finite in it.
        return found, tape.gradient([*found.values()], weights, unconnected_gradients="zero")

    return run


def finite(values):
    return all(np.isfinite(np.asarray(value)).all() for value in tf.nest.flatten(values))


@pytest.mark.parametrize(
    ("name", "batch"),
    [*((name, "constant images") for name in NETWORKS), ("ordinary", "images"), *ONE_IMAGE],
)
def test_bounds_are_defined_and_have_finite_gradients(name, batch):
    graph, x = build(NETWORKS[name]()), BATCHES[batch]()
    y = Y if batch == "images" else np.full(len(x), 1)  # or of a single class
    exact = oracle_nets.of_graph(graph.structure, graph.weights())
    logits = exact.logits(x)
    clean = logits - logits[np.arange(len(x)), y][:, None]
    # One image, which is traced anew, in the one norm whose radius has the batch's shape too.
    for norm, box, eps in BALLS if len(x) > 1 else [one for one in BALLS if one[0] == "linf"]:
        region = ball(tf.constant(x), tf.constant(eps), norm, box)
        # Half widths written out: with a box and without one it is the same function.
        radius = region.half_widths if norm == "linf" else region.radius
        values = (graph.weights(), region.centre, radius, tf.constant(y))
        found, gradient = compiled(graph.structure, norm)(*values)
        assert finite(gradient)
        bounds = [-oracles.margins(exact, x[k], y[k], eps, norm, box) for k in range(len(x))]
        expected = np.stack(bounds)
        atol = 1e-5 * (1 + np.abs(logits).max() + np.abs(expected).max())
        for method, upper in found.items():
            assert finite(upper), method
            assert (upper >= clean - atol).numpy().all(), method
            if eps == 0:
                np.testing.assert_allclose(upper, clean, atol=atol, err_msg=method)
            elif method.startswith("dual") or (name in AFFINE and "intervals" not in method):
                np.testing.assert_allclose(upper, expected, atol=atol, err_msg=method)


@pytest.mark.parametrize("width", [0.0, 1e-45, 1e-40, 1e-38, 1e-36, 1e-30, 1e-3])
def test_a_relaxation_of_any_width_is_defined(width):
    """Also of widths that float32 can hardly hold, whose reciprocals it cannot."""
    ends = np.array([[-width, width], [0.0, width], [-width, 0.0], [-width, 1.0]], np.float32)
    lower, upper = tf.constant(ends[:, 0]), tf.constant(ends[:, 1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([lower, upper])
        line, crown = relax(lower, upper), lines(lower, upper)
        parts = [*line, crown.upper, crown.intercept]
    for part in parts:
        assert finite(part)
        assert finite(tape.gradient(part, [lower, upper], unconnected_gradients="zero"))
    assert ((line.slope >= 0) & (line.slope <= 1)).numpy().all()
    assert (line.error >= 0).numpy().all()
    # No value of the ReLU leaves the parallelogram.
    z = ends[:, :1] + np.linspace(0, 1, 9, dtype=np.float32) * (ends[:, 1:] - ends[:, :1])
    centre = line.slope.numpy()[:, None] * z + line.error.numpy()[:, None]
    assert (np.abs(np.maximum(z, 0) - centre) <= line.error.numpy()[:, None] + 1e-7).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-25, 1.0, 1e25])
def test_norms_of_rows_of_any_size_keep_their_digits(norm, dtype, scale):
    """Squares of 1e-25 vanish in float32: the norm must not."""
    rows = np.array([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    expected = np.linalg.norm(rows, {"linf": 1, "l2": 2, "l1": np.inf}[norm], axis=1) * scale
    row = tf.constant(rows * scale, dtype)
    with tf.GradientTape() as tape:
        tape.watch(row)
        found = dual_norm(row, norm)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    slope = tape.gradient(found, row).numpy()
    assert np.isfinite(slope).all()
    if norm == "l2" and scale:
        np.testing.assert_allclose(slope[0], [0.6, -0.8, 0.0], rtol=1e-6)
        np.testing.assert_array_equal(slope[1], 0.0)


PAIRS = [(name, reference) for name in NETWORKS for reference in ("ordinary", "all dead")]
PAIRS += [("ordinary", name) for name in NETWORKS if name not in ("ordinary", "all dead")]


@pytest.mark.parametrize(
    ("name", "reference", "eps"),
    [(*pair, EPS) for pair in PAIRS] + [(*PAIRS[0], 0.0), (*PAIRS[1], 0.0)],
)
def test_the_objective_is_defined_for_any_pair(name, reference, eps):
    """Of a reference without rows (`qhat = 0`) nothing is learnt: the bound is WK's."""
    f, g = build(NETWORKS[name]()), build(NETWORKS[reference]())
    x, y, radius = BATCHES["images"](), tf.constant(Y), tf.constant(eps)
    other = ball_margins(g.network(), tf.constant(x), y, radius)
    with tf.GradientTape() as tape:
        weights = f.weights()
        tape.watch(weights)
        own = ball_margins(Network(f.structure, weights), tf.constant(x), y, radius)
        found = objective(own, other, radius)
    assert finite([found.h, found.wk, found.eta, found.t0, *found.tightness])
    assert finite(tape.gradient(found.h, weights, unconnected_gradients="zero"))
    assert (found.eta >= 0).numpy().all()
    assert (found.h <= found.wk + 1e-4 * (1 + tf.abs(found.wk))).numpy().all()
    np.testing.assert_array_equal(found.h.numpy()[np.arange(3), Y], 0.0)
    if not other.rows.numpy().any():
        np.testing.assert_array_equal(found.eta, 0.0)
        np.testing.assert_array_equal(found.positive, 0)
        np.testing.assert_allclose(found.h, found.wk, rtol=1e-5, atol=1e-5)
    if eps == 0:
        logits = f(x).numpy()
        np.testing.assert_allclose(
            found.h,
            logits - logits[np.arange(3), Y][:, None],
            atol=1e-4 * (1 + np.abs(logits).max()),
        )


def test_references_without_rows_are_among_the_pairs():
    rows = {}
    for name in NETWORKS:
        g = build(NETWORKS[name]())
        x, y = tf.constant(BATCHES["images"]()), tf.constant(Y)
        found = ball_margins(g.network(), x, y, tf.constant(EPS))
        rows[name] = bool(found.rows.numpy().any())
    assert [name for name, some in rows.items() if not some] == [
        "all dead",
        "first dead",
        "last dead",
        "zero width",
        "logits constant",
    ]


def test_the_layer_of_the_objective_is_defined_where_the_reference_has_no_rows():
    layer = DualObjective(network(), last_is_zero(), eps=EPS)
    found = layer.diagnostics(BATCHES["constant images"](), np.full(3, 2))
    assert finite(found)
    for name in ("h", "literal"):
        np.testing.assert_allclose(found[name], found["wk"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_loss_has_finite_values_and_gradients(name, method):
    graph, other = build(NETWORKS[name]()), build(last_is_zero())
    reference = other.network() if method == "robustra" else None
    shares = {"clean_share": 0.5, "interval_share": 0.25, "attack_share": 0.25}
    losses = LossOptions(attack_steps=1, regulariser=0.5, eps_end=EPS, **shares)
    opposite = reference and reference.structure
    problem = Problem(graph.structure, opposite, METHODS[method], losses=losses)
    x, y = tf.constant(BATCHES["constant images"]()), tf.constant([1, 1, 1])
    for eps in (0.0, EPS) if name in ("ordinary", "all dead") else (EPS,):
        found, measured = gradients(
            problem, graph.network(), reference, problem.batch(x, y, tf.constant(eps)), 3
        )
        assert finite(found)
        assert set(measured) == set(problem.measurements)
        assert finite(measured)


def test_a_network_without_relus_has_nothing_to_regularise():
    graph = build(linear())
    region = ball(tf.constant(BATCHES["images"]()), tf.constant(EPS))
    bounds = enclose(graph.network(), region).bounds
    mean = tf.reduce_mean(spread(region, bounds), 0)
    assert regulariser(mean).numpy() == 0.0


@pytest.mark.parametrize("method", ["robustra", "ibp", "crown_ibp"])
def test_a_step_from_anywhere_leaves_finite_weights(method):
    """One step of Adam from each network of the list, in one trace."""
    model, reference = network(), last_is_zero() if method == "robustra" else None
    options = StepOptions.of(regulariser=0.5)
    step = TrainStep(model, reference, keras.optimizers.Adam(1e-3), method, options=options)
    for name, make in NETWORKS.items():
        if name == "no ReLU":
            continue
        model.set_weights(make().get_weights())
        for eps in (0.0, EPS):
            metrics = step(BATCHES["constant images"](), np.ones(3, int), tf.constant(eps))
            assert finite(metrics), name
            assert finite(model.get_weights()), name
    assert step.traces == 1
