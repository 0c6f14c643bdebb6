"""Robustra's objective: the closed forms against the literal Equation 8, in value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf.graph import Network, build
from robustra_tf.objective.breakpoints import choose, tightness
from robustra_tf.objective.layer import DualObjective
from robustra_tf.objective.losses import clean_error, robust_cross_entropy, robust_error
from robustra_tf.objective.robustra import ball_margins, literal, objective
from tests import nets, oracle_nets, oracles
from tests.oracles import assert_close

EPS = 0.08
COUNT = 3
Y = np.array([0, 1, 2], np.int32)
PAIRS = {"dense": (0, 10), "two_conv": (2, 12), "residual": (3, 13), "normalised": (6, 16)}


class Pair:
    """Two models of one architecture, their graphs, float64 weights, and images."""

    def __init__(self, f, g, x=None, eps=EPS):
        self.models = f, g
        self.graphs = [build(model) for model in self.models]
        self.weights = [graph.weights(tf.float64) for graph in self.graphs]
        self.x = nets.images(f, COUNT, seed=5) if x is None else x
        self.eps = tf.constant(eps, tf.float64)

    def sides(self, weights=None):
        x, y = tf.constant(self.x, tf.float64), tf.constant(Y)
        weights = self.weights if weights is None else weights
        return [
            ball_margins(Network(graph.structure, w), x, y, self.eps)
            for graph, w in zip(self.graphs, weights, strict=True)
        ]

    def oracle(self):
        f, g = (oracle_nets.of_model(model) for model in self.models)
        return [oracles.pair(f, g, x, y, EPS) for x, y in zip(self.x, Y, strict=True)]


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    return Pair(*(nets.ALL[request.param](seed) for seed in PAIRS[request.param]))


def test_objective_is_the_oracle(pair):
    f, g = pair.sides()
    found = objective(f, g, pair.eps)
    for k, expected in enumerate(pair.oracle()):
        np.testing.assert_array_equal(found.positive[k], expected.positive)
        for ours, theirs in (
            (found.eta, expected.eta),
            (found.t0, expected.t0),
            (found.h, expected.h),
            (found.wk, expected.wk),
            (found.tightness.left, expected.grad_left),
            (found.tightness.right, expected.grad_right),
        ):
            others = np.arange(nets.CLASSES) != Y[k]
            assert_close(ours[k].numpy()[others], theirs[others], 1e-10)
        assert found.h[k, Y[k]] == found.wk[k, Y[k]] == 0


def test_tangent_form_is_equation_8_in_value(pair):
    f, g = pair.sides()
    found = objective(f, g, pair.eps)
    assert_close(literal(f, g, pair.eps, found.eta, found.t0), found.h, 1e-12)


def value_and_gradient(pair, form):
    """`sum_t a_t h_t` for fixed weights `a`, and its gradient in the weights of f and of g."""
    mixture = tf.constant(np.random.default_rng(0).normal(size=(COUNT, nets.CLASSES)))
    with tf.GradientTape() as tape:
        tape.watch(pair.weights)
        f, g = pair.sides()
        found = objective(f, g, pair.eps)
        h = found.h if form == "tangent" else literal(f, g, pair.eps, found.eta, found.t0)
        total = tf.reduce_sum(mixture * h)
    return total, tape.gradient(total, pair.weights), (mixture, found)


def test_tangent_form_is_equation_8_in_gradient(pair):
    (one, (to_f, to_g), _), (other, (literal_f, literal_g), _) = (
        value_and_gradient(pair, form) for form in ("tangent", "literal")
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)
    scale = max(float(tf.reduce_max(tf.abs(part))) for part in to_f)
    for ours, theirs in zip(to_f, literal_f, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * scale)
    assert to_g == literal_g == [None] * len(to_g), "the reference is a constant"


def test_gradient_is_the_slope_of_the_oracle(pair):
    """Central differences of Equation 8 in NumPy, with `eta_med`, `t0` and g held fixed."""
    _, (gradient, _), (mixture, found) = value_and_gradient(pair, "tangent")
    eta, t0 = found.eta.numpy(), found.t0.numpy()
    g = [oracles.enclose(oracle_nets.of_model(pair.models[1]), x, EPS) for x in pair.x]
    rng = np.random.default_rng(1)
    direction = [rng.normal(size=w.shape) for w in pair.weights[0]]
    values = [v.numpy() for v in pair.graphs[0].variables]

    def equation_8(step):
        moved = [w.numpy() + step * d for w, d in zip(pair.weights[0], direction, strict=True)]
        net = oracle_nets.of_graph(pair.graphs[0].structure, moved)
        total = 0.0
        for k, x in enumerate(pair.x):
            rows = oracles.target_rows(Y[k], nets.CLASSES)
            nuhat, R_f = oracles.enclose(net, x, EPS).backward(rows)
            qhat, R_g = g[k].backward(rows)
            for t in range(nets.CLASSES):
                terms = (nuhat[t], qhat[t], R_f[t], R_g[t], np.ravel(x), EPS)
                total += mixture[k, t] * oracles.literal(*terms, eta[k, t], t0[k, t])
        return float(total)

    step = 1e-6
    slope = (equation_8(step) - equation_8(-step)) / (2 * step)
    expected = sum(float(tf.reduce_sum(a * b)) for a, b in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(expected, slope, rtol=1e-5, atol=1e-5)
    for variable, value in zip(pair.graphs[0].variables, values, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_reference_never_loosens_the_bound(pair):
    f, g = pair.sides()
    found = objective(f, g, pair.eps)
    assert (found.h <= found.wk + 1e-12).numpy().all()
    assert (found.h < found.wk - 1e-3).numpy().any()


def test_without_a_reference_it_is_the_dual_bound(pair):
    f, _ = pair.sides()
    found = objective(f, None, pair.eps)
    np.testing.assert_array_equal(found.h, f.upper)
    np.testing.assert_array_equal(found.wk, f.upper)
    np.testing.assert_array_equal(found.eta, np.zeros_like(found.h))


# Edges: what has no transition, no slope or no width


def constant_output(model):
    """The same architecture with zero weights behind the image: qhat = 0."""
    clone = keras.models.clone_model(model)
    clone.set_weights([np.zeros_like(w) if w.ndim > 1 else w for w in model.get_weights()])
    return clone


def shifted(model, amount):
    """The same weights with every hidden bias moved: all ReLUs active, or all dead."""
    clone = keras.models.clone_model(model)
    values = model.get_weights()
    hidden = [w + amount if w.ndim == 1 else w for w in values[:-1]]
    clone.set_weights([*hidden, values[-1]])
    return clone


FLAT = np.full((COUNT, 8, 8, 1), 0.5, np.float32)
EDGES = {
    "no_reference_slope": lambda f, g: Pair(f, constant_output(g)),
    "same_network": lambda f, g: Pair(f, f),
    "f_all_active": lambda f, g: Pair(shifted(f, 50.0), g),
    "f_all_dead": lambda f, g: Pair(shifted(f, -500.0), g),
    "g_all_dead": lambda f, g: Pair(f, shifted(g, -500.0)),
    "both_dead": lambda f, g: Pair(shifted(f, -500.0), shifted(g, -500.0)),
    "zero_radius": lambda f, g: Pair(f, g, eps=0.0),
    "constant_image": lambda f, g: Pair(f, g, FLAT),
    "black_image": lambda f, g: Pair(f, g, np.zeros_like(FLAT)),
    "zero_weights": lambda f, g: Pair(constant_output(f), g, FLAT, 0.0),
}


@pytest.fixture(scope="module")
def edge():
    """name -> the pair of that edge."""
    f, g = nets.two_conv(2), nets.two_conv(12)
    return lambda name: EDGES[name](f, g)


@pytest.mark.parametrize("name", EDGES)
def test_edges_have_values_and_gradients(edge, name):
    pair = edge(name)
    with tf.GradientTape() as tape:
        tape.watch(pair.weights)
        f, g = pair.sides()
        found = objective(f, g, pair.eps)
        loss = tf.reduce_sum(robust_cross_entropy(found.h, tf.constant(Y)))
    gradient = tape.gradient(loss, pair.weights[0], unconnected_gradients="zero")
    for value in (*tf.nest.flatten(found), *gradient):
        assert np.isfinite(value.numpy()).all()
    assert_close(literal(f, g, pair.eps, found.eta, found.t0) + 1, found.h + 1, 1e-11)
    assert (found.h <= found.wk + 1e-11).numpy().all()
    flat = np.abs(g.rows).max(-1) <= oracles.NO_TRANSITION
    np.testing.assert_array_equal(found.eta.numpy()[flat], 0.0)
    np.testing.assert_allclose(found.h.numpy()[flat], found.wk.numpy()[flat], rtol=1e-12)
    if float(pair.eps) == 0.0:
        logits = pair.graphs[0].structure.forward(pair.weights[0], tf.constant(pair.x, tf.float64))
        difference = logits - tf.gather(logits, Y, batch_dims=1)[:, None]
        np.testing.assert_allclose(found.h, difference, rtol=1e-9, atol=1e-12)


def test_a_reference_that_is_f_itself_moves_against_it(edge):
    """With g = f all transitions are negative: nuhat + eta nuhat never changes sign."""
    pair = edge("same_network")
    found = objective(*pair.sides(), pair.eps)
    np.testing.assert_array_equal(found.positive, 0)
    np.testing.assert_allclose(found.h, found.wk, rtol=1e-12)


# The slack variable


def test_choice_of_eta(rng):
    nuhat, qhat = rng.normal(size=(2, 4, 3, 30))
    qhat[0, 0] = 0.0
    qhat[0, 1, ::2] = 1e-8  # no transition
    qhat[0, 2] = nuhat[0, 2]  # none positive
    nuhat[1, 0] = -qhat[1, 0]  # all at the same place
    nuhat[1, 1, 1:] = np.abs(nuhat[1, 1, 1:])
    qhat[1, 1] = np.where(np.arange(30) == 0, -np.sign(nuhat[1, 1]), np.abs(qhat[1, 1]))
    nuhat[1, 2, ::3] = 0.0
    found = choose(tf.constant(nuhat), tf.constant(qhat))
    for at in np.ndindex(4, 3):
        assert found.eta[at] == oracles.median_eta(nuhat[at], qhat[at])
        assert found.positive[at] == len(oracles.transitions(nuhat[at], qhat[at]))
        row = nuhat[at] + found.eta[at].numpy() * qhat[at]
        clear = np.abs(row) > 1e-12
        np.testing.assert_array_equal(found.worst[at].numpy()[clear], np.sign(row)[clear])
        if found.positive[at]:
            assert (found.worst[at].numpy() == 0).any(), "the chosen coordinate has no sign"
    np.testing.assert_array_equal(found.positive.numpy()[0, [0, 2]], 0)
    assert found.positive[1, 0] == 30
    assert found.positive[1, 1] == 1


def test_tightness_is_the_slope_at_both_ends(rng):
    nuhat, qhat, offset = rng.normal(size=(5, 20)), rng.normal(size=(5, 20)), rng.normal(size=5) * 5
    nuhat[:, 0] = 0.0
    eps = 0.3
    found = tightness(tf.constant(nuhat), tf.constant(qhat), eps, tf.constant(offset))

    def slope(low, high):
        size = [np.abs(nuhat + eta * qhat).sum(-1) for eta in (low, high)]
        return eps * (size[1] - size[0]) / (high - low) + offset

    np.testing.assert_allclose(found.left, slope(0.0, 1e-7), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.right, slope(1e6, 1e6 + 10), rtol=1e-6, atol=1e-6)
    states = np.stack([found.infeasible, found.tight, found.loose])
    np.testing.assert_array_equal(states.sum(0), 1)


# Losses


def test_losses(rng):
    h, y = rng.normal(size=(6, 4)), rng.integers(0, 4, size=6)
    h[np.arange(6), y] = 0.0
    h[0] = np.where(np.arange(4) == y[0], 0.0, -1.0)
    expected = np.log(np.exp(h).sum(1)) - h[np.arange(6), y]
    np.testing.assert_allclose(robust_cross_entropy(tf.constant(h), y), expected, rtol=1e-12)
    np.testing.assert_array_equal(robust_error(tf.constant(h), y), (h > 0).any(1))
    assert not robust_error(tf.constant(h), y)[0]
    np.testing.assert_array_equal(clean_error(tf.constant(h), y), h.argmax(1) != y)


# The Keras layer


@pytest.fixture(scope="module")
def layer():
    return DualObjective(nets.two_conv(2), nets.two_conv(12))


def test_layer_gives_the_objective_and_its_terms(layer):
    x = nets.images(layer.f, COUNT, seed=5)
    found = layer.diagnostics(x, Y, eps=EPS)
    f, g = (oracle_nets.of_model(model) for model in (layer.f, layer.g))
    h = layer(x, Y, eps=tf.constant(EPS))
    assert h.shape == (COUNT, nets.CLASSES)
    names = {
        "h": "h",
        "literal": "h",
        "wk": "wk",
        "t0": "t0",
        "grad_left": "grad_left",
        "grad_right": "grad_right",
    }
    for k, y in enumerate(Y):
        expected = oracles.pair(f, g, x[k], y, EPS)
        assert_close(h[k], expected.h, 1e-4)
        others = np.arange(nets.CLASSES) != y
        for ours, theirs in names.items():
            values = getattr(expected, theirs)[others]
            assert_close(found[ours][k].numpy()[others], values, 1e-4)
        assert (found["eta"][k].numpy() >= 0).all()


def test_layer_is_traced_once_for_every_radius(layer):
    x = nets.images(layer.f, COUNT, seed=5)
    counts = []
    for eps in (0.01, 0.05, tf.constant(0.1)):
        layer(x, Y, eps=eps)
        counts.append(layer._compiled.experimental_get_tracing_count())
    assert len(set(counts)) == 1


def test_layer_trains_f_and_not_g(layer):
    x = nets.images(layer.f, COUNT, seed=5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(robust_cross_entropy(layer(x, Y, eps=EPS), Y))
    to_f, to_g = tape.gradient(loss, [layer.f.trainable_variables, layer.g.trainable_variables])
    assert all(float(tf.reduce_max(tf.abs(part))) > 0 for part in to_f)
    assert to_g == [None] * len(to_g)


def test_layer_without_reference_and_with_its_own_radius():
    model = nets.dense()
    x = nets.images(model, COUNT)
    h = DualObjective(model, eps=EPS)(x, Y)
    net = oracle_nets.of_model(model)
    expected = [-oracles.margins(net, image, y, EPS) for image, y in zip(x, Y, strict=True)]
    assert_close(h, expected, 1e-5)


def test_objective_compiles_by_xla():
    pair = Pair(nets.shallow(0), nets.shallow(10))

    def bound():
        return objective(*pair.sides(), pair.eps).h

    assert_close(tf.function(bound, jit_compile=True)(), bound(), 1e-10)


def test_layer_refuses_what_it_cannot_do():
    f = nets.dense()
    with pytest.raises(ValueError, match=r"norm must be .* got 'l7'"):
        DualObjective(f, norm="l7")
    with pytest.raises(ValueError, match="f and g must map the same inputs"):
        DualObjective(f, nets.conv())
    with pytest.raises(ValueError, match="eps must be given"):
        DualObjective(f)(nets.images(f, COUNT), Y)
    hidden = [layers.Dense(3, activation="sigmoid"), layers.Dense(nets.CLASSES)]
    with pytest.raises(ValueError, match="sigmoid"):
        DualObjective(f, keras.Sequential([keras.Input((5,)), *hidden]))
