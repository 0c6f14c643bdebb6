"""Interval bounds: the cheap sibling of the dual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import affine, differences, half_widths
from robustra_tf.graph.graph import Network
from robustra_tf.graph.maxima import Maximum
from robustra_tf.graph.ops import Dense, Input, Relu

#: (lower, upper), of one shape.
Interval = tuple[tf.Tensor, tf.Tensor]


def interval(network: Network, index: int, ball: Ball, ends: Sequence[Interval]) -> Interval:
    """The interval of a node's output from `ends`, those of all nodes before it.

    `y = A x + b` maps `centre -+ width` to `A centre + b -+ |A| width`; a ReLU cuts both ends. For
    `l2` and `l1` the ball is first widened to its enclosing `linf` ball. A ReLU keeps NaN. A sum
    that is a maximum has the maxima of the ends of what it is of.
    """
    node = network.structure.nodes[index]
    inputs = [ends[i] for i in node.inputs]
    if isinstance(node.op, Input):
        return ball.centre - ball.half_widths, ball.centre + ball.half_widths
    if isinstance(node.op, Relu):
        return past_relu(inputs[0])
    centre = affine(node, network.weights, *(0.5 * (low + high) for low, high in inputs))
    reach = half_widths(node, network.weights, *(0.5 * (high - low) for low, high in inputs))
    found = centre - reach, centre + reach
    maximum = network.structure.maxima.get(index)
    return found if maximum is None else intersection(found, larger(maximum, ends))


def past_relu(ends: Interval) -> Interval:
    """Both ends cut at 0; NaN where one is."""
    return tuple(map(tf.nn.relu, ends))


def larger(maximum: Maximum, ends: Sequence[Interval]) -> Interval:
    """The interval of a maximum from those of all nodes before it."""
    first, second = (
        ends[side.node] if side.pick is None else tuple(map(side.pick.linear, ends[side.node]))
        for side in (maximum.first, maximum.second)
    )
    return tf.maximum(first[0], second[0]), tf.maximum(first[1], second[1])


def intersection(first: Interval, second: Interval) -> Interval:
    """What two intervals about the same numbers have in common; NaN where an end of one is."""
    return -lesser(-first[0], -second[0]), lesser(first[1], second[1])


def lesser(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """The smaller of two upper bounds, NaN where one is: `tf.minimum` promises nothing of NaN."""
    return tf.where(tf.logical_or(first <= second, tf.math.is_nan(first)), first, second)


class LayerIntervals(NamedTuple):
    """Bounds by interval arithmetic: (lower, upper) of one shape each.

    Attributes:
      bounds: for each ReLU node, of its pre-activation, [n, *shape].
      logits: [n, classes].
    """

    bounds: dict[int, Interval]
    logits: Interval


class IntervalMargins(NamedTuple):
    """Margins by interval arithmetic.

    Attributes:
      bounds: for each ReLU node, (lower, upper) of its pre-activation, [n, *shape] each.
      upper: of `f_t - f_y`, [n, classes]; entry `y` is 0.
    """

    bounds: dict[int, Interval]
    upper: tf.Tensor


def propagate(network: Network, ball: Ball) -> LayerIntervals:
    """Bound every pre-activation and the logits by interval arithmetic."""
    ends = _ends(network, ball)
    return LayerIntervals(_at_relus(network, ends), ends[-1])


def interval_margins(network: Network, ball: Ball, y: tf.Tensor) -> IntervalMargins:
    """Bound `f_t - f_y` by intervals, the last dense layer and the difference taken as one.

    `c (K^T v + b)` has the interval of `K c`: two logits that read the same unit do not take it at
    two values at once (Gowal et al. 2018, "elision of the last layer").

    Args:
      network, ball: the network and the inputs.
      y: labels, integers [n]; or rows `c` [n, k, classes] whose `c . f` is bounded instead.
    """
    ends, weights = _ends(network, ball), network.weights
    last, classes = network.structure.nodes[-1], network.structure.output_shape[0]
    rows, read, offset = differences(y, classes, ball.centre.dtype), ends[-1], 0.0
    if isinstance(last.op, Dense):
        (below,) = last.inputs
        read = ends[below]
        if last.op.use_bias:
            offset = tf.linalg.matvec(rows, weights[last.weights[1]])
        rows = tf.matmul(rows, weights[last.weights[0]], transpose_b=True)
    low, high = read
    reach = tf.linalg.matvec(tf.abs(rows), 0.5 * (high - low))
    upper = tf.linalg.matvec(rows, 0.5 * (low + high)) + offset + reach
    return IntervalMargins(_at_relus(network, ends), upper)


def _ends(network: Network, ball: Ball) -> list[Interval]:
    """The interval of every node."""
    ends: list[Interval] = []
    for index in range(len(network.structure.nodes)):
        ends.append(interval(network, index, ball, ends))
    return ends


def _at_relus(network: Network, ends: Sequence[Interval]) -> dict[int, Interval]:
    """The interval of what each ReLU reads."""
    nodes = network.structure.nodes
    return {i: ends[nodes[i].inputs[0]] for i in network.structure.relus}
