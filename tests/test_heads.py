"""A softmax or sigmoid at the end is taken off and said; anywhere else it is refused."""

import keras
import numpy as np
import pytest
from keras import layers

import robustra_tf as rt
from robustra_tf import graph
from robustra_tf.intake.subject import take
from tests import nets

X = np.random.default_rng(0).uniform(size=(4, 5)).astype(np.float32)


def ended(*end):
    """A small network with an end of its own."""
    first = [keras.Input((5,)), layers.Dense(4, activation="relu")]
    return nets.randomise(keras.Sequential([*first, *end]), 3)


def nested():
    inputs = keras.Input((5,))
    return keras.Model(inputs, ended(layers.Dense(3), layers.Softmax())(inputs))


ENDS = {
    "fused": lambda: ended(layers.Dense(3, activation="softmax")),
    "sigmoid": lambda: ended(layers.Dense(3, activation="sigmoid")),
    "activation": lambda: ended(layers.Dense(3), layers.Activation("softmax")),
    "layer": lambda: ended(layers.Dense(3), layers.Softmax()),
    "nested": nested,
}


@pytest.mark.parametrize("make", ENDS.values(), ids=ENDS)
def test_a_head_is_taken_off_and_said(make):
    model = make()
    end = graph.build(model)
    with pytest.warns(
        UserWarning, match=r"model: the (softmax|sigmoid) at the end of .* taken off"
    ):
        subject = take(model)
    logits = end(X).numpy()
    np.testing.assert_allclose(subject(X), logits, rtol=1e-5, atol=1e-6)
    assert np.abs(logits.sum(1) - 1).max() > 1e-2  # the logits are none themselves
    function = keras.activations.sigmoid if make is ENDS["sigmoid"] else keras.activations.softmax
    np.testing.assert_allclose(function(logits), model(X), rtol=1e-5, atol=1e-6)


def test_margins_are_of_the_logits():
    model = ENDS["fused"]()
    plain = keras.Sequential([keras.Input((5,)), model.layers[0], layers.Dense(3)])
    plain.layers[1].set_weights(model.layers[1].get_weights())
    y = plain(X).numpy().argmax(1)
    with pytest.warns(UserWarning, match="taken off"):
        found = rt.certify(model, X, y, 0.01)
    expected = rt.certify(plain, X, y, 0.01)
    np.testing.assert_array_equal(found.predicted, expected.predicted)
    np.testing.assert_allclose(found.margin_lower, expected.margin_lower, rtol=1e-5, atol=1e-6)


def twice():
    inputs = keras.Input((5,))
    softmax = layers.Softmax()
    return keras.Model(inputs, softmax(layers.Dense(3)(softmax(inputs))))


def shared():
    """A network with a softmax, used in the middle and at the end."""
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, activation="softmax")])
    return keras.Model(inputs, inner(inner(inputs)))


def other_axis():
    inputs = keras.Input((2, 3))
    return keras.Model(inputs, layers.Softmax(axis=1)(inputs))


REFUSED = {
    "middle": lambda: ended(layers.Softmax(), layers.Dense(3)),
    "fused": lambda: ended(layers.Dense(4, activation="softmax"), layers.Dense(3)),
    "twice": twice,
    "shared": shared,
    "axis": other_axis,
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_softmax_elsewhere_is_refused(make):
    reason = "not the model's last layer|activation is 'softmax'|is not at the end alone"
    with pytest.raises(graph.UnsupportedLayerError, match=reason):
        graph.build(make())
