"""Projections: their medians, their statistics against exact norms, and what they are called."""

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.median import absolute_median
from robustra_tf.bounds.projection import Projection, estimate
from robustra_tf.graph import build
from tests import nets


@pytest.mark.parametrize("count", [1, 2, 3, 10, 49, 50, 101, 130])
def test_median_is_that_of_numpy(rng, count):
    values = rng.normal(size=(2, count, 3, 2))
    expected = np.median(np.abs(values), axis=1)
    np.testing.assert_array_equal(absolute_median(tf.constant(values)), expected)


class Draws:
    """Estimated over exact radii of a node under many seeds: [draws, n, neurons]."""

    def __init__(self, model, node, norm, size, draws, count=2, eps=0.1):
        graph = build(model)
        structure, weights = graph.structure, graph.weights(tf.float64)
        region = ball(tf.constant(nets.images(model, count), tf.float64), eps, norm)
        exact = enclose(structure, weights, region)
        self.exact = 0.5 * (exact.bounds[node][1] - exact.bounds[node][0]).numpy()

        @tf.function(autograph=False)
        def radius(seed):
            found = estimate(structure, weights, region, Projection(size, seed))
            low, high = found.ranges[node]
            return 0.5 * (high - low)

        seeds = [tf.constant([7, k]) for k in range(draws)]
        self.radii = np.stack([radius(seed).numpy() for seed in seeds])
        self.traces = radius.experimental_get_tracing_count()


def first_projected(model):
    """The second ReLU: its relaxations below are exact, so that the estimate's law is known."""
    return build(model).structure.relus[1]
