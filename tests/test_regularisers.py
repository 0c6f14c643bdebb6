"""Regularisers of layers are part of every trainer's loss, as Keras has it; Keras is the judge."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, regularizers

import robustra_tf as rt
from tests import nets

Y = np.array([0, 1, 2, 0])


def model(**last):
    """Regularisers of kernels, a bias, a gamma and, where asked for, of what layers put out."""
    made = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, kernel_regularizer=regularizers.L2(0.3)),
            layers.BatchNormalization(gamma_regularizer=regularizers.L1(0.2)),
            layers.ReLU(),
            layers.Dense(6, "relu", bias_regularizer=regularizers.L1L2(0.1, 0.2), **last),
            layers.Dense(nets.CLASSES),
        ]
    )
    return nets.randomise(made, 2)


ACTIVE = {"activity_regularizer": regularizers.L2(0.4)}


def keras_step(made, x):
    """Keras's own step on the clean loss; the loss."""
    made.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return made.train_on_batch(x, Y)


def assert_alike(one, other):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("last", [{}, ACTIVE], ids=["weights", "activities too"])
def test_every_trainer_takes_the_step_of_keras(last):
    expected, ours, fitted, pure = (model(**last) for _ in range(4))
    x = nets.images(ours, len(Y), seed=3)
    before = expected.get_weights()
    loss = float(keras_step(expected, x))
    step = rt.TrainStep(ours, None, keras.optimizers.SGD(0.1), "natural")
    metrics = step(tf.constant(x), tf.constant(Y), tf.constant(0.1))
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert_alike(ours, expected)

    certified = rt.CertifiedModel(fitted, "natural", 0.1)
    certified.compile(keras.optimizers.SGD(0.1))
    logs = certified.fit(x, Y, batch_size=len(Y), verbose=0).history
    assert logs["loss"] == [pytest.approx(loss, rel=1e-5)]
    assert_alike(fitted, expected)
    judged = certified.evaluate(x, Y, verbose=0)[0]
    assert judged == pytest.approx(expected.evaluate(x, Y, verbose=0), rel=1e-5)

    exported = rt.PureStep(pure, None, keras.optimizers.SGD(0.1), "natural")
    given = tf.constant(x), tf.constant(Y, tf.int32), [], tf.constant(0.1), tf.constant(0.1)
    after, found = exported(exported.state(), *given)
    assert float(found["loss"]) == pytest.approx(loss, rel=1e-5)
    moved = {v.path: v.numpy() for v in expected.variables}
    for value, variable in zip(after.weights, exported._gradient.graph.variables, strict=True):
        (path,) = [v.path for v in pure.variables if v.value is variable]
        name = next(k for k, w in zip(moved, pure.variables, strict=True) if w.path == path)
        np.testing.assert_allclose(value, moved[name], rtol=1e-5, atol=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(before, expected.get_weights(), strict=True)) > 0


def test_they_come_beside_the_bound_too():
    """Against the same step without: the difference is the regulariser's gradient."""
    kinds = {"kernel_regularizer": regularizers.L2(0.5)}
    plain, weighed = (
        keras.Sequential([keras.Input((5,)), layers.Dense(4, "relu", **k), layers.Dense(3)])
        for k in ({}, kinds)
    )
    nets.randomise(plain, 7)
    weighed.set_weights(plain.get_weights())
    kernel, x = plain.layers[0].kernel.numpy(), nets.images(plain, len(Y), seed=3)
    losses = []
    for one in (plain, weighed):
        step = rt.TrainStep(one, None, keras.optimizers.SGD(0.1), "wong")
        metrics = step(tf.constant(x), tf.constant(Y), tf.constant(0.02))
        losses.append(float(metrics["loss"]))
    assert losses[1] - losses[0] == pytest.approx(0.5 * np.square(kernel).sum(), rel=1e-4)
    difference = plain.layers[0].kernel - weighed.layers[0].kernel
    np.testing.assert_allclose(difference, 0.1 * kernel, rtol=1e-4, atol=1e-6)


def test_what_is_frozen_has_none():
    made = model()
    made.layers[0].trainable = False
    gradient = rt.TrainStep(made, None, keras.optimizers.SGD(0.1), "natural")._gradient
    x = nets.images(made, len(Y), seed=3)
    batch = gradient.problem.batch(tf.constant(x), tf.constant(Y, tf.int32), tf.constant(0.1))
    clean = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, made(x))
    terms = sum(float(loss) for loss in made.losses)
    found = gradient.evaluated(*gradient.networks(), batch)
    assert terms > 0
    np.testing.assert_allclose(np.mean(found.loss), float(clean) + terms, rtol=1e-5)


@pytest.mark.parametrize("layer", [layers.LeakyReLU, layers.MaxPooling1D])
def test_the_output_of_a_layer_of_many_operations_is_its_last_one(layer):
    made = keras.Sequential([keras.Input((6, 2)), layer(**ACTIVE), layers.Flatten()])
    made.add(layers.Dense(nets.CLASSES))
    nets.randomise(made, 2)
    gradient = rt.TrainStep(made, None, keras.optimizers.SGD(0.1), "natural")._gradient
    x = nets.images(made, len(Y), seed=3)
    batch = gradient.problem.batch(tf.constant(x), tf.constant(Y, tf.int32), tf.constant(0.1))
    clean = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, made(x))
    (term,) = map(float, made.losses)
    assert term > 0
    found = gradient.evaluated(*gradient.networks(), batch)
    np.testing.assert_allclose(np.mean(found.loss), float(clean) + term, rtol=1e-5)


@pytest.mark.parametrize("last", [None, "softmax"], ids=["called twice", "taken off"])
def test_an_activity_that_is_not_told_apart_is_refused(last):
    inputs, twice = keras.Input((4,)), layers.Dense(4, last, name="twice", **ACTIVE)
    output = twice(inputs) if last else layers.Dense(3)(twice(twice(inputs)))
    with pytest.raises(ValueError, match="activity_regularizer of 'twice' must be of a layer that"):
        rt.CertifiedModel(keras.Model(inputs, output), "ibp", 0.1)
