"""What is computed of many boxes at once, compiled: bounds, outputs, descent."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.boxes import Bounded, Boxes, bound_boxes
from robustra_tf.bounds.clips import Clip
from robustra_tf.evidence.rules import rules
from robustra_tf.evidence.steps import CROWN, INTERVAL, Step
from robustra_tf.graph.graph import Network, Structure

# Bytes of one tensor of backward rows: a batch of them stays in the processor's caches.
_BYTES = 2**24
_STEPS = 8
# Inputs beyond which bounds are those of whole boxes.
_CLIPPED = 64


class BoxWork(NamedTuple):
    """Functions of a network and its boxes, in float64, each traced once.

    Attributes:
      rows: backward rows of one layer that are computed at once.
      bound: (weights, still, places, low, high, clip, c) -> `Bounded`; by rules of whole boxes.
      outputs: (weights, still, places, values [m, k]) -> [m, outputs].
      descend: (weights, still, places, values, (low, high), (c, d, others)) -> values, closer to
        where the greatest of the margins `-(c . f + d) - others` is the smallest.
    """

    rows: int
    bound: tf.types.experimental.PolymorphicFunction
    outputs: tf.types.experimental.PolymorphicFunction
    descend: tf.types.experimental.PolymorphicFunction


def box_rules(structure: Structure) -> tuple[Step, ...]:
    """The steps that proofs of boxes rest on."""
    return rules(structure, (INTERVAL, CROWN), "linf")


@functools.lru_cache(maxsize=8)
def box_work(structure: Structure, moving: int) -> BoxWork:
    """The functions for boxes of so many inputs that move."""
    return _work(structure, moving, ruled=False)


@functools.lru_cache(maxsize=8)
def ruled_work(structure: Structure, moving: int) -> BoxWork:
    """The same with bounds by `box_rules` alone."""
    return _work(structure, moving, ruled=True)


def _work(structure: Structure, moving: int, ruled: bool) -> BoxWork:
    kind, k = tf.float64, moving
    widest = max(tf.TensorShape(node.op.out_shape).num_elements() for node in structure.nodes)
    # Of k inputs a clip looks at k^2 numbers of every row and of every neuron.
    clips = not ruled and k <= _CLIPPED
    most = max(2, _BYTES // (kind.size * max(widest, k * k if clips else k)))
    behind = None
    if ruled:
        # No ReLU of a box alone goes without a row for each end.
        most = max(most, 2 * widest_relu(structure))
        steps = box_rules(structure)
        behind = frozenset(structure.relus[step.relu] for step in steps if step.how == CROWN)
    (outputs,) = structure.output_shape
    values, conditions = tf.TensorSpec((None, k), kind), tf.TensorSpec((None, outputs), kind)
    base = [
        _weights(structure),
        tf.TensorSpec(structure.input_shape, kind),
        tf.TensorSpec((k,), tf.int32),
    ]

    def compiled(*signature):
        return tf.function(autograph=False, input_signature=[*base, *signature])

    @compiled(values, values, Clip(tf.TensorSpec((None,), kind), values), conditions)
    def bound(weights, still, places, low, high, clip, c) -> Bounded:
        boxes = Boxes(still, places, low, high, clip if clips else None)
        return bound_boxes(Network(structure, weights), boxes, c, most, behind)

    @compiled(values)
    def forward(weights, still, places, points):
        return structure.forward(weights, Boxes(still, places, points, points).inputs(points))

    loose = tf.TensorSpec(None, kind)

    @compiled(values, (values, values), (conditions, loose, loose))
    def descend(weights, still, places, points, ends, unsafe):
        (low, high), (c, d, others) = ends, unsafe

        def greatest(at):
            outs = structure.forward(weights, Boxes(still, places, at, at).inputs(at))
            return tf.reduce_max(-(tf.matmul(outs, c, transpose_b=True) + d) - others, 1)

        best, found = points, greatest(points)
        for step in range(_STEPS):
            with tf.GradientTape() as tape:
                tape.watch(points)
                value = greatest(points)
            slope = tape.gradient(value, points)
            length = 0.25 * (1.0 - step / _STEPS) * (high - low)
            points = tf.clip_by_value(points - length * tf.sign(slope), low, high)
            value = greatest(points)
            lower = value < found
            best = tf.where(lower[:, None], points, best)
            found = tf.minimum(value, found)
        return best

    return BoxWork(most, bound, forward, descend)


def widest_relu(structure: Structure) -> int:
    """The units of the largest ReLU, 1 where there is none."""
    return max((math.prod(structure.nodes[i].op.out_shape) for i in structure.relus), default=1)


def _weights(structure: Structure) -> list[tf.TensorSpec]:
    """What the network's weights are."""
    found = [tf.TensorSpec(None, tf.float64)] * structure.variable_count
    for node in structure.nodes[1:]:
        shapes = getattr(node.op, "weight_shapes", ())
        for place, shape in zip(node.weights, shapes, strict=True):
            found[place] = tf.TensorSpec(shape, tf.float64)
    return found
