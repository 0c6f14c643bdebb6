"""Interval bounds: the cheap sibling of the dual."""

from __future__ import annotations

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import Weights, affine, half_widths
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Input, Relu

Interval = tuple[tf.Tensor, tf.Tensor]


def propagate(
    structure: Structure, weights: Weights, ball: Ball
) -> tuple[dict[int, Interval], Interval]:
    """Bound every pre-activation and the logits by interval arithmetic.

    `y = A x + b` maps `centre -+ width` to `A centre + b -+ |A| width`; a ReLU cuts both ends. For
    `l2` and `l1` the ball is first widened to its enclosing `linf` ball.

    Returns:
      For each ReLU node (lower, upper), [n, *shape] each; and the same for the logits.
    """
    ends: list[Interval] = []
    bounds: dict[int, Interval] = {}
    for index, node in enumerate(structure.nodes):
        if isinstance(node.op, Input):
            ends.append((ball.centre - ball.half_widths, ball.centre + ball.half_widths))
            continue
        inputs = [ends[i] for i in node.inputs]
        if isinstance(node.op, Relu):
            bounds[index] = inputs[0]
            ends.append(tuple(map(tf.nn.relu, inputs[0])))
            continue
        centre = affine(node, weights, *(0.5 * (low + high) for low, high in inputs))
        reach = half_widths(node, weights, *(0.5 * (high - low) for low, high in inputs))
        ends.append((centre - reach, centre + reach))
    return bounds, ends[-1]
