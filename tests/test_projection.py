"""Projections: their laws against exact norms, and what stays exact."""

import math

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras import layers

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.projection import Projection, estimate, margin_estimates
from robustra_tf.graph import build
from tests import nets, oracle_nets, oracles
from tests.oracles import assert_close

EPS = 0.1
SEED = tf.constant([3, 5])


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
        structure, network = graph.structure, graph.network(tf.float64)
        x = nets.images(model, 1)
        eps = 3 * EPS
        region = ball(tf.constant(x, tf.float64), eps, norm)
        node = structure.relus[1]

        @tf.function(autograph=False)
        def radius(seed):
            low, high = estimate(network, region, Projection(size, seed)).ranges[node]
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
    structure = graph.structure
    x = tf.constant(nets.images(nets.residual(), 2), tf.float64)
    for box in (None, (0.0, 1.0)):
        region = ball(x, 0.02, "linf", box)
        network = graph.network(tf.float64), region
        exact, errors = enclose(*network, BoundOptions("every")), []
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
    found = margin_estimates(graph.network(tf.float64), region, tf.constant([y]), vectors)
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
    network = graph.network(tf.float64), ball(x, EPS)
    exact = enclose(*network, BoundOptions("every"))
    found = estimate(*network, Projection(1000, SEED))
    for index, ends in exact.bounds.items():
        for ours, theirs in zip(found.ranges[index], ends, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_an_example_is_estimated_alike_in_any_batch():
    model = nets.residual()
    graph, x = build(model), tf.constant(nets.images(model, 3), tf.float64)
    network = graph.network(tf.float64)

    def ranges(images, seed):
        found = estimate(network, ball(images, EPS), Projection(10, seed))
        return found.ranges[graph.structure.relus[-1]]

    whole = ranges(x, SEED)
    for k in range(3):
        np.testing.assert_allclose(whole[0][k], ranges(x[k : k + 1], SEED)[0][0], rtol=1e-9)
    other = ranges(x, tf.constant([3, 6]))
    assert (np.abs(whole[0] - other[0]) > 1e-6).all()
