"""What `fit` and `evaluate` refuse of their data, and a step that is not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from tests import nets

COUNT, EPS = 6, 0.05
Y = np.array([0, 1, 2, 0, 1, 2])


def normalised():
    """Its batch normalisation has running statistics to lose."""
    model = keras.Sequential(
        [
            keras.Input((3, 3, 1)),
            layers.Flatten(),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(nets.CLASSES),
        ]
    )
    return nets.randomise(model, 1)


@pytest.fixture(scope="module")
def learner():
    """A compiled model, its images, and its weights to begin with; steps change them."""
    model = normalised()
    certified = rt.CertifiedModel(model, "ibp", EPS)
    certified.compile(keras.optimizers.Adam(0.01))
    return certified, nets.images(model, COUNT, seed=4)


def state(certified):
    """All that a step may change: weights, statistics and the optimizer."""
    return [v.numpy() for v in (*certified.network.variables, *certified.optimizer.variables)]


def standardised(x):
    return (x - x.mean()) / x.std()


def with_one(value):
    def change(x):
        x = x.copy()
        x[3, 1, 2, 0] = value
        return x

    return change


VALUES = {
    "0..255": (lambda x: np.round(255 * x), r"x must lie in the box \[0, 1\], got values in \[\d"),
    "standardised": (standardised, r"x must lie in the box \[0, 1\], got values in \[-\d"),
    "a hair above": (with_one(1.0001), r"x must lie in the box \[0, 1\], .*, 1.0001\]: pixels"),
    "NaN": (with_one(np.nan), "x must be finite, got NaN or infinity"),
    "infinite": (with_one(np.inf), "x must be finite, got NaN or infinity"),
}
LABELS = {
    "above the classes": (Y + 1, r"y must lie in 0\.\.2, got 1\.\.3"),
    "below them": (Y - 1, r"y must lie in 0\.\.2, got -1\.\.1"),
    "above, as [n, 1]": (Y[:, None] + 5, r"y must lie in 0\.\.2, got 5\.\.7"),
    "a class and 2**32": (Y + 2**32, r"y must lie in 0\.\.2, got 4294967296\.\.4294967298"),
    "a class and 2**63": (
        Y.astype("uint64") + 2**63,
        r"y must lie in 0\.\.2, got 92233720368547758",
    ),
}
BATCHES = {name: (change, Y, told) for name, (change, told) in VALUES.items()}
BATCHES |= {name: (lambda x: x, y, told) for name, (y, told) in LABELS.items()}


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, "fit") for name in BATCHES]
    + [
        (name, way)
        for name in ("standardised", "below them", "a class and 2**32")
        for way in ("evaluate", "tf.data", "one batch", "validation")
    ],
)
def test_data_that_are_none_are_refused_in_one_line(learner, name, way):
    certified, good = learner
    change, y, told = BATCHES[name]
    x = change(good)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    before = state(certified)
    ways = {
        "fit": lambda: certified.fit(x, y, verbose=0),
        "evaluate": lambda: certified.evaluate(x, y, verbose=0),
        "tf.data": lambda: certified.fit(data, verbose=0),
        "one batch": lambda: (
            certified.test_on_batch if len(name) % 2 else certified.train_on_batch
        )(x, y),
        "validation": lambda: certified.fit(good, Y, validation_data=(x, y), verbose=0),
    }
    with pytest.raises(ValueError, match=f"^{told}") as raised:
        ways[way]()
    assert "\n" not in str(raised.value)
    if way in ("fit", "evaluate"):  # the others may have come to a good batch before
        for old, new in zip(before, state(certified), strict=True):
            np.testing.assert_array_equal(new, old)


def test_what_is_known_before_a_step_is_refused_without_one(learner):
    certified, x = learner
    for images, labels, told in (
        (x, Y.astype("float32"), "y must be integer labels, got float32"),
        (x, Y + 0.7, "y must be integer labels, got float"),
        (x, Y > 0, "y must be integer labels, got bool"),
        (x, np.eye(4, dtype=int)[Y], r"y must be one integer label .*\[n, 3\], got .*6,? 4"),
        (x[:, :2], Y, r"x must have shape \[n, 3, 3, 1\], got .*2,? 3,? 1"),
        (x[..., 0], Y, r"x must have shape \[n, 3, 3, 1\], got .*3,? 3[\])]"),
    ):
        for way in (certified.fit, certified.evaluate):
            with pytest.raises(ValueError, match=told):
                way(images, labels, verbose=0)


def test_sizes_that_only_a_step_knows_are_refused_in_it(learner):
    certified, x = learner
    sizes = tf.TensorSpec((None, None, None, 1)), tf.TensorSpec((None,), tf.int64)

    def fed(images, labels):
        data = tf.data.Dataset.from_generator(lambda: [(images, labels)], output_signature=sizes)
        return certified.evaluate(data, verbose=0, return_dict=True)

    assert fed(x, Y) == certified.evaluate(x, Y, verbose=0, return_dict=True)
    with pytest.raises(ValueError, match=r"^x must have shape \[n, 3, 3, 1\], got \[6 2 3 1\]$"):
        fed(x[:, :2], Y)
    with pytest.raises(
        ValueError, match=r"^y must have a label for each image, got 6 images and 5"
    ):
        fed(x, Y[:5])


def test_run_eagerly_refuses_alike():
    model = normalised()
    certified = rt.CertifiedModel(model, "natural", EPS)
    certified.compile("sgd", run_eagerly=True)
    x = nets.images(model, COUNT)
    for images, labels, told in ((255 * x, Y, "x must lie in the box"), (x, Y + 3, "y must lie")):
        with pytest.raises(ValueError, match=f"^{told}"):
            certified.fit(images, labels, verbose=0)


def test_good_data_are_taken_as_ever(learner):
    certified, x = learner
    x = x.copy()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.0, 1.0
    for labels in (Y, Y[:, None]):
        assert np.isfinite(certified.fit(x, labels, verbose=0).history["loss"]).all()


def test_a_step_that_is_not_finite_changes_nothing_and_says_so(learner):
    certified, x = learner
    kept = certified.network.get_weights()
    ruined = [np.full_like(w, 3e38) for w in kept[:2]] + kept[2:]
    certified.network.set_weights(ruined)
    before = state(certified)
    logs = certified.fit(x, Y, epochs=2, verbose=0).history
    assert np.isnan(logs["loss"]).all()
    assert logs["certified_accuracy"] == logs["accuracy"] == [0.0, 0.0]
    for old, new in zip(before, state(certified), strict=True):
        np.testing.assert_array_equal(new, old)
    assert certified.evaluate(x, Y, verbose=0)[1:] == [0.0, 0.0]
    # The same step goes on from weights that are fine.
    certified.network.set_weights(kept)
    steps = int(certified.optimizer.iterations)
    assert np.isfinite(certified.fit(x, Y, verbose=0).history["loss"]).all()
    assert int(certified.optimizer.iterations) == steps + 1
    moved = [
        np.abs(a - b).max() for a, b in zip(kept, certified.network.get_weights(), strict=True)
    ]
    assert np.isfinite(moved).all()
    assert min(moved[2:]) > 0


def test_a_rate_that_leads_beyond_all_numbers_leaves_numbers():
    """The first step is finite, and far too long; no later one is."""
    model = normalised()
    certified = rt.CertifiedModel(model, "wong", EPS)
    certified.compile(keras.optimizers.SGD(1e30))
    x = nets.images(model, COUNT, seed=4)
    logs = certified.fit(x, Y, epochs=3, verbose=0).history
    assert np.isfinite(logs["loss"][0])
    assert np.isnan(logs["loss"][1:]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())
