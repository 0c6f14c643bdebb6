"""Operations as the library and as the checker have them, which share no code.

Both compute the same, and count the same of what rounding grows with; dense matrices judge how many
terms there are. Where one differed, certificates would be refused or, worse, believed.
"""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from eval.checker import network as checked
from eval.checker import operations
from eval.checker import rounding as counted
from eval.checker.derive import Check
from robustra_tf.bounds import rounding
from robustra_tf.evidence.network import described
from robustra_tf.graph import convolutions, ops, selection
from robustra_tf.graph.graph import Node
from tests.test_operations import AFFINE, SAMPLES, weights_of

KINDS = sorted(AFFINE, key=lambda kind: kind.__name__)
#: How often the library counts what the checker counts once: float64 roundings, what is flushed.
TWICE = 2


def pair(kind):
    """An operation as the library has it and as the checker reads it; its weights."""
    op, weights = SAMPLES[kind], [w.astype(np.float32) for w in weights_of(SAMPLES[kind])]
    first = {"op": "input", "shape": list(op.in_shape)}
    inputs = [0] * (op.count if kind is ops.Add else 1)
    text = described(op) | {"inputs": inputs, "weights": list(range(len(weights)))}
    return op, checked.Network([first, text], weights).nodes[-1].op, weights


@pytest.mark.parametrize("kind", KINDS)
def test_the_checker_computes_what_the_library_computes(kind):
    """Forward with constants, both absolute values and the transpose."""
    op, other, weights = pair(kind)
    values = [tf.constant(w, tf.float64) for w in weights]
    rng = np.random.default_rng(7)
    count = op.count if kind is ops.Add else 1
    v = [rng.normal(size=(2, *op.in_shape)) for _ in range(count)]
    rows = rng.normal(size=(3, *op.out_shape))
    for mine, theirs in (
        (op.forward(*map(tf.constant, v), *values), other.forward(*v)),
        (tf.add_n([op.absolute(tf.constant(part), *values) for part in v]), other.absolute(*v)),
        (op.transpose(tf.constant(rows), *values), other.transpose(rows)),
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)
    assert (other.sizes(*map(np.abs, v)) >= np.abs(other.forward(*v)) - 1e-12).all()


def test_settings_that_are_the_usual_ones_are_not_described():
    """What a network's hash is of: a convolution without groups has the one that it always had."""
    plain = convolutions.Conv2D((5, 5, 2), 4, (3, 3), (1, 1), ((1, 1), (1, 1)))
    text = {"op": "conv", "strides": [1, 1], "padding": [[1, 1], [1, 1]]}
    assert described(plain) == text
    for name, value, said in (("groups", 2, 2), ("dilation", (1, 2), [1, 2])):
        assert described(dataclasses.replace(plain, **{name: value})) == text | {name: said}


@pytest.mark.parametrize("kind", KINDS)
def test_terms_are_those_of_the_dense_matrix(kind):
    op, other, weights = pair(kind)
    found = rounding.counts(op)
    there = op.as_matrix(*map(tf.constant, weights)).numpy() != 0
    forward, backward = there.sum(1).max(), there.sum(0).max()
    if found is None:  # what moves rounds nothing, forward or backward
        assert other.exact
        assert max(forward, backward) == 1
        return
    assert not other.exact
    assert tuple(found) == tuple(other.counts)
    if kind is ops.Add:
        assert (found.terms, backward) == (op.count, 1)
    elif kind is selection.Take:
        assert (found.terms, found.rows) == (0, backward)
    elif kind is selection.Pick:  # not every slot is taken of every window
        assert found.terms == forward
        assert found.rows >= backward
    else:
        assert (found.terms, found.rows) == (forward, backward)


@pytest.mark.parametrize(
    "op",
    [
        convolutions.Conv2D((3, 4, 3), 2, (2, 2)),
        convolutions.DepthwiseConv2D((3, 4, 3), 2, (2, 2)),
        convolutions.TurnedConv2D((3, 4, 2), 3, (2, 2)),
    ],
    ids=lambda op: type(op).__name__,
)
def test_terms_of_several_channels_are_counted(op):
    weights = [w.astype(np.float32) for w in weights_of(op)]
    there = op.as_matrix(*map(tf.constant, weights)).numpy() != 0
    text = described(op) | {"inputs": [0], "weights": list(range(len(weights)))}
    first = {"op": "input", "shape": list(op.in_shape)}
    other = checked.Network([first, text], weights).nodes[-1].op
    for found in (rounding.counts(op), other.counts):
        assert (found.terms, found.rows) == (there.sum(1).max(), there.sum(0).max())


def test_the_numbers_of_float32_are_what_numpy_says():
    for unit, dtype in ((counted.UNIT32, np.float32), (counted.UNIT64, np.float64)):
        assert unit == np.finfo(dtype).eps / 2
    assert np.finfo(np.float32).tiny == counted.SMALLEST
    assert 3.99 < float(np.finfo(np.float32).max) / counted.LARGEST < 4


@pytest.mark.parametrize("floor", [False, True])
def test_one_variance_too_small_to_divide_by_is_enough(floor):
    weights = {"mean": np.zeros(2), "variance": np.ones(2)}
    for variance, epsilon, sane in (
        (1.0, 0.0, True),
        (2.0**-100, 0.0, True),
        (2.0**-101, 0.0, False),
        (2.0**-101, 2.0**-50, True),
        (-(2.0**-101), 1.0, False),
        (np.nan, 1.0, False),
    ):
        weights["variance"][1] = variance
        assert operations.normalisation((2,), weights, epsilon, floor).sane is sane


@pytest.mark.parametrize("kind", [*KINDS, "sum behind a convolution"])
@pytest.mark.parametrize("size", [1.0, 2.0**-110])
def test_the_checker_allows_for_as_much_as_the_library_but_for_its_room(kind, size):
    """Where numbers are of size one and where what counts is what flushing to zero loses."""
    before = kind not in KINDS
    op, other, weights = pair(ops.Add if before else kind)
    dense = Node(ops.Dense(7, 4, use_bias=False), (0,), (0,))
    values = [tf.constant(size * w, tf.float64) for w in weights]
    rng = np.random.default_rng(5)
    count = op.count if kind is ops.Add or before else 1
    magnitudes = [size * rng.uniform(0.1, 1, (2, *op.in_shape)) for _ in range(count)]
    magnitudes[0][:, 0] = 0  # a dead ReLU
    node = Node(op, (0,) * count, tuple(range(len(weights))))
    mine = rounding.deviation(
        node, values, 3, *map(tf.constant, magnitudes), before=[dense] * count if before else ()
    )
    first = {"op": "input", "shape": list(op.in_shape)}
    text = described(op) | {"inputs": [0] * count, "weights": list(range(len(weights)))}
    small = [(size * w).astype(np.float32) for w in weights]
    other = checked.Network([first, text], small).nodes[-1].op
    joined = 7 if before else 0
    known = types.SimpleNamespace(consumers=[3], _joined=lambda index: joined)
    theirs, sane = Check._deviation(known, 0, other, magnitudes)
    assert mine.safe.numpy().all() == sane.all()
    if other.exact:
        assert not mine.each.numpy().any()
        assert not theirs.any()
        return
    ratio = mine.each.numpy() / theirs
    assert (ratio >= 1).all()
    # At size one float32's roundings are nearly all there is, and counted alike; what only moves
    # has none. Of a sum in one with a convolution the library flushes its terms once more.
    most = TWICE
    if size == 1 and kind not in (selection.Take, selection.Pick):
        most = 1
    elif size < 1 and before:
        most *= (op.count + joined + 1) / (op.count + 1)
    assert ratio.max() <= most * (1 + 1e-4)
    if size < 1 and kind is not ops.Scale:
        assert ratio.max() > 1.2
