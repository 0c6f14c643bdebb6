"""Complete verification of a trained network with identity skips and pooling."""

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812

from robustra_tf import data
from robustra_tf.attacks import attack, contained
from robustra_tf.exact import Status, Verifier

IMAGES = 4


def block(x):
    """A residual block whose skip starts behind a ReLU."""
    h = L.Conv2D(8, 3, padding="same", activation="relu")(x)
    return L.ReLU()(L.Add()([L.Conv2D(8, 3, padding="same")(h), x]))


def network(epochs=6):
    """Trained on the digits, the seed fixed: (model, test images, labels, accuracy)."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = L.AveragePooling2D(2)(block(x))
    x = L.Flatten()(block(x))
    model = keras.Model(inputs, L.Dense(10)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    train, test = data.load("digits", "train"), data.load("digits", "test")
    model.fit(*train, batch_size=32, epochs=epochs, verbose=0)
    accuracy = model.evaluate(*test, verbose=0)[1]
    return model, *test, accuracy


def decided(model, x, y, eps, seconds=20.0):
    """The verdicts; none contradicts an attack or its own witness."""
    found = attack(model, x, y, eps, steps=20, restarts=5)
    attacked = found.success
    verifier = Verifier(model, eps, time_limit=seconds)
    verdicts = [verifier.verify(image, int(label)) for image, label in zip(x, y, strict=True)]
    for k, verdict in enumerate(verdicts):
        assert not (attacked[k] and verdict.status is Status.VERIFIED), (k, verdict)
        if verdict.status is Status.FALSIFIED:
            assert contained(x[k][None], verdict.witness[None], eps, "linf", (0.0, 1.0)).all()
            assert model(verdict.witness[None]).numpy().argmax() == verdict.target != y[k]
    return verdicts


@pytest.fixture(scope="module")
def trained():
    return network()


@pytest.mark.parametrize("eps", [0.01, 0.03])
def test_a_trained_residual_network_is_decided(trained, eps):
    model, x, y, accuracy = trained
    assert accuracy > 0.9
    verdicts = decided(model, x[:IMAGES], y[:IMAGES], eps)
    assert all(verdict.status is not Status.UNKNOWN for verdict in verdicts)
    assert any(verdict.status is Status.VERIFIED for verdict in verdicts)


@pytest.mark.parametrize("solver", ["auto", "branch", "highs", "batched"])
def test_a_leaf_with_margin_zero_does_not_end_the_search(solver):
    """Of two equal units one is on and one off only where both are zero, and so is the margin."""
    inputs = keras.Input((3,))
    h = L.Dense(2, activation="relu")(inputs)
    logits = L.ReLU()(L.Dense(2, activation="relu")(L.Add()([h, h])))
    model = keras.Model(inputs, logits)
    model.layers[1].set_weights([-np.array([[1.0, 1], [0.9, 0.9], [0.8, 0.8]]), np.full(2, 0.3)])
    model.layers[3].set_weights([np.array([[0, 1.6], [0, -0.3]]), np.zeros(2)])
    # In one corner of the ball alone units are on: no gradient leads there.
    verifier = Verifier(model, 0.11, norm="l1", solver=solver)
    verdict = verifier.verify(np.array([0.4, 0, 0], np.float32), 0)
    assert verdict.status is Status.FALSIFIED
    assert model(verdict.witness[None]).numpy().argmax() == 1


@pytest.mark.parametrize("solver", ["branch", "highs"])
def test_a_network_of_which_no_unit_is_left_has_its_constant_margin(solver):
    """Intervals find dead what Wong and Kolter's bounds do not: the programme has no column."""
    model = keras.Sequential(
        [keras.Input((2,)), L.Dense(2, "relu"), L.Dense(2, "relu"), L.Dense(2)]
    )
    last = np.array([[-5.0, 5.0], [-3.0, 3.0]])
    model.set_weights(
        [np.eye(2), np.zeros(2), -np.ones((2, 2)), np.full(2, -0.01), last, np.array([0.1, 0.0])]
    )
    verdict = Verifier(model, 0.5, box=None, solver=solver).verify(np.zeros(2, "f4"), 0)
    assert verdict.status is Status.VERIFIED
    assert verdict.margin_lower == pytest.approx(0.1, abs=1e-6)
