"""Equal runs give equal bits: no operation whose result depends on timing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from robustra_tf.training.methods import METHODS
from robustra_tf.training.options import StepOptions
from robustra_tf.training.step import TrainStep
from tests import nets
from train import environment


def _sums(method):
    """How many terms the sums in a step's graph have, loops and branches included."""
    model, reference = nets.dense(2), nets.dense(12) if method == "robustra" else None
    shares = {"share": 0.5, "clean_share": 0.3, "interval_share": 0.2}
    options = StepOptions.of(microbatch=2, regulariser=0.5, **shares)
    step = TrainStep(model, reference, keras.optimizers.Adam(0.01), method, options=options)
    x, y = tf.constant(nets.images(model, 5, seed=4), tf.float32), tf.constant([0, 1, 2, 0, 1])
    numbers = tf.constant(0.05), tf.constant([0, 0]), tf.constant(0.5)
    traced = step._step.get_concrete_function(x, y, *numbers)
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(n for function in graph.library.function for n in function.node_def)]
    return [
        sum(not name.startswith("^") for name in node.input) for node in nodes if node.op == "AddN"
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_deterministic_step_adds_no_more_than_two_at_a_time(method, monkeypatch):
    monkeypatch.setattr(gen_math_ops, "add_n", environment.in_pairs(gen_math_ops.add_n))
    assert max(_sums(method), default=2) == 2


def test_other_steps_do():
    """Were there no such sums, the test above would say nothing."""
    assert max(_sums("mtl_ibp")) > 2


def test_sums_in_pairs_are_sums():
    add_n = environment.in_pairs(gen_math_ops.add_n)
    values = [np.array([10.0**k, -k], np.float32) for k in range(5)]
    for count in range(1, 6):
        terms = [tf.constant(v) for v in values[:count]]
        np.testing.assert_array_equal(add_n(terms), np.sum(values[:count], axis=0))
