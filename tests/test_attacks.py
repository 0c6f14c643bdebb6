"""Attacks: what is reported is real, and no more than the bounds allow."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from robustra_tf import attacks
from robustra_tf.attacks import pgd, steps
from robustra_tf.attacks.ascent import leaking
from robustra_tf.attacks.replay import settle
from robustra_tf.certificates.certify import certify
from tests import nets

NORMS = ("linf", "l2", "l1")
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}


def linear(seed=0, inputs=6):
    """Two logits, affine in the inputs."""
    return nets.randomise(keras.Sequential([keras.Input((inputs,)), layers.Dense(2)]), seed)


def extreme_points(norm, eps, size, rng):
    """Points of the ball that decide whether a projection is the nearest point of all."""
    if norm == "linf":
        return eps * np.array(list(itertools.product((-1, 1), repeat=size)))
    if norm == "l1":
        return eps * np.concatenate([np.eye(size), -np.eye(size)])
    directions = rng.normal(size=(2000, size))
    return eps * directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 0.3, 100.0])
def test_projection_is_the_nearest_point_of_the_ball(norm, eps, rng):
    # p is nearest to d exactly when (d - p).(q - p) <= 0 for every q of the ball.
    deltas = rng.normal(size=(20, 5)) * rng.choice([0.01, 1.0], size=(20, 5))
    points = steps.project(tf.constant(deltas), tf.constant(eps, tf.float64), norm).numpy()
    assert (np.linalg.norm(points, ORDERS[norm], axis=1) <= eps * (1 + 1e-12)).all()
    for delta, point in zip(deltas, points, strict=True):
        others = extreme_points(norm, eps, 5, rng) - point
        assert (others @ (delta - point) <= 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_direction_has_unit_norm_and_rises(norm, rng):
    gradient = rng.normal(size=(6, 40)).astype(np.float32)
    blocked = rng.random((6, 40)) < 0.3
    gradient[0] = 0.0
    found = steps.steepest(tf.constant(gradient), tf.constant(blocked), norm).numpy()
    lengths = np.linalg.norm(found, ORDERS[norm], axis=1)
    np.testing.assert_allclose(lengths, [0.0] + [1.0] * 5, rtol=1e-5)
    assert not found[blocked].any()
    assert (found * gradient >= 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_and_repeat(norm):
    points = np.stack([steps.random_start((4, 3), norm, (0, 1, i)) for i in range(300)])
    lengths = np.linalg.norm(points.reshape(300, -1), ORDERS[norm], axis=1)
    assert lengths.max() <= 1 + 1e-6
    assert lengths.max() > 0.95
    assert abs(points.mean()) < 0.05
    np.testing.assert_array_equal(points[7], steps.random_start((4, 3), norm, (0, 1, 7)))


@pytest.mark.parametrize("pair", [False, True])
def test_an_attack_leaves_a_plateau_where_all_units_are_dead(pair, rng):
    """The one unit lives in a corner of the ball, where no random point comes."""
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(1, activation="relu"), layers.Dense(2)]
    )
    corner = rng.choice([-1.0, 1.0], (12, 1))
    model.set_weights([corner, np.array([-11.0]), np.array([[0.0, 9.0]]), np.array([1.0, 0.0])])
    x, y = np.zeros((1, 12), np.float32), np.array([0])
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    found = rt.attack(rt.Pair(model, other) if pair else model, x, y, eps=1.0, box=None)
    assert found.success.all()
    np.testing.assert_array_equal(np.sign(found.adversarial[0]), corner[:, 0])


def test_what_leaks_changes_no_value():
    z = tf.constant([-2.0, 0.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(z)
        found = leaking(z)
    np.testing.assert_array_equal(found, [0.0, 0.0, 3.0])
    np.testing.assert_allclose(tape.gradient(found, z), [0.1, 0.1, 1.0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", attacks.LOSSES)
def test_a_linear_network_is_attacked_to_its_exact_maximum(norm, loss, rng):
    model = linear()
    kernel, bias = (weight.numpy().astype(np.float64) for weight in model.weights)
    x, y = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 2, 8)
    # With two classes both losses rise with the margin, at most c.(W x + b) + eps ||W c||_*.
    sign = np.where(y == 0, 1.0, -1.0)
    row = kernel[:, 1] - kernel[:, 0]
    reach = 0.2 * np.linalg.norm(row, {"linf": 1, "l2": 2, "l1": np.inf}[norm])
    exact = sign * (x.astype(np.float64) @ row + bias[1] - bias[0]) + reach
    found = attacks.attack(model, x, y, 0.2, norm=norm, box=None, loss=loss, early_stop=False)
    np.testing.assert_allclose(found.margin, exact, rtol=1e-4, atol=1e-4)
    assert (found.margin <= exact + 1e-5).all()


def test_fgsm_is_one_signed_step(rng):
    model, x = linear(), rng.uniform(0.3, 0.7, size=(4, 6)).astype(np.float32)
    y = model(x).numpy().argmax(axis=1)
    found = attacks.fgsm(model, x, y, 0.05, early_stop=False)
    moved = np.abs(found.adversarial - x)
    np.testing.assert_allclose(moved, 0.05, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "norm"), [("two_conv", "linf"), ("residual", "l2"), ("two_conv", "l1")]
)
def test_attack_stays_below_the_bound_and_inside_the_set(name, norm, rng):
    model = nets.ALL[name]()
    x, y = nets.images(model, 12), rng.integers(0, nets.CLASSES, 12)
    eps = {"linf": 0.05, "l2": 0.3, "l1": 1.0}[norm]
    found = attacks.attack(model, x, y, eps, norm=norm, early_stop=False, steps=10)
    assert attacks.contained(x, found.adversarial, eps, norm).all()
    bound = certify(model, x, y, eps, norm=norm, box=(0.0, 1.0))
    assert (found.margin <= -bound.worst_margin + 1e-5).all()
    assert not (found.success & bound.certified).any()
    # An attack worth its name gains on the image itself.
    clean = attacks.replay(model, x, x, y, 0.0).margin
    assert (found.margin >= clean).all()
    assert (found.margin > clean + 1e-3).mean() > 0.8
    np.testing.assert_array_equal(
        found.success, model(found.adversarial).numpy().argmax(axis=1) != y
    )


def test_what_is_found_does_not_depend_on_the_batch(rng):
    model = nets.two_conv()
    x, y = nets.images(model, 9), rng.integers(0, nets.CLASSES, 9)
    whole = attacks.attack(model, x, y, 0.03, restarts=3, steps=5)
    parts = attacks.Attack(model, restarts=3, steps=5, batch_size=2)
    again = [parts(x[i : i + 3], y[i : i + 3], 0.03, np.arange(i, i + 3)) for i in (0, 3, 6)]
    np.testing.assert_allclose(
        np.concatenate([part.adversarial for part in again]), whole.adversarial, atol=1e-6
    )
    np.testing.assert_array_equal(np.concatenate([part.success for part in again]), whole.success)


def test_no_batch_is_begun_at_the_deadline(monkeypatch):
    attack = attacks.Attack(nets.dense(), restarts=2, batch_size=2)
    margin = np.array([-1.0, 1.0, -2.0, 0.0])
    monkeypatch.setattr(pgd.time, "monotonic", lambda: 5.0)
    assert list(attack._rounds(margin, 5.0)) == []
    found = [(k, part.tolist()) for k, part in attack._rounds(margin, 5.1)]
    assert found == [(0, [0, 2]), (0, [3]), (1, [0, 2]), (1, [3])]


def test_radius_zero_succeeds_exactly_on_what_is_misclassified(rng):
    model = nets.conv()
    x, y = nets.images(model, 20), rng.integers(0, nets.CLASSES, 20)
    found = attacks.attack(model, x, y, 0.0, steps=2)
    np.testing.assert_array_equal(found.adversarial, x)
    np.testing.assert_array_equal(found.success, model(x).numpy().argmax(axis=1) != y)


def test_containment_has_no_tolerance():
    x = np.full((1, 2), 0.1, np.float32)
    # The float32 nearest to 0.1 is above it: 0.1 + 0.1 has to be rounded down to stay in the ball.
    edge = settle(x, x + np.float32(0.1), 0.1, "linf", (0.0, 1.0))
    assert attacks.contained(x, edge, 0.1).all()
    assert not attacks.contained(x, np.nextafter(edge, np.float32(1)), 0.1).any()
    assert not attacks.contained(x, np.full_like(x, -1e-30), 0.2).any()
    assert attacks.contained(x, np.full_like(x, -1e-30), 0.2, box=None).all()
    assert not attacks.contained(x, np.full_like(x, np.nan), 0.2, box=None).any()


@pytest.mark.parametrize("norm", NORMS)
def test_settled_points_lie_inside_exactly(norm, rng):
    x = rng.integers(0, 256, size=(50, 7, 5)).astype(np.float32) / np.float32(255)
    delta = rng.normal(size=x.shape)
    length = np.linalg.norm(delta.reshape(50, -1), ORDERS[norm], axis=1)[:, None, None]
    outside = np.clip((x + 0.3 * delta / length * (1 + 1e-6)).astype(np.float32), 0, 1)
    inside = settle(x, outside, 0.3, norm, (0.0, 1.0))
    assert attacks.contained(x, inside, 0.3, norm).all()
    np.testing.assert_allclose(inside, outside, atol=1e-5)


def test_replay_believes_no_claim(rng):
    model = nets.dense()
    x = nets.images(model, 30)
    y = model(x).numpy().argmax(axis=1)
    elsewhere = rng.uniform(size=x.shape).astype(np.float32)
    other_class = model(elsewhere).numpy().argmax(axis=1) != y
    near = attacks.replay(model, x, elsewhere, y, 1.0)
    np.testing.assert_array_equal(near.success, other_class)
    assert other_class.any()
    far = attacks.replay(model, x, elsewhere, y, 1e-3)
    assert not far.success.any()
    broken = attacks.replay(lambda points: model(points) * np.nan, x, x, y, 0.1)
    assert not broken.success.any()


def test_radii_of_one_axis_are_by_pixel_as_everywhere():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False)])
    model.set_weights([np.eye(2)])
    x, elsewhere = [[0.6, 0.4]] * 4, [[0.5, 0.52], [0.6, 0.54], [0.5, 0.4], [0.6, 0.4]]
    by_pixel, by_image = np.array([0.0, 0.15]), np.array([0.15, 0.0, 0.0, 0.0])[:, None]
    bound = certify(model, x, [0] * 4, by_pixel)
    for radii, inside in ((by_pixel, [False, True, False, True]), (by_image, [True, 0, 0, True])):
        np.testing.assert_array_equal(attacks.contained(x, elsewhere, radii), inside)
    assert bound.certified.all()
    assert not attacks.replay(model, x, elsewhere, [0] * 4, by_pixel).success.any()
    found = attacks.replay(model, x, elsewhere, [0] * 4, by_image).success
    np.testing.assert_array_equal(found, [True, False, False, False])
    with pytest.raises(ValueError, match=r"radii by image have shape \(4, 1\)"):
        attacks.replay(model, x, elsewhere, [0] * 4, np.full(4, 0.1))


def test_what_is_replayed_is_what_is_compared():
    # Within the ball in float64, outside it in the float32 that is run.
    point, seen = np.array([[0.1, 0.1]]), []

    def network(points):
        seen.append(points.numpy())
        return points * [0.0, 1.0]

    found = attacks.replay(network, [[0.0, 0.0]], point, [0], 0.1)
    assert (seen[0].astype(np.float64) > 0.1).all()
    assert not found.success.any()
    assert attacks.replay(network, [[0.0, 0.0]], point, [0], 0.11).success.all()


def test_an_attack_transfers_by_replaying_it_elsewhere(rng):
    f, g = nets.conv(1), nets.conv(2)
    x = nets.images(f, 60)
    y = f(x).numpy().argmax(axis=1)
    made_for_g = attacks.attack(g, x, y, 0.3)
    made_for_f = attacks.attack(f, x, y, 0.3)
    transferred = attacks.replay(f, x, made_for_g.adversarial, y, 0.3)
    assert attacks.contained(x, made_for_g.adversarial, 0.3).all()
    # Of the two, that which knows the network finds more.
    assert made_for_f.success.sum() > transferred.success.sum()


def test_tensors_and_lists_are_attacked_as_arrays_are(rng):
    model = nets.dense()
    x, y = nets.images(model, 9), rng.integers(0, nets.CLASSES, 9)
    expected = attacks.attack(model, x, y, np.float32(0.3), steps=5)
    for given in (
        (tf.constant(x), tf.constant(y), tf.constant(0.3)),
        (x.tolist(), y.tolist(), np.float32(0.3)),
        (x, y.astype(np.uint8), np.array(0.3, np.float32)),
    ):
        found = attacks.attack(model, *given, steps=5)
        for name in found._fields:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_result_says_what_it_means(rng):
    model = nets.dense()
    x = nets.images(model, 8)
    y = model(x).numpy().argmax(axis=1)
    y[:2] = (y[:2] + 1) % nets.CLASSES
    found = attacks.attack(model, x, y, 0.0, steps=1)
    assert found.summary() == (
        "2 of 8 images attacked successfully (25.00%): robust error at least 25.00%"
    )
    assert repr(found) == "AttackResult(n=8, success=2, images (5,))"
    none = attacks.attack(model, x[:0], y[:0], 0.1)
    assert (none.adversarial.shape, none.margin.shape, none.success.shape) == ((0, 5), (0,), (0,))
    assert none.summary() == "0 of 0 images attacked successfully (0.00%)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l3"}, "norm must be one of linf, l2, l1, got 'l3'"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"relative_step": 0.0}, "relative_step must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attacks.Attack(nets.dense(), **options)


def test_arguments_that_do_not_fit_are_refused():
    attack = attacks.Attack(nets.dense())
    x = np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match="y must have a label for each of the 2 images, got 1"):
        attack(x, [0], 0.1)
    with pytest.raises(ValueError, match=r"eps must be one finite .* got -0\.1"):
        attack(x, [0, 1], -0.1)
    with pytest.raises(ValueError, match="y must be one axis of integers, got float64"):
        attack(x, [0.0, 1.0], 0.1)
    for wrong in (-1, nets.CLASSES):
        with pytest.raises(ValueError, match=rf"y must lie in 0\.\.2, got .*{wrong}"):
            attack(x, [1, wrong], 0.1)
    with pytest.raises(ValueError, match="x must lie in the box"):
        attack(x + 2, [0, 1], 0.1)
    with pytest.raises(ValueError, match="candidates: expected the images' shape"):
        attacks.contained(x, x[:1], 0.1)
