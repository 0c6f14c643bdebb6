"""The median of absolute values, and its gradient, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds.median import absolute_median


@pytest.mark.parametrize("count", [1, 2, 3, 10, 49, 50, 101, 130])
def test_median_is_that_of_numpy(rng, count):
    values = rng.normal(size=(2, count, 3, 2))
    expected = np.median(np.abs(values), axis=1)
    np.testing.assert_array_equal(absolute_median(tf.constant(values)), expected)


@pytest.mark.parametrize("count", [7, 10])
def test_gradient_of_the_median_is_that_of_the_middle(rng, count):
    values, upstream = rng.normal(size=(2, count, 3)), rng.normal(size=(2, 3))
    tensor = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = tf.reduce_sum(upstream * absolute_median(tensor))
    found, step = tape.gradient(total, tensor).numpy(), 1e-7
    for at in np.ndindex(values.shape):
        ends = []
        for move in (step, -step):
            moved = values.copy()
            moved[at] += move
            ends.append((upstream * np.median(np.abs(moved), axis=1)).sum())
        np.testing.assert_allclose(found[at], (ends[0] - ends[1]) / (2 * step), atol=1e-6)
    nothing = tf.zeros((1, count, 2))
    with tf.GradientTape() as tape:
        tape.watch(nothing)
        total = tf.reduce_sum(absolute_median(nothing))
    np.testing.assert_array_equal(tape.gradient(total, nothing), 0.0)
