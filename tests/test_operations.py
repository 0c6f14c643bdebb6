"""Every operation of a graph is known to all that must know it, and a new one to nobody."""

import dataclasses
import inspect

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import flops
from eval.checker import network as checked
from robustra_tf.bounds.cost import window_before
from robustra_tf.bounds.frames import Every
from robustra_tf.bounds.passing import windows_through
from robustra_tf.bounds.rounding import counts
from robustra_tf.bounds.rows import WindowRows
from robustra_tf.bounds.window import Window
from robustra_tf.evidence.network import described
from robustra_tf.exact.matrices import affine_map
from robustra_tf.graph import convolutions, ops, selection, spatial
from robustra_tf.graph.graph import Node
from tests.test_graph_ops import OPS

#: One of each kind; convolutions and pools of 3 x 3 images.
SAMPLES = {
    type(op): op
    for op in (
        ops.Input((2, 2, 1)),
        ops.Relu((2, 2, 1)),
        ops.Dense(3, 2),
        ops.Reshape((2, 2, 1), (4,)),
        ops.Add((2, 2, 1)),
        ops.Scale((2, 2, 1), constants=(2.0, 1.0)),
        selection.Take((2, 2, 1), 0, (1, -1, 1)),
        selection.Permute((2, 2, 1), (2, 0, 1)),
        selection.Pick((3, 3, 2), (2, 1), (1, 1), (0, 2), (1, 3), slots=2),
        convolutions.Conv2D((3, 3, 1), 2, (2, 2)),
        convolutions.DepthwiseConv2D((3, 3, 2), 2, (2, 2)),
        convolutions.TurnedConv2D((3, 3, 1), 2, (2, 2)),
        spatial.Pool2D((3, 3, 1), (2, 2), (1, 1)),
        spatial.Pad2D((2, 2, 1), ((1, 0), (0, 1))),
    )
}


BASES = (ops.AffineOp, spatial.Windowed, convolutions.Convolution)


def kinds(base):
    """All classes of operations that can be made."""
    found = set() if inspect.isabstract(base) or base in BASES else {base}
    return found.union(*map(kinds, base.__subclasses__()))


def weights_of(op):
    rng = np.random.default_rng(3)
    return [np.abs(rng.normal(size=shape)) + 0.1 for shape in getattr(op, "weight_shapes", ())]


def pass_windows(op):
    """Rows of every channel at one pixel of an image."""
    image, channels = (op.out_shape[:2], op.out_shape[2])
    unit = tf.reshape(tf.eye(channels, dtype=tf.float64), (1, 1, -1, 1, 1, channels))
    weights = tuple(map(tf.constant, weights_of(op)))
    windows_through(op, weights, WindowRows(unit, Window(image, image)), Every())


def window_size(op):
    image = op.out_shape[:2] if len(op.out_shape) == 3 else (1, 1)
    window_before(op, Window(image, image))


def check(op):
    """What the checker of certificates makes of the description."""
    first = {"op": "input", "shape": list(op.in_shape)}
    count = op.count if isinstance(op, ops.Add) else 1
    text = described(op) | {"inputs": [0] * count, "weights": list(range(len(weights_of(op))))}
    checked.Network([first, text], [w.astype(np.float32) for w in weights_of(op)])


AFFINE = {kind for kind in SAMPLES if issubclass(kind, ops.AffineOp)}
#: By consumer: what it does with an operation, and the kinds that it must know.
CONSUMERS = {
    # Of vectors there are no windows.
    "rows as windows": (pass_windows, {k for k in AFFINE if len(SAMPLES[k].out_shape) == 3}),
    "the size of rows": (window_size, set(SAMPLES) - {ops.Input}),
    "rounding": (counts, AFFINE),
    "exact matrices": (lambda op: affine_map(op, weights_of(op)), AFFINE),
    "description": (described, set(SAMPLES)),
    "checker": (check, set(SAMPLES) - {ops.Input}),
    "flops": (flops.taps, set(SAMPLES)),
}


def test_there_is_a_sample_of_every_kind_of_operation():
    own = {kind for kind in kinds(ops.Op) if kind.__module__.startswith("robustra_tf.")}
    assert set(SAMPLES) == own


def test_every_affine_operation_is_compared_with_its_dense_matrix():
    """Forward, transpose and absolute value, on which bounds, intervals and projections rest."""
    # The dense matrix of a sum is that of one branch, which has a test of its own.
    assert {type(op) for op in OPS} | {ops.Add} == AFFINE


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_every_operation_is_known_to(consumer):
    work, known = CONSUMERS[consumer]
    for kind in known:
        work(SAMPLES[kind])


@dataclasses.dataclass(frozen=True)
class Unknown(ops.AffineOp):
    """An operation that was added to the graph and to nothing else."""

    shape: ops.Shape = (2, 2, 1)

    @property
    def in_shape(self):
        return self.shape

    out_shape = in_shape

    def linear(self, x, *weights):
        return 3 * x

    transpose = linear


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_an_operation_that_was_left_out_is_refused_by(consumer):
    """By none of them is it taken for something else."""
    with pytest.raises(TypeError, match="got Unknown"):
        CONSUMERS[consumer][0](Unknown())
    assert Node(Unknown(), (0,)).op.as_matrix().shape == (4, 4)
