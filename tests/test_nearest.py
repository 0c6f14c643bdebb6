"""The descent to the nearest points that are classified wrongly."""

import keras
import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.attacks.nearest import Nearest
from robustra_tf.attacks.replay import distances
from robustra_tf.graph import build
from tests import nets

BOX = (0.0, 1.0)


@pytest.fixture(scope="module")
def halves():
    """Two classes on either side of a plane, images, labels and the plane `w x = offset`."""
    rng = np.random.default_rng(3)
    w, x = rng.normal(size=6), rng.uniform(0.2, 0.8, (8, 6)).astype(np.float32)
    offset = w.sum() / 2
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.set_weights([np.stack([w, -w], 1), np.array([-offset, offset])])
    labels = np.where(x @ w > offset, 0, 1)
    return build(model), x, labels, w, np.abs(x @ w - offset)


DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


@pytest.mark.parametrize("norm", DUAL)
def test_beside_a_plane_it_is_the_nearest_point_of_all(halves, norm):
    graph, x, labels, w, away = halves
    points = Nearest(graph, norm, None, 2.0**20, 40, batch_size=5)(x, labels)
    assert (graph(points).numpy().argmax(1) != labels).all()
    exact = away / np.linalg.norm(w, DUAL[norm])
    found = distances(x, points, norm)
    assert (found >= exact * (1 - 1e-5)).all()
    assert (found <= exact * 1.05).all()


@pytest.mark.parametrize("norm", DUAL)
def test_what_it_finds_of_a_network_lies_in_the_box_and_is_as_near_as_attacks_at_radii(norm):
    model = nets.dense(35)
    x = nets.images(model, 12, seed=5)
    y = model.predict(x, verbose=0).argmax(1)
    limit = {"linf": 1.0, "l2": 3.0, "l1": 9.0}[norm]
    points = Nearest(build(model), norm, BOX, limit, 40)(x, y)
    assert ((points >= 0) & (points <= 1)).all()
    away = distances(x, points, norm)
    hit = away > 0
    assert hit.sum() > 3
    assert (away <= limit * (1 + 1e-6)).all()
    assert (build(model)(points[hit]).numpy().argmax(1) != y[hit]).all()
    # A fifth nearer there is next to nothing for an attack in the ball.
    attack = rt.Attack(model, norm=norm, restarts=1)
    below = attack(x[hit], y[hit], 0.8 * away[hit].reshape(-1, *[1] * (x.ndim - 1)))
    assert below.success.mean() <= 0.25


def test_images_stay_where_they_are_where_nothing_is_found(halves):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.set_weights([np.zeros((6, 2)), np.array([1.0, 0.0])])
    _, x, *_ = halves
    points = Nearest(build(model), "linf", BOX, 1.0, 3)(x, np.zeros(8, int))
    np.testing.assert_array_equal(points, x)
    assert Nearest(build(model), "l1", BOX, 1.0, 3)(x[:0], np.zeros(0, int)).shape == (0, 6)
