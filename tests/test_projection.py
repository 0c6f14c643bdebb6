"""Projections: their laws against exact norms, what stays exact, and what they are called."""

import ast
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras import layers

from robustra_tf import certify
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.enclosure import Enclosure, enclose
from robustra_tf.bounds.margins import Margins
from robustra_tf.bounds.median import absolute_median
from robustra_tf.bounds.projection import Estimate, Projection, estimate, margin_estimates
from robustra_tf.certificates import Certificate
from robustra_tf.graph import build
from robustra_tf.objective.problem import pose, solve
from robustra_tf.objective.robustra import (
    DualObjective,
    Objective,
    ObjectiveEstimate,
    objective,
    side,
)
from tests import nets, oracle_nets, oracles
from tests.oracles import assert_close
from train.step import TrainStep

EPS = 0.1
SEED = tf.constant([3, 5])
ROOT = Path(__file__).resolve().parents[1]


# Medians


@pytest.mark.parametrize("count", [1, 2, 3, 10, 49, 50, 101, 130])
def test_median_is_that_of_numpy(rng, count):
    values = rng.normal(size=(2, count, 3, 2))
    expected = np.median(np.abs(values), axis=1)
    np.testing.assert_array_equal(absolute_median(tf.constant(values)), expected)


@pytest.mark.parametrize("count", [7, 10])
def test_gradient_of_the_median_is_that_of_the_middle(rng, count):
    values, upstream = rng.normal(size=(2, count, 3)), rng.normal(size=(2, 3))
    tensor = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = tf.reduce_sum(upstream * absolute_median(tensor))
    found, step = tape.gradient(total, tensor).numpy(), 1e-7
    for at in np.ndindex(values.shape):
        ends = []
        for move in (step, -step):
            moved = values.copy()
            moved[at] += move
            ends.append((upstream * np.median(np.abs(moved), axis=1)).sum())
        np.testing.assert_allclose(found[at], (ends[0] - ends[1]) / (2 * step), atol=1e-6)
    nothing = tf.zeros((1, count, 2))
    with tf.GradientTape() as tape:
        tape.watch(nothing)
        total = tf.reduce_sum(absolute_median(nothing))
    np.testing.assert_array_equal(tape.gradient(total, nothing), 0.0)


# Laws. The second ReLU rests on relaxations that are exact: the law of its estimate is known.


def wide():
    """A second hidden layer of more neurons than there are projections."""
    units, inputs = (24, 200), keras.Input((5,))
    hidden = inputs
    for count in units:
        hidden = layers.Dense(count, activation="relu")(hidden)
    return nets.randomise(keras.Model(inputs, layers.Dense(nets.CLASSES)(hidden)), 4)


def active(model):
    """The same weights behind ReLUs that are all active: relaxations without errors."""
    clone = keras.models.clone_model(model)
    values = model.get_weights()
    clone.set_weights([w + 50.0 if w.ndim == 1 else w for w in values])
    return clone


class Draws:
    """Estimated radii of one neuron of the second ReLU under many seeds, and its exact terms."""

    def __init__(self, model, norm, size, draws):
        graph = build(model)
        structure, weights = graph.structure, graph.weights(tf.float64)
        x = nets.images(model, 1)
        eps = 3 * EPS
        region = ball(tf.constant(x, tf.float64), eps, norm)
        node = structure.relus[1]

        @tf.function(autograph=False)
        def radius(seed):
            low, high = estimate(structure, weights, region, Projection(size, seed)).ranges[node]
            return 0.5 * tf.reshape(high - low, (-1,))[0]

        self.radii = np.array([radius(tf.constant([7, k])).numpy() for k in range(draws)])
        self.traces = radius.experimental_get_tracing_count()
        net = oracle_nets.of_model(model)
        exact = oracles.enclose(net, x[0], eps, norm)
        relaxed = [oracles.relaxation(*ends) for ends in zip(exact.lower, exact.upper, strict=True)]
        slopes, lowers = (
            {k: part[i] for k, part in zip(net.relus, relaxed, strict=True)} for i in (0, 1)
        )
        source = net.nodes[net.relus[1]][1][0]
        row = np.eye(net.values(x[0].ravel())[source].size)[:1]
        nuhat, _ = oracles._backward(net, row, source, slopes, lowers)
        self.radius = 0.5 * (exact.upper[1][0] - exact.lower[1][0])
        self.image = eps * np.linalg.norm(nuhat, {"linf": 1, "l2": 2}[norm])


@pytest.mark.parametrize("size", [10, 50, 200])
def test_estimates_have_the_law_of_the_median_of_cauchy_numbers(rng, size):
    """Median, spread and shape of the estimate of one l1 norm over image and errors together."""
    draws = 600
    found = Draws(wide(), "linf", size, draws)
    assert found.traces == 1
    assert 0.05 < found.image / found.radius < 0.95, "both terms take part"
    ratios = found.radii / found.radius
    # The relative standard error of the median of |Cauchy| is pi / (2 sqrt k).
    error = math.pi / (2 * math.sqrt(size))
    assert abs(np.median(ratios) - 1) < 4 * 1.2533 * error / math.sqrt(draws) + error**2 / 4
    expected = np.median(np.abs(rng.standard_cauchy((20_000, size))), axis=1)
    assert scipy.stats.ks_2samp(ratios, expected).pvalue > 1e-3
    if size > 10:  # a law of large k
        quartiles = np.subtract(*np.quantile(ratios, [0.75, 0.25]))
        assert quartiles == pytest.approx(1.349 * error, rel=0.15)


@pytest.mark.parametrize("size", [10, 50])
def test_l2_estimates_have_the_law_of_their_two_terms(rng, size):
    found = Draws(wide(), "l2", size, 400)
    gaussian = scipy.stats.chi(size).rvs(20_000, random_state=rng) / math.sqrt(size)
    cauchy = np.median(np.abs(rng.standard_cauchy((20_000, size))), axis=1)
    expected = found.image * gaussian + (found.radius - found.image) * cauchy
    assert 0.05 < found.image / found.radius < 0.95, "both terms take part"
    assert scipy.stats.ks_2samp(found.radii, expected).pvalue > 1e-3


def test_l2_estimates_of_affine_networks_are_those_of_gaussian_vectors():
    found = Draws(active(wide()), "l2", 10, 400)
    assert found.image == pytest.approx(found.radius)
    law = scipy.stats.chi(10, scale=found.radius / math.sqrt(10))
    assert scipy.stats.kstest(found.radii, law.cdf).pvalue > 1e-3


def test_the_mean_of_many_estimates_is_near_the_bounds():
    """Through several estimated layers, of a residual network, with the box too."""
    graph = build(nets.residual())
    structure, weights = graph.structure, graph.weights(tf.float64)
    x = tf.constant(nets.images(nets.residual(), 2), tf.float64)
    for box in (None, (0.0, 1.0)):
        region = ball(x, 0.02, "linf", box)
        network = structure, weights, region
        exact, errors = enclose(*network), []
        last, widths = structure.relus[-1], np.subtract(*exact.bounds[structure.relus[-1]])
        for count in (1, 30):
            seeds = [tf.constant([k, 0]) for k in range(count)]
            many = [estimate(*network, Projection(30, seed)).ranges[last] for seed in seeds]
            gap = np.mean([np.subtract(*ends) for ends in many], axis=0) - widths
            errors.append(np.abs(gap).mean() / np.abs(widths).mean())
        assert errors[1] < 0.1
        assert errors[1] < errors[0]


# What is exact


def given(net, relaxations):
    """The slopes and lowers of the oracle from the library's relaxations of one example."""
    slopes, lowers = {}, {}
    for k, relaxation in zip(net.relus, relaxations.values(), strict=True):
        slope, error = (part[0].numpy().ravel() for part in relaxation[:2])
        slopes[k] = slope
        lowers[k] = np.where(error > 0, -2 * error / np.where(slope > 0, slope, 1.0), 0.0)
    return slopes, lowers


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["two_conv", "residual", "normalised"])
def test_small_layers_and_margins_are_exact_for_their_relaxations(name, norm):
    """Layers of fewer neurons than projections, the first layer, and the rows of the margins."""
    model = nets.ALL[name]()
    graph, x, y = build(model), nets.images(model, 1), 1
    region = ball(tf.constant(x, tf.float64), EPS, norm)
    vectors = Projection(10, SEED)
    weights = graph.weights(tf.float64)
    found = margin_estimates(graph.structure, weights, region, tf.constant([y]), vectors)
    net = oracle_nets.of_model(model)
    slopes, lowers = given(net, found.inner.relaxations)
    checked = 0
    for k, ends in zip(net.relus, found.inner.ranges.values(), strict=True):
        source = net.nodes[k][1][0]
        low, high = (end[0].numpy().ravel() for end in ends)
        nuhat, constant = oracles._backward(net, np.eye(low.size), source, slopes, lowers)
        upper = oracles.support(nuhat, x[0].ravel(), EPS, norm) + constant
        if low.size < vectors.size or k == net.relus[0]:
            np.testing.assert_allclose(high, upper, rtol=1e-9, atol=1e-9)
            checked += 1
        else:
            assert np.abs(high - upper).max() > 1e-3, "this layer is estimated"
    assert checked
    rows = oracles.target_rows(y, nets.CLASSES)
    nuhat, constant = oracles._backward(net, rows, len(net.nodes) - 1, slopes, lowers)
    assert_close(found.rows[0], nuhat, 1e-9)
    expected = oracles.support(nuhat, x[0].ravel(), EPS, norm) + constant
    np.testing.assert_allclose(found.value[0], expected, rtol=1e-8, atol=1e-9)


def test_more_projections_than_neurons_leave_nothing_to_estimate():
    graph = build(nets.two_conv())
    x = tf.constant(nets.images(nets.two_conv(), 2), tf.float64)
    network = graph.structure, graph.weights(tf.float64), ball(x, EPS)
    exact, found = enclose(*network), estimate(*network, Projection(1000, SEED))
    for index, ends in exact.bounds.items():
        for ours, theirs in zip(found.ranges[index], ends, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_an_example_is_estimated_alike_in_any_batch():
    model = nets.residual()
    graph, x = build(model), tf.constant(nets.images(model, 3), tf.float64)
    weights = graph.weights(tf.float64)

    def ranges(images, seed):
        found = estimate(graph.structure, weights, ball(images, EPS), Projection(10, seed))
        return found.ranges[graph.structure.relus[-1]]

    whole = ranges(x, SEED)
    for k in range(3):
        np.testing.assert_allclose(whole[0][k], ranges(x[k : k + 1], SEED)[0][0], rtol=1e-9)
    other = ranges(x, tf.constant([3, 6]))
    assert (np.abs(whole[0] - other[0]) > 1e-6).all()


# The objective and the step


class Posed:
    """A problem with projections in float64, its weights and a batch."""

    def __init__(self, name="two_conv", norm="linf", method="robustra"):
        builder = nets.ALL[name]
        self.models = builder(2), builder(12)
        reference = self.models[1] if method == "robustra" else None
        how = {"norm": norm, "projection": 5}
        self.problem, graph, self.other = pose(self.models[0], reference, method, **how)
        self.weights = graph.weights(tf.float64)
        self.x = tf.constant(nets.images(self.models[0], 3, seed=5), tf.float64)
        self.y = tf.constant([0, 1, 2])
        self.eps = tf.constant(0.05, tf.float64)

    def solved(self, weights, vectors=SEED):
        reference = None
        if self.other is not None:
            problem = self.problem
            reference = problem.side(
                problem.reference,
                self.other.weights(tf.float64),
                *(self.x, self.y, self.eps),
                problem.vectors(vectors, 1),
            )
        batch = (self.x, self.y, self.eps)
        return solve(self.problem, weights, reference, *batch, seed=vectors)


@pytest.mark.parametrize(("name", "norm"), [("two_conv", "linf"), ("residual", "l2")])
def test_gradient_with_projections_is_the_slope(rng, name, norm):
    """Central differences of WK's loss; for Robustra's the slack variable would have to be held."""
    posed = Posed(name, norm, "wong")
    direction = [rng.normal(size=w.shape) for w in posed.weights]
    with tf.GradientTape() as tape:
        tape.watch(posed.weights)
        loss = tf.reduce_sum(posed.solved(posed.weights).loss)
    gradient = tape.gradient(loss, posed.weights)
    found = sum(float(tf.reduce_sum(a * b)) for a, b in zip(gradient, direction, strict=True))
    step, ends = 1e-7, []
    for move in (step, -step):
        moved = [w + move * d for w, d in zip(posed.weights, direction, strict=True)]
        ends.append(float(tf.reduce_sum(posed.solved(moved).loss)))
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


SKIPS = nets.residual  # a functional model of a user's own, with a skip connection


@pytest.mark.parametrize("projection", [0, 5])
def test_a_model_with_skip_connections_learns(projection):
    model, reference = SKIPS(2), SKIPS(12)
    optimizer = keras.optimizers.Adam(0.01)
    step = TrainStep(model, reference, optimizer, projection=projection)
    x, y = nets.images(model, 6), np.array([0, 1, 2, 0, 1, 2])
    eps = tf.constant(0.01)
    losses = [float(step(x, y, eps, tf.constant([0, k]))["loss"]) for k in range(15)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert step.traces == 1


@pytest.fixture(scope="module")
def resting():
    """Metrics of three steps that change nothing, and of the same in pieces."""
    found = []
    for memory in (768, 1e-3):
        model, reference = nets.dense(2), nets.dense(12)
        optimizer = keras.optimizers.SGD(0.0)
        options = {"projection": 4, "memory_mb": memory}
        step = TrainStep(model, reference, optimizer, **options)
        x, y = nets.images(model, 5), np.array([0, 1, 2, 0, 1])
        taken = [step(x, y, tf.constant(0.1), tf.constant([9, k])) for k in (0, 1, 1)]
        found.append([{k: float(v) for k, v in one.items()} for one in taken])
        assert step.traces == 1
    return found


def test_every_seed_draws_its_own_vectors_and_pieces_share_them(resting):
    whole, pieces = resting
    losses = [one["loss"] for one in whole]
    assert losses[0] != losses[1] == losses[2], "equal seeds, equal vectors"
    for one, other in zip(whole, pieces, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_the_two_networks_have_vectors_of_their_own():
    posed = Posed()
    one, two = (posed.problem.vectors(SEED, k).seed.numpy().tolist() for k in (0, 1))
    assert one != two


# Names and types


def test_metrics_of_a_step_are_called_estimates(resting):
    names = set(resting[0][0])
    plain = {"loss", "clean_error", "grad_norm", "eta", "t0"}
    assert plain <= names
    assert all("_estimate" in name for name in names - plain)
    assert {"robust_error_estimate", "wk_error_estimate", "unstable_estimate/1"} <= names


def test_what_is_projected_is_of_no_bounds_type():
    posed = Posed()
    solved = posed.solved(posed.weights)
    assert solved.upper is None, "a step that projects has bounded nothing"
    f = posed.problem.side(
        posed.problem.structure,
        posed.weights,
        *(posed.x, posed.y, posed.eps),
        posed.problem.vectors(SEED, 0),
    )
    assert not isinstance(f, Margins)
    assert not isinstance(f.inner, Enclosure)
    assert not {"upper", "enclosure", "bounds"} & {*dir(f), *dir(Estimate)}
    exact = side(posed.problem.structure, posed.weights, posed.x, posed.y, posed.eps)
    kinds = {
        (one is exact, other is exact): type(objective(one, other, posed.eps))
        for one in (f, exact)
        for other in (f, exact)
    }
    assert {kind for both, kind in kinds.items() if all(both)} == {Objective}
    assert {kind for both, kind in kinds.items() if not all(both)} == {ObjectiveEstimate}
    assert not issubclass(ObjectiveEstimate, Objective)


def test_layer_with_projections_gives_an_estimate_by_steps():
    layer = DualObjective(nets.dense(2), nets.dense(12), eps=EPS, projection=4, seed=1)
    x, y = nets.images(layer.f, 2), np.array([0, 1])
    found, again, other = (layer(x, y, step=k) for k in (0, 0, 1))
    assert isinstance(found, ObjectiveEstimate)
    np.testing.assert_array_equal(found.h, again.h)
    assert (found.h != other.h).numpy().any()
    assert layer._compiled.experimental_get_tracing_count() == 1
    terms = layer.diagnostics(x, y, step=0)
    assert all(name.endswith("_estimate") for name in terms)
    assert_close(terms["literal_estimate"], terms["h_estimate"], 1e-4)
    with pytest.raises(ValueError, match="step must be a number with projection=4, got None"):
        layer(x, y)
    with pytest.raises(ValueError, match="step must be None with projection=0, got 3"):
        DualObjective(layer.f, eps=EPS)(x, y, step=3)


def test_nothing_that_certifies_can_project():
    """No module of certificates, evaluation, export or exact verification knows of projections."""
    allowed = {
        "bounds/projection.py",
        "objective/robustra.py",
        "objective/problem.py",
        "objective/pieces.py",
    }
    users = set()
    for path in sorted((ROOT / "robustra_tf").rglob("*.py")) + sorted((ROOT / "eval").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.keyword) and node.arg == "projection":
                names.append("projection")
            if any("projection" in name for name in names):
                users.add(path.relative_to(ROOT / "robustra_tf").as_posix())
    assert users - allowed == set()
    model = nets.dense()
    x = nets.images(model, 1)
    with pytest.raises(TypeError, match="projection"):
        certify(model, x, [0], EPS, projection=50)
    network = build(model)
    region, vectors = ball(tf.constant(x), EPS), Projection(4, SEED)
    found = margin_estimates(
        network.structure, network.weights(), region, tf.constant([0]), vectors
    )
    with pytest.raises(TypeError, match="array of lower bounds, got MarginEstimate"):
        Certificate(found, np.array([0]), np.array([0]), EPS, "linf", None, "dual", "float32")


def test_what_cannot_be_projected_is_refused():
    model = nets.dense()
    network = build(model)
    region = ball(tf.constant(nets.images(model, 1)), EPS, "l1")
    with pytest.raises(ValueError, match=r"projection must be 0 for norm 'l1'.* got 5"):
        estimate(network.structure, network.weights(), region, Projection(5, SEED))
    with pytest.raises(ValueError, match="projection must be at least 1, got 0"):
        estimate(network.structure, network.weights(), region, Projection(0, SEED))
    with pytest.raises(ValueError, match="projection must be at least 0, got -1"):
        DualObjective(model, projection=-1)
    optimizer = keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match="projection must be 0 for method 'ibp'"):
        TrainStep(model, None, optimizer, "ibp", projection=5)
    with pytest.raises(ValueError, match=r"projection must be 0 .* by 'interval', got 5"):
        TrainStep(model, None, optimizer, "wong", projection=5, inner="interval")
    with pytest.raises(ValueError, match="norm must be one of linf, got 'l2'"):
        TrainStep(model, None, optimizer, "ibp", norm="l2")
