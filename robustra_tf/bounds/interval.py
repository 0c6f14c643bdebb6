"""Interval bounds: the cheap sibling of the dual."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import Weights, affine, differences, half_widths
from robustra_tf.graph.graph import Node, Structure
from robustra_tf.graph.ops import Dense, Input, Relu

#: (lower, upper), of one shape.
Interval = tuple[tf.Tensor, tf.Tensor]


def interval(node: Node, weights: Weights, ball: Ball, inputs: Sequence[Interval]) -> Interval:
    """The interval of a node's output from those of its inputs.

    `y = A x + b` maps `centre -+ width` to `A centre + b -+ |A| width`; a ReLU cuts both ends. For
    `l2` and `l1` the ball is first widened to its enclosing `linf` ball.
    """
    if isinstance(node.op, Input):
        return ball.centre - ball.half_widths, ball.centre + ball.half_widths
    if isinstance(node.op, Relu):
        return tuple(map(tf.nn.relu, inputs[0]))
    centre = affine(node, weights, *(0.5 * (low + high) for low, high in inputs))
    reach = half_widths(node, weights, *(0.5 * (high - low) for low, high in inputs))
    return centre - reach, centre + reach


def intersection(first: Interval, second: Interval) -> Interval:
    """What two intervals about the same numbers have in common."""
    return tf.maximum(first[0], second[0]), tf.minimum(first[1], second[1])


def propagate(
    structure: Structure, weights: Weights, ball: Ball
) -> tuple[dict[int, Interval], Interval]:
    """Bound every pre-activation and the logits by interval arithmetic.

    Returns:
      For each ReLU node (lower, upper), [n, *shape] each; and the same for the logits.
    """
    ends = _ends(structure, weights, ball)
    return {i: ends[structure.nodes[i].inputs[0]] for i in structure.relus}, ends[-1]


def interval_margins(
    structure: Structure, weights: Weights, ball: Ball, y: tf.Tensor
) -> tuple[dict[int, Interval], tf.Tensor]:
    """Bound `f_t - f_y` by intervals, the last dense layer and the difference taken as one.

    `c (K^T v + b)` has the interval of `K c`: two logits that read the same unit do not take it at
    two values at once (Gowal et al. 2018, "elision of the last layer").

    Args:
      structure, weights, ball: the network and the inputs.
      y: labels, integers [n].

    Returns:
      The bounds of every ReLU as `propagate` has them, and the upper bounds [n, classes]; entry
      `y` is 0.
    """
    ends = _ends(structure, weights, ball)
    bounds = {i: ends[structure.nodes[i].inputs[0]] for i in structure.relus}
    last, classes = structure.nodes[-1], structure.output_shape[0]
    rows, read, offset = differences(y, classes, ball.centre.dtype), ends[-1], 0.0
    if isinstance(last.op, Dense):
        read = ends[last.inputs[0]]
        if last.op.use_bias:
            offset = tf.linalg.matvec(rows, weights[last.weights[1]])
        rows = tf.matmul(rows, weights[last.weights[0]], transpose_b=True)
    low, high = read
    reach = tf.linalg.matvec(tf.abs(rows), 0.5 * (high - low))
    return bounds, tf.linalg.matvec(rows, 0.5 * (low + high)) + offset + reach


def _ends(structure: Structure, weights: Weights, ball: Ball) -> list[Interval]:
    """The interval of every node."""
    ends: list[Interval] = []
    for node in structure.nodes:
        ends.append(interval(node, weights, ball, [ends[i] for i in node.inputs]))
    return ends
