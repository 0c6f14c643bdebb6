"""Robustra's objective for the l2 and l1 balls: the rule for eta, the fast form against Eqn 8."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds.options import BoundOptions
from robustra_tf.graph import Network, build
from robustra_tf.objective.breakpoints import choose, combined_norm, tightness
from robustra_tf.objective.layer import DualObjective
from robustra_tf.objective.losses import robust_cross_entropy
from robustra_tf.objective.robustra import ball_margins, literal, objective
from robustra_tf.training.options import StepOptions
from robustra_tf.training.step import TrainStep
from tests import nets, oracle_nets, oracles
from tests.oracles import assert_close

COUNT = 3
Y = np.array([0, 1, 2], np.int32)
ORDERS = {"linf": 1, "l2": 2, "l1": np.inf}
RADII = {"linf": 0.08, "l2": 0.3, "l1": 0.5}
norms = pytest.mark.parametrize("norm", ["l2", "l1"])
every_norm = pytest.mark.parametrize("norm", ORDERS)


# The slack variable


def cases(rng):
    """Rows of f and g [cases, n]: generic ones, and those without width, slope or a transition."""
    nuhat, qhat = rng.normal(size=(2, 12, 7))
    nuhat, qhat = nuhat * rng.uniform(0.01, 100, (12, 1)), qhat * rng.uniform(0.01, 100, (12, 1))
    qhat[0] = 0.0
    nuhat[1] = 0.0
    nuhat[2], qhat[2] = 0.0, 0.0
    nuhat[3] = -2.5 * qhat[3]  # they cancel
    nuhat[4] = 2.5 * qhat[4]  # one direction
    nuhat[5] = 0.0
    nuhat[5, 2] = 1.0  # one pixel
    qhat[6] = np.eye(7)[3]
    return nuhat, qhat


def slope(nuhat, qhat, norm, eta, side_of, gap=1e-6):
    """`gamma` just left or right of `eta`, by a difference of norms."""
    ends = np.array([eta, eta + side_of * gap * (1 + eta)])
    sizes = [np.linalg.norm(nuhat + e * qhat, ORDERS[norm]) for e in ends]
    return (sizes[1] - sizes[0]) / (ends[1] - ends[0])


@norms
def test_eta_is_the_first_to_reach_the_middle_of_the_range(rng, norm):
    """`gamma(eta-) < middle <= gamma(eta+)`, and `gamma` is constant where eta is 0."""
    nuhat, qhat = cases(rng)
    found = choose(tf.constant(nuhat), tf.constant(qhat), norm)
    reached = 0
    for a, b, eta, worst, positive in zip(nuhat, qhat, *map(np.array, found), strict=True):
        start, end = slope(a, b, norm, 0.0, 1), np.linalg.norm(b, ORDERS[norm])
        middle, tolerance = 0.5 * (start + end), 1e-4 * (np.abs(a).max() + np.abs(b).max())
        assert eta >= 0
        assert positive == (eta > 0)
        assert slope(a, b, norm, eta, 1) >= middle - tolerance
        if eta > 0:
            assert slope(a, b, norm, eta, -1) <= middle + tolerance
            # Clearly before it, the slope is clearly lower.
            assert slope(a, b, norm, 0.9 * eta, -1) < middle
            reached += 1
        else:
            assert start >= end - tolerance
        # The subgradient: in the unit ball, and worst for the combination.
        dual = {"l2": 2, "l1": 1}[norm]
        assert np.linalg.norm(worst, dual) <= 1 + 1e-12
        row = a + eta * b
        np.testing.assert_allclose(
            worst @ row, np.linalg.norm(row, ORDERS[norm]), rtol=1e-9, atol=1e-12
        )
        low, high = slope(a, b, norm, eta, -1), slope(a, b, norm, eta, 1)
        if eta > 0:
            assert worst @ b == pytest.approx(0.5 * (low + high), abs=2 * tolerance)
    assert reached >= 7


def test_eta_of_l1_is_the_brute_force_transition(rng):
    """All crossings of all pairs of lines, in turn, against the envelope's walk."""
    for _ in range(40):
        a, b = rng.normal(size=(2, 6))
        lines = [(s * p, s * q) for p, q in zip(a, b, strict=True) for s in (1.0, -1.0)]
        end = np.abs(b).max()
        first = max(lines, key=lambda line: (line[0], line[1]))[1]
        middle, best = 0.5 * (first + end), 0.0
        for (p, m), (q, n) in itertools.permutations(lines, 2):
            if m < middle <= n and n > m:
                eta = (p - q) / (n - m)
                top = max(r + eta * o for r, o in lines)
                if eta > 0 and np.isclose(p + eta * m, top, rtol=1e-12):
                    best = eta
        found = choose(tf.constant(a[None]), tf.constant(b[None]), "l1")
        assert float(found.eta[0]) == pytest.approx(best, rel=1e-9, abs=1e-12)


@norms
def test_the_rule_holds_for_many_pixels_in_float32(rng, norm):
    nuhat, qhat = rng.normal(size=(2, 4, 10, 784)).astype(np.float32)
    found = choose(tf.constant(nuhat), tf.constant(qhat), norm)
    exact = choose(*(tf.constant(part, tf.float64) for part in (nuhat, qhat)), norm)
    np.testing.assert_allclose(found.eta, exact.eta, rtol=1e-3)
    np.testing.assert_allclose(found.worst, exact.worst, atol=1e-3)


@norms
def test_tightness_is_the_slope_at_both_ends(rng, norm):
    nuhat, qhat = cases(rng)
    offset, eps = rng.normal(size=len(nuhat)), 0.3
    args = (tf.constant(nuhat), tf.constant(qhat), eps, tf.constant(offset))
    found = tightness(*args, norm)
    for k, (a, b) in enumerate(zip(nuhat, qhat, strict=True)):
        scale = 1 + np.abs(b).max()
        left, right = slope(a, b, norm, 0.0, 1, 1e-8), slope(a, b, norm, 1e7, 1, 1e-2)
        assert float(found.left[k]) == pytest.approx(eps * left + offset[k], abs=1e-4 * scale)
        assert float(found.right[k]) == pytest.approx(eps * right + offset[k], abs=1e-4 * scale)


@every_norm
def test_norm_of_the_combination_is_numpys(rng, norm):
    nuhat, shift = cases(rng)
    found = combined_norm(tf.constant(nuhat), tf.constant(shift), norm)
    expected = np.linalg.norm(nuhat + shift, ORDERS[norm], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


# The objective


PAIRS = {"dense": (0, 10), "residual": (3, 13), "normalised": (6, 16)}


class Pair:
    """Two models of one architecture, float64 weights, images and a norm."""

    def __init__(self, f, g, norm, x=None, eps=None):
        self.models, self.norm = (f, g), norm
        self.graphs = [build(model) for model in self.models]
        self.weights = [graph.weights(tf.float64) for graph in self.graphs]
        self.x = nets.images(f, COUNT, seed=5) if x is None else x
        self.eps = tf.constant(RADII[norm] if eps is None else eps, tf.float64)

    def sides(self, weights=None):
        x, y = tf.constant(self.x, tf.float64), tf.constant(Y)
        weights = self.weights if weights is None else weights
        options = BoundOptions(norm=self.norm)
        return [
            ball_margins(Network(graph.structure, w), x, y, self.eps, options)
            for graph, w in zip(self.graphs, weights, strict=True)
        ]

    def literal(self, f, g, found):
        return literal(f, g, self.eps, found.eta, found.t0, self.norm)


@pytest.fixture(scope="module", params=itertools.product(PAIRS, ["l2", "l1"]), ids="-".join)
def pair(request):
    name, norm = request.param
    return Pair(*(nets.ALL[name](seed) for seed in PAIRS[name]), norm)


def test_objective_is_equation_8_of_the_oracle_and_below_the_dual(pair):
    f, g = pair.sides()
    found = objective(f, g, pair.eps, pair.norm)
    eps, norm = float(pair.eps), pair.norm
    for k, x in enumerate(pair.x):
        rows = oracles.target_rows(Y[k], nets.CLASSES)
        nets_of = [oracle_nets.of_model(model) for model in pair.models]
        (nuhat, R_f), (qhat, R_g) = (
            oracles.enclose(net, x, eps, norm).backward(rows) for net in nets_of
        )
        wk = oracles.support(nuhat, x.ravel(), eps, norm) + R_f
        assert_close(found.wk[k], wk, 1e-9)
        for t in set(range(nets.CLASSES)) - {int(Y[k])}:
            eta, t0 = float(found.eta[k, t]), float(found.t0[k, t])
            args = (nuhat[t], qhat[t], R_f[t], R_g[t], x.ravel(), eps)
            expected = oracles.literal(*args, eta, t0, norm)
            assert float(found.h[k, t]) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert found.h[k, Y[k]] == found.wk[k, Y[k]] == 0
    assert (found.h <= found.wk + 1e-12).numpy().all()
    assert (found.h < found.wk - 1e-3).numpy().any()
    assert (found.eta >= 0).numpy().all()


def value_and_gradient(pair, form):
    mixture = tf.constant(np.random.default_rng(0).normal(size=(COUNT, nets.CLASSES)))
    with tf.GradientTape() as tape:
        tape.watch(pair.weights)
        f, g = pair.sides()
        found = objective(f, g, pair.eps, pair.norm)
        h = found.h if form == "tangent" else pair.literal(f, g, found)
        total = tf.reduce_sum(mixture * h)
    return total, tape.gradient(total, pair.weights), (mixture, found, g)


def test_tangent_form_is_equation_8_in_value_and_gradient(pair):
    (one, (to_f, to_g), _), (other, (literal_f, literal_g), _) = (
        value_and_gradient(pair, form) for form in ("tangent", "literal")
    )
    np.testing.assert_allclose(one, other, rtol=1e-11)
    scale = max(float(tf.reduce_max(tf.abs(part))) for part in to_f)
    for ours, theirs in zip(to_f, literal_f, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * scale)
    assert to_g == literal_g == [None] * len(to_g), "the reference is a constant"


def test_gradient_is_the_slope_of_the_tangent_form(pair):
    """Central differences, with the worst perturbation, `t0` and g held fixed."""
    _, (gradient, _), (mixture, _, g) = value_and_gradient(pair, "tangent")
    rng = np.random.default_rng(1)
    direction = [rng.normal(size=w.shape) for w in pair.weights[0]]
    start, _ = pair.sides()
    worst = choose(start.rows, g.rows, pair.norm).worst

    def total(step):
        moved = [w + step * d for w, d in zip(pair.weights[0], direction, strict=True)]
        f, _ = pair.sides([moved, pair.weights[1]])
        h = f.base + pair.eps * tf.reduce_sum(worst * f.rows, -1)
        return float(tf.reduce_sum(mixture * h))

    step = 1e-6
    expected = (total(step) - total(-step)) / (2 * step)
    found = sum(float(tf.reduce_sum(a * b)) for a, b in zip(gradient, direction, strict=True))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def flattened(model):
    """The same biases with zero weights: a constant network."""
    clone = keras.models.clone_model(model)
    clone.set_weights([np.zeros_like(w) if w.ndim > 1 else w for w in model.get_weights()])
    return clone


EDGES = {
    "no_reference_slope": lambda f, g, norm: Pair(f, flattened(g), norm),
    "no_slope": lambda f, g, norm: Pair(flattened(f), g, norm),
    "same_network": lambda f, g, norm: Pair(f, f, norm),
    "constant": lambda f, g, norm: Pair(flattened(f), flattened(g), norm),
    "zero_radius": lambda f, g, norm: Pair(f, g, norm, eps=0.0),
}


@norms
@pytest.mark.parametrize("name", EDGES)
def test_edges_have_values_and_gradients(name, norm):
    pair = EDGES[name](nets.dense(2), nets.dense(12), norm)
    with tf.GradientTape() as tape:
        tape.watch(pair.weights)
        f, g = pair.sides()
        found = objective(f, g, pair.eps, norm)
        loss = tf.reduce_sum(robust_cross_entropy(found.h, tf.constant(Y)))
    gradient = tape.gradient(loss, pair.weights[0], unconnected_gradients="zero")
    for value in (*tf.nest.flatten(found), *gradient):
        assert np.isfinite(value.numpy()).all()
    assert_close(pair.literal(f, g, found) + 1, found.h + 1, 1e-10)
    assert (found.h <= found.wk + 1e-11).numpy().all()
    if name != "zero_radius":
        constant = np.abs(g.rows).max(-1) == 0
        np.testing.assert_array_equal(found.eta.numpy()[constant], 0.0)
    if name == "same_network":  # gamma is constant: it begins at the end of its range
        np.testing.assert_allclose(found.eta, 0.0, atol=1e-9)
        np.testing.assert_allclose(found.h, found.wk, rtol=1e-9)


# The layer and the step


@norms
def test_layer_and_step_take_the_norm(norm):
    f, g = nets.dense(2), nets.dense(12)
    x, eps = nets.images(f, 5, seed=4), RADII[norm]
    y = np.array([0, 1, 2, 0, 1])
    terms = DualObjective(f, g, eps=eps, norm=norm).diagnostics(x, y)
    assert_close(terms["literal"], terms["h"], 1e-4)
    expected = float(tf.reduce_mean(robust_cross_entropy(terms["h"], y)))
    step = TrainStep(f, g, keras.optimizers.Adam(0.01), options=StepOptions.of(norm=norm))
    losses = [float(step(x, y, tf.constant(eps))["loss"]) for _ in range(15)]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert np.mean(losses[-3:]) < losses[0]
    assert step.traces == 1


@norms
def test_slack_variable_compiles_by_xla(rng, norm):
    rows = [tf.constant(part) for part in rng.normal(size=(2, 3, 5))]
    compiled = tf.function(lambda a, b: choose(a, b, norm), jit_compile=True)
    for ours, theirs in zip(compiled(*rows), choose(*rows, norm), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_the_layer_takes_its_memory_in_mebibytes():
    assert DualObjective(nets.dense(), memory_mb=3)._options.budget == 3 * 2**20


@norms
def test_tightness_has_a_derivative_where_nothing_is_read(rng, norm):
    nuhat, qhat = tf.zeros((2, 5)), tf.constant(rng.normal(size=(2, 5)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(nuhat)
        found = tightness(nuhat, qhat, 0.3, tf.zeros(2), norm)
        total = tf.reduce_sum(found.left + found.right)
    slope = tape.gradient(total, nuhat, unconnected_gradients="zero")
    assert np.isfinite(slope).all()
