"""Losses of training by intervals: their limits, attacks, regulariser and descent."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from robustra_tf import data, models
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.crown import crown_margins
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.lines import adaptive
from robustra_tf.graph import Network, build
from robustra_tf.objective.batch import Batch
from robustra_tf.objective.batch import LossOptions as Options
from robustra_tf.objective.interval_losses import (
    INTERVAL_LOSSES,
    attacked,
    regulariser,
    spread,
)
from robustra_tf.objective.losses import robust_cross_entropy
from robustra_tf.training.methods import METHODS
from robustra_tf.training.options import StepOptions
from robustra_tf.training.problem import Problem, solve
from robustra_tf.training.step import TrainStep
from tests import nets

COUNT, EPS = 6, 0.08
Y = tf.constant([0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def model():
    return nets.two_conv(3)


class Case(NamedTuple):
    """A network and a batch."""

    network: Network
    batch: Batch

    def loss(self, method, options):
        return INTERVAL_LOSSES[method](*self, options)

    def with_weights(self, weights):
        return self._replace(network=self.network.with_weights(weights))


def task(model, progress=1.0, eps=EPS):
    graph = build(model)
    x = tf.constant(nets.images(model, COUNT, seed=2), tf.float64)
    numbers = (tf.constant(value, tf.float64) for value in (eps, progress))
    draw = tf.random.stateless_uniform(x.shape, (3, 4), dtype=x.dtype)
    return Case(graph.network(tf.float64), Batch(x, Y, *numbers, draw))


def minimised(trained):
    """What a batch's gradient is of: the mean loss and the regulariser of the batch."""
    found = tf.reduce_mean(trained.each)
    if trained.spread is None:
        return found
    return found + trained.weight * regulariser(tf.reduce_mean(trained.spread, 0))


def regularised(region, bounds):
    return regulariser(tf.reduce_mean(spread(region, bounds), 0))


def bounds_of(here):
    region = ball(here.batch.x, here.batch.eps, box=(0.0, 1.0))
    return region, *interval_margins(here.network, region, here.batch.y)


def cross_entropy(here, x):
    logits = here.network.structure.forward(here.network.weights, x).numpy()
    shifted = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(COUNT), Y.numpy()]


def test_ibp_is_the_cross_entropy_of_the_interval_margins(model):
    here = task(model)
    _, _, upper = bounds_of(here)
    found = here.loss("ibp", Options())
    np.testing.assert_allclose(found.each, np.log(np.exp(upper).sum(1)), rtol=1e-10)
    np.testing.assert_array_equal(found.upper, upper)


def test_clean_share_mixes_as_far_as_the_ramp_has_come(model):
    for progress, kappa in ((0.0, 1.0), (0.5, 0.7), (1.0, 0.4)):
        here = task(model, progress)
        plain = here.loss("ibp", Options()).each
        found = here.loss("ibp", Options(clean_share=0.4)).each
        expected = kappa * cross_entropy(here, here.batch.x) + (1 - kappa) * plain
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_crown_ibp_goes_from_crown_to_intervals(model):
    for progress in (0.0, 0.25, 1.0):
        here = task(model, progress)
        region, bounds, upper = bounds_of(here)
        crown = crown_margins(here.network, region, here.batch.y, bounds, adaptive(bounds))
        assert not np.allclose(crown, upper)
        expected = robust_cross_entropy((1 - progress) * crown + progress * upper, here.batch.y)
        np.testing.assert_allclose(here.loss("crown_ibp", Options()).each, expected, rtol=1e-10)


def test_mtl_ibp_goes_from_the_attack_to_intervals(model):
    here = task(model)
    whole = here.loss("mtl_ibp", Options(share=1.0)).each
    np.testing.assert_allclose(whole, here.loss("ibp", Options()).each, rtol=1e-10)
    attack = here.loss("mtl_ibp", Options(share=0.0)).each
    expected = cross_entropy(here, attacked(*here, Options().attack_steps))
    np.testing.assert_allclose(attack, expected, rtol=1e-10)


def test_sabr_with_a_whole_box_is_ibp_and_with_a_small_one_lies_below(model):
    here = task(model)
    ibp = here.loss("ibp", Options()).each
    np.testing.assert_allclose(here.loss("sabr", Options(share=1.0)).each, ibp, rtol=1e-10)
    small = here.loss("sabr", Options(share=0.1))
    # The small box lies within the ball: its intervals cannot be worse.
    assert np.all(small.each.numpy() < ibp.numpy())
    np.testing.assert_allclose(small.upper, bounds_of(here)[2], rtol=1e-10)


def test_attack_share_goes_from_the_dual_to_the_attack(model):
    here = task(model)

    def loss(share):
        losses = Options(attack_share=share)
        problem = Problem(here.network.structure, None, METHODS["wong"], losses=losses)
        found = solve(problem, here.network, None, here.batch)
        assert set(found.measured) | {"loss"} == set(problem.measurements)
        return found.each

    attack = cross_entropy(here, attacked(*here, Options().attack_steps))
    dual = loss(0.0)
    assert np.all(dual.numpy() > attack)
    np.testing.assert_allclose(loss(1.0), attack, rtol=1e-10)
    np.testing.assert_allclose(loss(0.3), 0.7 * dual + 0.3 * attack, rtol=1e-10)


@pytest.mark.parametrize("method", ["mtl_ibp", "sabr"])
def test_a_step_is_a_function_of_its_seed(method):
    """Whatever was drawn before it: a run that goes on draws what the whole run did."""
    model = nets.dense(3)
    x = tf.constant(nets.images(model, COUNT, seed=2), tf.float32)
    options = StepOptions.of(share=0.3, attack_steps=1)
    step = TrainStep(model, None, keras.optimizers.SGD(0.0), method, options=options)
    losses = [float(step(x, Y, tf.constant(EPS), s)["loss"]) for s in [(5, 6), (5, 7), (5, 6)]]
    assert losses[0] == losses[2] != losses[1]
    assert step.traces == 1


def test_attacked_images_lie_in_ball_and_box_and_are_worse(model):
    here = task(model, eps=0.3)
    point = attacked(*here, 8).numpy()
    assert np.all(np.abs(point - here.batch.x.numpy()) <= 0.3 + 1e-12)
    assert point.min() >= 0
    assert point.max() <= 1
    assert np.all(cross_entropy(here, point) > cross_entropy(here, here.batch.x))


@pytest.mark.parametrize(("steps", "moved"), [(0, 0.0), (1, 0.5), (3, 1.5), (4, 1.6), (8, 3.2)])
def test_steps_are_half_a_radius_and_after_three_quarters_a_tenth(steps, moved):
    """Along one pixel that raises the loss all the way, from the far end of the ball."""
    network = build(nets.dense(3)).network(tf.float64)
    weights = [tf.zeros_like(weight) for weight in network.weights]
    for place, (row, column), value in ((0, (0, 0), 1.0), (-2, (0, 0), -1.0)):
        weights[place] = tf.tensor_scatter_nd_update(weights[place], [(row, column)], [value])
    between = [weights[k] for k in range(2, len(weights) - 2, 2)]
    for k, weight in enumerate(between):
        weights[2 * k + 2] = tf.eye(*weight.shape, dtype=tf.float64)
    x, draw = tf.fill((1, 5), tf.constant(0.5, tf.float64)), tf.zeros((1, 5), tf.float64)
    numbers = (tf.constant(value, tf.float64) for value in (0.1, 1.0))
    batch = Batch(x, tf.constant([0]), *numbers, draw)
    point = attacked(network.with_weights(weights), batch, steps).numpy()
    expected = 0.4 + min(0.1 * moved, 0.2)
    np.testing.assert_allclose(point, [[expected, 0.4, 0.4, 0.4, 0.4]], atol=1e-12)


@pytest.mark.parametrize("method", INTERVAL_LOSSES)
def test_gradients_are_finite_at_radius_zero_and_on_dead_networks(method, model):
    options = Options(share=0.5, clean_share=0.5, regulariser=0.5)
    dead = task(model)
    dead = dead.with_weights([-tf.abs(w) for w in dead.network.weights])
    early = dead._replace(batch=dead.batch._replace(progress=tf.zeros((), tf.float64)))
    for here in (task(model, 0.0, 0.0), dead, early):
        with tf.GradientTape() as tape:
            tape.watch(here.network.weights)
            loss = minimised(here.loss(method, options))
        found = tape.gradient(loss, here.network.weights, unconnected_gradients="zero")
        assert all(np.isfinite(part).all() for part in (loss, *found))


@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
def test_gradient_is_that_of_finite_differences(method, model):
    here = task(model, 0.5)
    options = Options(clean_share=0.3, regulariser=0.5)

    def loss(weights):
        return minimised(here.with_weights(weights).loss(method, options))

    with tf.GradientTape() as tape:
        tape.watch(here.network.weights)
        value = loss(here.network.weights)
    found = tape.gradient(value, here.network.weights, unconnected_gradients="zero")
    rng = np.random.default_rng(0)
    way = [tf.constant(rng.normal(size=w.shape)) for w in here.network.weights]
    step = 1e-6
    ahead, behind = (
        loss([w + sign * step * d for w, d in zip(here.network.weights, way, strict=True)])
        for sign in (1, -1)
    )
    slope = sum(float(tf.reduce_sum(g * d)) for g, d in zip(found, way, strict=True))
    np.testing.assert_allclose(slope, float(ahead - behind) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("method", INTERVAL_LOSSES)
def test_a_compiled_step_in_pieces_is_that_of_the_whole_batch(method):
    """Loops within branches and branches within loops have the gradients of convolutions, too."""
    found, options = [], {"attack_steps": 2, "share": 0.5, "regulariser": 0.5}
    for microbatch in (0, 4):
        trained = nets.two_conv(3)
        given = StepOptions.of(microbatch=microbatch, **options)
        step = TrainStep(trained, None, keras.optimizers.SGD(1e-2), method, options=given)
        x = tf.constant(nets.images(trained, COUNT, seed=2), tf.float32)
        metrics = step(x, Y, tf.constant(EPS))
        found.append([metrics["loss"], *trained.get_weights()])
    for whole, pieces in zip(*found, strict=True):
        np.testing.assert_allclose(whole, pieces, rtol=1e-4, atol=1e-6)


def test_regulariser_is_the_formula_and_rests_where_nothing_is_amiss():
    width = tf.fill((2, 4), tf.constant(0.1, tf.float64))
    region = ball(0.5 * tf.ones_like(width), tf.constant(0.1, tf.float64))
    # Two active units at 2 and 4, two dead ones at -2 and -4: balanced in both ways.
    centre = tf.constant([[2.0, 4.0, -2.0, -4.0]] * 2, tf.float64)
    calm = {1: (centre - 0.1, centre + 0.1)}
    np.testing.assert_allclose(regularised(region, calm), 0.0, atol=1e-12)
    # Five times the width: 1 - (1 / 5) / 0.5 = 0.6. Both layers counted: half of it.
    wide = {1: calm[1], 2: (centre - 0.5, centre + 0.5)}
    np.testing.assert_allclose(regularised(region, wide), 0.3, rtol=1e-9)
    # All units active: both ratios are 0, each costs 1.
    above = {1: (centre + 5.0, centre + 5.2)}
    np.testing.assert_allclose(regularised(region, above), 2.0, rtol=1e-9)
    # Another spread in every example: the formula over all entries of the batch.
    rng = np.random.default_rng(5)
    low = rng.normal(0.3, 1.0, (2, 7))
    high = low + rng.uniform(0.1, 0.9, (2, 7))
    middle, kinds = (low + high) / 2, (low > 0, high < 0)
    terms = [0.1 / ((high - low) / 2).mean()]
    for size in (np.abs(middle), (middle - middle.mean()) ** 2):
        one, other = (size[kind].sum() for kind in kinds)
        terms.append(min(one, other) / max(one, other))
    expected = sum(max(0, 1 - term / 0.5) for term in terms)
    assert 0 < expected < 3
    found = regularised(region, {1: (tf.constant(low), tf.constant(high))})
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("method", INTERVAL_LOSSES)
def test_a_step_descends(method):
    keras.utils.set_random_seed(1)
    hidden = keras.layers.Dense(30, activation="relu")
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), hidden, keras.layers.Dense(10)]
    )
    digits = data.load("digits", "train", 100)
    x, y = map(tf.constant, digits)
    step = TrainStep(
        model,
        None,
        keras.optimizers.Adam(2e-3),
        method,
        options=StepOptions.of(share=0.3, regulariser=0.1, eps_end=0.02),
    )
    losses = [float(step(x, y, tf.constant(0.02 * min(1, k / 60)))["loss"]) for k in range(120)]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert step.traces == 1


@pytest.mark.parametrize("method", INTERVAL_LOSSES)
def test_a_ramp_to_radius_zero_trains_on_the_images_themselves(method):
    model = nets.dense(1)
    options = StepOptions.of(eps_end=0.0)
    step = TrainStep(model, None, keras.optimizers.SGD(0.0), method, options=options)
    x, y = tf.constant(nets.images(model, 4, seed=3)), tf.constant([0, 1, 2, 0])
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model(x))
    assert float(step(x, y, tf.constant(0.0))["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_sabr_regularises_the_bounds_by_the_small_box_that_they_are_over(model):
    here, share = task(model, 0.0), 0.1
    losses = []
    for weight in (0.0, 0.5):
        found = here.loss("sabr", Options(share=share, regulariser=weight))
        losses.append(minimised(found))
    far = (1 - share) * here.batch.eps
    centre = here.batch.x + tf.clip_by_value(attacked(*here, 8) - here.batch.x, -far, far)
    region = ball(centre, share * here.batch.eps, box=(0.0, 1.0))
    bounds, _ = interval_margins(here.network, region, here.batch.y)
    expected = 0.5 * float(regularised(region, bounds))
    assert expected > 0
    np.testing.assert_allclose(losses[1] - losses[0], expected, rtol=1e-9)


def test_interval_initialisation_has_its_spread_and_no_biases():
    model = models.build("mnist_small", seed=0, init="interval")
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            fan_in = np.prod(kernel.shape[:-1])
            assert kernel.std() == pytest.approx(np.sqrt(2 * np.pi) / fan_in, rel=0.1)
            assert not bias.any()
    with pytest.raises(ValueError, match="init: expected one of fan_in, interval; got 'best'"):
        models.build("mnist_small", init="best")
