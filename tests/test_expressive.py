"""Losses between an attack and intervals, against sums in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robustra_tf as rt
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.graph import build
from robustra_tf.objective.batch import Batch
from robustra_tf.objective.batch import LossOptions as Options
from robustra_tf.objective.interval_losses import INTERVAL_LOSSES, attacked
from robustra_tf.training.step import TrainStep
from tests import nets

pytestmark = pytest.mark.usefixtures("eager")
EXPRESSIVE = ("mtl_ibp", "cc_ibp", "exp_ibp")
Y = np.array([0, 1, 2, 0])


@pytest.fixture(scope="module")
def case():
    """A network in float64 and a batch, attacked images and bounds of margins over the balls."""
    model = nets.dense(3)
    x = tf.constant(nets.images(model, len(Y), seed=2), tf.float64)
    eps, progress = (tf.constant(value, tf.float64) for value in (0.08, 1.0))
    draw = tf.random.stateless_uniform(x.shape, (3, 4), dtype=x.dtype)
    network = build(model).network(tf.float64)
    batch = Batch(x, tf.constant(Y), eps, progress, draw)
    upper = interval_margins(network, ball(x, eps, box=(0.0, 1.0)), batch.y).upper.numpy()
    return network, batch, upper


def cross_entropy(margins):
    """Of margins `f_t - f_y` [n, classes]: `log sum_t exp(f_t - f_y)`."""
    return np.array([np.log(sum(np.exp(value) for value in row)) for row in margins])


def margins_at(network, point):
    logits = network(point).numpy()
    return logits - logits[np.arange(len(Y)), Y][:, None]


def expected(method, attack, upper, share):
    if method == "cc_ibp":
        return cross_entropy((1 - share) * attack + share * upper)
    two = cross_entropy(attack), cross_entropy(upper)
    if method == "mtl_ibp":
        return (1 - share) * two[0] + share * two[1]
    return two[0] ** (1 - share) * two[1] ** share


@pytest.mark.parametrize("method", EXPRESSIVE)
@pytest.mark.parametrize("ratio", [1.0, 1.7])
def test_losses_are_the_papers(method, ratio, case):
    network, batch, upper = case
    attack = margins_at(network, attacked(network, batch, 3, ratio))
    for share in (0.0, 0.2, 0.9, 1.0):
        options = Options(share=share, attack_steps=3, attack_ratio=ratio)
        found = INTERVAL_LOSSES[method](network, batch, options)
        wanted = expected(method, attack, upper, share)
        np.testing.assert_allclose(found.each, wanted, rtol=1e-10)
        np.testing.assert_allclose(found.upper, upper, rtol=1e-12)
    ends = cross_entropy(attack), cross_entropy(upper)
    for share, end in zip((0.0, 1.0), ends, strict=True):
        np.testing.assert_allclose(expected(method, attack, upper, share), end, rtol=1e-12)
    assert np.all(ends[0] < ends[1])


def test_losses_grow_from_the_attack_to_the_bounds(case):
    """The arithmetic mean of the losses lies above the geometric one and the loss of the mean."""
    network, batch, _ = case
    at = {
        name: [
            INTERVAL_LOSSES[name](network, batch, Options(share=share)).each.numpy()
            for share in (0.0, 0.3, 0.7, 1.0)
        ]
        for name in EXPRESSIVE
    }
    for losses in at.values():
        assert np.all(np.diff(losses, axis=0) > 0)
    for name in ("cc_ibp", "exp_ibp"):
        assert np.all(at[name][1] < at["mtl_ibp"][1])


def test_a_larger_radius_of_attacks_reaches_beyond_the_ball(case):
    network, batch, _ = case
    moved = np.abs(attacked(network, batch, 4, 2.0) - batch.x).max()
    assert 0.08 < moved <= 0.16 + 1e-12
    assert np.abs(attacked(network, batch, 4) - batch.x).max() <= 0.08 + 1e-12


@pytest.mark.parametrize("method", EXPRESSIVE)
def test_gradients_are_those_of_finite_differences(method, case, monkeypatch):
    """At attacked images that are held: they are constants for the gradient."""
    network, batch, _ = case
    point = attacked(network, batch, 2)
    home = "robustra_tf.objective.interval_losses.attacked"
    monkeypatch.setattr(home, lambda *arguments: point)
    options = Options(share=0.4, clean_share=0.3)

    def loss(weights):
        found = INTERVAL_LOSSES[method](network.with_weights(weights), batch, options)
        return tf.reduce_mean(found.each)

    with tf.GradientTape() as tape:
        tape.watch(network.weights)
        value = loss(network.weights)
    slopes = tape.gradient(value, network.weights)
    rng = np.random.default_rng(0)
    way = [rng.normal(size=w.shape) for w in network.weights]
    ahead, behind = (
        float(loss([w + sign * 1e-6 * d for w, d in zip(network.weights, way, strict=True)]))
        for sign in (1, -1)
    )
    slope = sum(float(tf.reduce_sum(g * d)) for g, d in zip(slopes, way, strict=True))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-6)


def test_a_loss_of_zero_leaves_a_geometric_mean_and_its_gradient_finite(case):
    """Margins so wide that the cross-entropy is 0 in float32."""
    _, batch, _ = case
    model = nets.dense(3)
    logits = model.layers[-1]
    logits.kernel.assign(tf.zeros_like(logits.kernel))
    logits.bias.assign([200.0, 0.0, 0.0])
    graph = build(model)
    x, y = tf.cast(batch.x, tf.float32), tf.zeros(4, tf.int32)
    here = Batch(x, y, tf.constant(0.05), draw=tf.cast(batch.draw, tf.float32))
    network = graph.network()
    with tf.GradientTape() as tape:
        tape.watch(network.weights)
        each = INTERVAL_LOSSES["exp_ibp"](network, here, Options(share=0.01)).each
        total = tf.reduce_sum(each)
    found = tape.gradient(total, network.weights, unconnected_gradients="zero")
    assert all(np.isfinite(part).all() for part in (each, *found))
    np.testing.assert_allclose(each, 1e-12, rtol=1e-3)


def test_a_penalty_on_weights_adds_their_sizes_to_loss_and_gradient():
    """Of kernels alone; before the gradient is cut."""
    steps = []
    for l1 in (0.0, 0.25):
        model = nets.dense(2)
        x = tf.constant(nets.images(model, len(Y), seed=4), tf.float32)
        options = rt.StepOptions.of(l1=l1, eps_end=0.05)
        step = TrainStep(model, None, keras.optimizers.SGD(1.0), "ibp", options=options)
        before = [v.numpy() for v in model.trainable_variables]
        metrics = step(x, tf.constant(Y), tf.constant(0.05))
        after = [v.numpy() for v in model.trainable_variables]
        steps.append((float(metrics["loss"]), before, after))
    (plain, weights, moved), (penalised, same, other) = steps
    kernels = [w for w in weights if w.ndim > 1]
    wanted = 0.25 * sum(np.abs(w).sum() for w in kernels)
    assert penalised - plain == pytest.approx(wanted, rel=1e-5)
    for start, one, two in zip(weights, moved, other, strict=True):
        slope = 0.25 * np.sign(start) if start.ndim > 1 else np.zeros_like(start)
        np.testing.assert_allclose(one - two, slope, atol=1e-5)
    np.testing.assert_array_equal(same[0], weights[0])


@pytest.mark.parametrize("method", ["cc_ibp", "exp_ibp"])
def test_keras_fit_takes_the_same_step(method, monkeypatch):
    """Random starts are drawn anew by `fit`: here they are the corner of the ball."""
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda shape, *a, **k: tf.zeros(shape))
    ours, theirs = nets.dense(2), nets.dense(2)
    x = nets.images(ours, len(Y), seed=4)
    options = rt.StepOptions.of(share=0.3, attack_steps=2, attack_ratio=1.5, l1=0.01)
    certified = rt.CertifiedModel(ours, method, 0.05, options=options, eps_train_ratio=1.4)
    certified.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    loss = certified.fit(x, Y, batch_size=4, shuffle=False, verbose=0).history["loss"]
    options = options.with_losses(eps_end=0.07)
    step = TrainStep(theirs, None, keras.optimizers.Adam(0.01), method, options=options)
    found = step(tf.constant(x), tf.constant(Y), tf.constant(0.07))
    assert loss == [pytest.approx(float(found["loss"]), rel=1e-5)]
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)
