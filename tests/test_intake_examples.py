"""Data sets where arrays go: the answers for their arrays, or one line that says why not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from robustra_tf.intake import examples

SHAPE, COUNT, CLASSES, EPS = (3,), 7, 4, 0.05
RNG = np.random.default_rng(3)
X = RNG.uniform(0.2, 0.8, (COUNT, *SHAPE)).astype("float32")
Y = RNG.integers(CLASSES, size=COUNT)


class Batches(keras.utils.PyDataset):
    """Three examples at a time."""

    endless = False

    @property
    def num_batches(self):
        return None if self.endless else -(-COUNT // 3)

    def __getitem__(self, index):
        return X[3 * index : 3 * index + 3], Y[3 * index : 3 * index + 3]


class Endless(Batches):
    endless = True


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


GIVEN = {
    "batched": lambda: dataset(X, Y).batch(2),
    "single examples": lambda: dataset(X, Y),
    "a PyDataset": Batches,
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(8, activation="relu")
    return keras.Sequential([keras.Input(SHAPE), hidden, layers.Dense(CLASSES)])


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_data_set_gives_its_arrays_in_order(given):
    x, y = examples.arrays(given(), None, SHAPE)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


def test_what_is_proven_and_found_is_that_of_the_arrays(model):
    for given in (dataset(X, Y).batch(3), Batches()):
        certificate = rt.certify(model, given, None, EPS, method="interval")
        expected = rt.certify(model, X, Y, EPS, method="interval")
        np.testing.assert_array_equal(certificate.margin_lower, expected.margin_lower)
    attack = rt.Attack(model, steps=3, restarts=1)
    np.testing.assert_array_equal(attack(dataset(X, Y), None, 0.3).margin, attack(X, Y, 0.3).margin)


def test_training_takes_a_data_set_for_its_examples(model):
    """From the same weights, the same steps."""
    plan = rt.TrainingPlan(eps=EPS, epochs=1, eps_warmup_epochs=0, method="natural", batch_size=4)
    begun, ended = model.get_weights(), []
    for train in ((X, Y), dataset(X, Y)):
        model.set_weights(begun)
        rt.train(model, train, plan)
        ended.append(model.get_weights())
    model.set_weights(begun)
    for one, other in zip(*ended, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(begun, ended[0], strict=True))


def generator():
    yield X[0], Y[0]


UNKNOWN = (tf.TensorSpec(SHAPE), tf.TensorSpec((), tf.int64))
REFUSED = {
    "endless": (lambda: dataset(X, Y).repeat(), None, "must be of known size.*take"),
    "unknown": (
        lambda: tf.data.Dataset.from_generator(generator, output_signature=UNKNOWN),
        None,
        "must be of known size.*assert_cardinality",
    ),
    "an endless PyDataset": (
        Endless,
        None,
        "must have an end, the PyDataset Endless of",
    ),
    "no labels": (lambda: dataset(X), None, "must give pairs .* gives 1 values"),
    "weights": (lambda: dataset(X, Y, Y).batch(2), None, "must give pairs .* gives 3 values"),
    "a dictionary": (
        lambda: tf.data.Dataset.from_tensor_slices({"x": X, "y": Y}).batch(2),
        None,
        "must give pairs .* gives dict",
    ),
    "labels twice": (lambda: dataset(X, Y), Y, "y must be None where x is a tf.data.Dataset"),
    "no labels of arrays": (lambda: X, None, "y must be given beside images"),
    "other images": (lambda: dataset(X[:, :2], Y).batch(2), None, r"x must have shape \[n, \*\(3,"),
    "0..255": (
        lambda: dataset(255 * X, Y).batch(2),
        None,
        r"got values .*: divide them by 255",
    ),
    "NaN": (lambda: dataset(X * np.nan, Y).batch(2), None, "x must be finite"),
    "another class": (lambda: dataset(X, Y + CLASSES).batch(2), None, "y must lie in 0..3"),
    "one-hot": (
        lambda: dataset(X, np.eye(CLASSES)[Y]).batch(2),
        None,
        "y must be one axis of integers",
    ),
}


@pytest.mark.parametrize(("x", "y", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_data_set_is_refused_in_one_line(model, x, y, message):
    with pytest.raises(ValueError, match=message) as raised:
        rt.certify(model, x(), y, EPS, method="interval")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((X,), r"train: expected \(images, labels\) or a data set of both, got a tuple"),
        ((255 * X, Y), r"train: x must lie in the box \[0, 1\]"),
        ((X, Y + CLASSES), "train: y must lie in 0..3"),
        (X, "train: .* got a ndarray"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_the_arguments_name(model, train, message):
    plan = rt.TrainingPlan(eps=EPS, epochs=1, method="natural")
    with pytest.raises(ValueError, match=message):
        rt.train(model, train, plan)
    with pytest.raises(ValueError, match=message.replace("train", "test")):
        rt.train(model, (X, Y), plan, test=train)
