"""Batch normalisation in training: Keras's own statistics, the gradient, pieces, and who moves."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf import CertifiedModel, data
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.graph import build
from robustra_tf.objective.interval_losses import regulariser
from robustra_tf.objective.losses import robust_cross_entropy
from robustra_tf.training.batch_norm import (
    gradients_in_training,
    moved,
    normalised,
    running,
)
from robustra_tf.training.gradient import StepGradient
from robustra_tf.training.options import StepOptions
from robustra_tf.training.problem import solve
from robustra_tf.training.pure_step import PureStep
from robustra_tf.training.step import TrainStep
from tests import nets

pytestmark = pytest.mark.usefixtures("eagerly")

COUNT, EPS, LR = 6, 0.05, 0.1
Y = tf.constant([0, 1, 2, 0, 1, 2])


@pytest.fixture
def model():
    found = nets.batch_norm(3)
    # Dropout, which training here never applies, would blur what Keras does with training=True.
    found.layers[-2].rate = 0.0
    return found


def images(model):
    return nets.images(model, COUNT, seed=2)


def statistics(model):
    kinds = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    return [v.numpy() for x in kinds for v in (x.moving_mean, x.moving_variance)]


def test_logits_and_running_statistics_are_kerass(model):
    graph, x = build(model), tf.constant(images(model))
    found = running(model, graph)
    network = graph.network()
    batch = normalised(network, found, x)
    logits = batch(x)
    after = moved(found, network, batch)
    np.testing.assert_allclose(logits, model(x, training=True), rtol=1e-4, atol=1e-5)
    assert len(after) == 4
    for place, value in after.items():
        np.testing.assert_allclose(value, graph.variables[place], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["natural", "ibp", "crown_ibp", "wong"])
def test_gradient_is_that_of_finite_differences(model, method):
    """Through the statistics too: in float64, along a random direction of all trained weights."""
    options = StepOptions.of(regulariser=0.5, eps_end=0.1)
    posed = StepGradient(model, None, method, options)
    problem, found = posed.problem, running(model, posed.graph)
    x, eps = tf.constant(images(model), tf.float64), tf.constant(EPS, tf.float64)
    network, batch = posed.graph.network(tf.float64), problem.batch(x, Y, eps)
    weights = network.weights
    gradient = gradients_in_training(problem, found, network, None, batch, COUNT).weights
    moving = {place for one in found for place in (one.mean, one.variance)}
    rng = np.random.default_rng(0)
    way = [rng.normal(size=w.shape) * (k not in moving) for k, w in enumerate(weights)]
    step = 1e-4

    def loss(sign):
        # The loss itself comes back in float32: it is computed once more, in float64.
        there = [w + sign * step * d for w, d in zip(weights, way, strict=True)]
        return minimised(problem, normalised(network.with_weights(there), found, x), batch)

    slope = sum(float(tf.reduce_sum(g * d)) for g, d in zip(gradient, way, strict=True))
    np.testing.assert_allclose(slope, float(loss(1) - loss(-1)) / (2 * step), rtol=1e-5)
    # Of the running statistics, which the loss does not see, there is none.
    assert all(not gradient[place].numpy().any() for place in moving)


def minimised(problem, network, batch):
    solved = solve(problem, network, None, batch)
    loss = tf.reduce_mean(solved.each)
    if solved.spread is not None:
        loss += solved.weight * regulariser(tf.reduce_mean(solved.spread, 0))
    return loss


def test_ibp_goes_through_the_normalisation_of_the_clean_batch(model):
    """Not of the bounds' own statistics: the interval margins of the network folded by hand."""
    graph, x = build(model), tf.constant(images(model))
    found = running(model, graph)
    problem = StepGradient(model, None, "ibp", StepOptions.of(eps_end=EPS)).problem
    batch = problem.batch(x, tf.constant(Y), tf.constant(EPS))
    measured = gradients_in_training(problem, found, graph.network(), None, batch, COUNT).measured
    there = normalised(graph.network(), found, x)
    for place, value in enumerate(there.weights):
        graph.variables[place].assign(value)
    region = ball(x, tf.constant(EPS), box=(0.0, 1.0))
    upper = interval_margins(build(model).network(), region, Y).upper
    expected = tf.reduce_mean(robust_cross_entropy(upper, Y))
    np.testing.assert_allclose(measured["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["ibp", "wong"])
def test_pieces_of_a_batch_share_its_statistics(method):
    """One after the other or all at once: the same weights and statistics afterwards."""
    after = []
    for microbatch in (0, 2):
        model = nets.batch_norm(3)
        options = StepOptions.of(microbatch=microbatch)
        step = TrainStep(model, None, keras.optimizers.SGD(LR), method, options=options)
        step(images(model), Y, tf.constant(EPS))
        after.append(model.get_weights())
    for whole, pieces in zip(*after, strict=True):
        np.testing.assert_allclose(whole, pieces, rtol=1e-4, atol=1e-5)


def test_a_step_moves_the_statistics_of_what_it_trains_and_of_nothing_else(model):
    reference = nets.batch_norm(13)
    before = statistics(model), statistics(reference)
    step = TrainStep(model, reference, keras.optimizers.SGD(LR), "robustra")
    step(images(model), Y, tf.constant(EPS))
    assert all(not np.array_equal(a, b) for a, b in zip(before[0], statistics(model), strict=True))
    for old, new in zip(before[1], statistics(reference), strict=True):
        np.testing.assert_array_equal(old, new)


def test_frozen_layers_keep_theirs_and_are_used_by_them(model):
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    before = statistics(model)
    step = TrainStep(model, None, keras.optimizers.SGD(LR), "natural")
    x = images(model)
    loss = tf.reduce_mean(robust_cross_entropy(model(x, training=False), Y))
    found = step(x, Y, tf.constant(EPS))
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    for old, new in zip(before, statistics(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_loss_that_is_not_finite_moves_no_statistics(model):
    before = model.get_weights()
    step = TrainStep(model, None, keras.optimizers.SGD(LR), "natural")
    x = images(model)
    x[0] = np.nan
    step(x, Y, tf.constant(EPS))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.traced
def test_the_pure_step_and_keras_fit_do_the_same_as_the_step():
    x, y = data.load("digits", "train", 20)

    def make():
        conv = layers.Conv2D(2, 4, strides=4, use_bias=False)
        stack = [conv, layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
        model = keras.Sequential([keras.Input((8, 8, 1)), *stack, layers.Dense(10)])
        return nets.randomise(model, 4)

    stepped, fitted, pure = make(), make(), make()
    step = TrainStep(stepped, None, keras.optimizers.SGD(LR), "wong")
    step(x, y, tf.constant(EPS))
    certified = CertifiedModel(fitted, method="wong", eps=EPS)
    certified.compile(keras.optimizers.SGD(LR))
    certified.fit(x, y, batch_size=20, verbose=0)
    exported = PureStep(pure, None, keras.optimizers.SGD(LR), "wong")
    values = (tf.constant(x), tf.constant(y), exported.reference())
    state, _ = exported(exported.state(), *values, tf.constant(EPS), tf.constant(LR))
    theirs = [v.numpy() for v in build(stepped).variables]
    for mine, fit, other in zip(theirs, build(fitted).variables, state.weights, strict=True):
        np.testing.assert_allclose(fit, mine, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(other, mine, rtol=1e-4, atol=1e-5)


def test_layers_inside_a_model_inside_the_model_are_found():
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(4), layers.BatchNormalization()])
    model = keras.Sequential([keras.Input((5,)), inner, layers.ReLU(), layers.Dense(3)])
    assert len(running(model, build(model))) == 1


def test_a_layer_used_twice_is_refused_by_name():
    inputs = keras.Input((4,))
    norm = layers.BatchNormalization(name="twice")
    x = layers.Dense(4, activation="relu")(norm(inputs))
    model = keras.Model(inputs, layers.Dense(3)(norm(x)))
    graph = build(model)
    with pytest.raises(ValueError, match="model: 'twice' is used more than once"):
        running(model, graph)
    norm.trainable = False
    assert running(model, graph) == ()
