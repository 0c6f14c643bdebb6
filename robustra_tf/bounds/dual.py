"""The backward pass of Wong and Kolter's dual network through any graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.frames import Every, Frame
from robustra_tf.bounds.gradients import taken
from robustra_tf.bounds.passing import (
    absolute_sum,
    absolute_sum_inside,
    cleaned,
    pays_as_matrix,
    through,
)
from robustra_tf.bounds.rows import Rows, WholeRows, WindowRows
from robustra_tf.bounds.runs import (
    ReluWay,
    Visit,
    by_calls,
    pays_as_calls,
    spelled_out,
    unchanged,
    whole_run,
)
from robustra_tf.bounds.window import Window
from robustra_tf.graph.graph import Network, Node, Structure
from robustra_tf.graph.ops import Add, Dense, Relu
from robustra_tf.graph.spatial import Windowed
from robustra_tf.graph.spread import as_pair

Weights = Sequence[tf.Tensor]


class Traced(NamedTuple):
    """What a backward pass leaves.

    Attributes:
      rows: the coefficients `nuhat_1` on the image.
      error: `sum_i |nuhat_i| . error_i` over all ReLUs passed, one number per row, as
        `Frame.listed` has them.
    """

    rows: Rows
    error: tf.Tensor


def affine(node: Node, weights: Weights, *inputs: tf.Tensor) -> tf.Tensor:
    """The value of an affine node, [n, *shape]."""
    return node.affine.forward(*inputs, *(weights[i] for i in node.weights))


def half_widths(node: Node, weights: Weights, *inputs: tf.Tensor) -> tf.Tensor:
    """The half widths `|A| width` of an affine node's intervals from those of its inputs."""
    if isinstance(node.op, Add):
        return tf.add_n(inputs)
    return node.affine.absolute(*inputs, *(weights[i] for i in node.weights))


def differences(y: tf.Tensor, classes: int, dtype: tf.DType) -> tf.Tensor:
    """The functions `c` of the logits that are bounded, [n, k, classes].

    Args:
      y: labels, integers [n], for which they are `c = e_t - e_y`, one for every target; or
        themselves.
      classes: the number of logits.
      dtype: theirs.
    """
    if y.dtype.is_floating:
        return tf.cast(y, dtype)
    target = tf.eye(classes, dtype=dtype)[None]
    return target - tf.one_hot(y, classes, dtype=dtype)[:, None]


def unit_rows(network: Network, index: int, first: tf.Tensor | int, count: int) -> tuple[int, Rows]:
    """The rows of neurons `first` to `first + count` of node `index`, shared by the whole batch.

    For an image, neurons means channels, at every position. Returns the node that the rows stand
    on, `index` itself or, past a dense layer, its input, and the rows.
    """
    node, weights = network.structure.nodes[index], network.weights
    shape = node.op.out_shape
    if isinstance(node.op, Dense):
        columns = tf.slice(weights[node.weights[0]], (0, first), (node.op.inputs, count))
        return node.inputs[0], WholeRows(tf.transpose(columns)[None], node.op.in_shape)
    unit = tf.one_hot(tf.range(count) + first, shape[-1], dtype=weights[0].dtype)
    if len(shape) == 3:
        return index, _windows(unit, shape, (1, 1, count))
    positions = math.prod(shape[:-1])
    unit = tf.eye(positions, dtype=unit.dtype)[:, None, :, None] * unit[:, None]
    return index, WholeRows(tf.reshape(unit, (1, positions * count, *shape)), shape)


def chosen_rows(network: Network, index: int, neuron: tf.Tensor) -> tuple[int, Rows]:
    """The rows of single neurons of node `index`; `neuron` [k] counts in row-major order.

    Returns the node that they stand on, as `unit_rows` does, and the rows, with lead axis [k].
    """
    node, weights = network.structure.nodes[index], network.weights
    shape = node.op.out_shape
    if isinstance(node.op, Dense):
        rows = taken(tf.transpose(weights[node.weights[0]]), neuron)
        return node.inputs[0], WholeRows(rows, node.op.in_shape)
    if isinstance(node.op, Windowed):
        arguments = tuple(weights[i] for i in node.weights)
        unit = _windows(tf.eye(shape[-1], dtype=weights[0].dtype), shape, (shape[-1],))
        rows = through(node.op, arguments, unit, Every())
        return node.inputs[0], rows.with_values(taken(rows.values, neuron % shape[-1]))
    if len(shape) == 3:
        unit = tf.one_hot(neuron % shape[-1], shape[-1], dtype=weights[0].dtype)
        return index, _windows(unit, shape, (-1,))
    unit = tf.one_hot(neuron, math.prod(shape), dtype=weights[0].dtype)
    return index, WholeRows(tf.reshape(unit, (-1, *shape)), shape)


def _windows(unit: tf.Tensor, shape: tuple[int, ...], lead: tuple[int, ...]) -> WindowRows:
    """Unit coefficients [k, channels] as windows of one pixel on an image of `shape`."""
    image = as_pair(shape[:2])
    return WindowRows(tf.reshape(unit, (*lead, 1, 1, shape[-1])), Window(image, image))


def trace(
    network: Network,
    relaxations: Mapping[int, ReluWay],
    index: int,
    rows: Rows,
    frame: Frame,
    visit: Visit | None = None,
) -> Traced:
    """Follow `rows` on node `index` backward to the image (Eqn 9).

    `nuhat_i = W_i^T nu_{i+1}`, `nu_i = d_i nuhat_i`; at each ReLU the relaxation's error is charged
    `|nuhat_i| . error_i`. Branches that meet are added. `visit` sees the rows that each ReLU
    leaves, with its index, and those on the image, with 0, and returns the rows to go on with.

    Where that pays, and nobody visits, ReLUs are passed by calls.
    """
    structure, weights = network.structure, network.weights
    run = whole_run(structure).part(0, index)
    parameters = [
        relaxations.get(at)
        if isinstance(node.op, Relu)
        else tuple(weights[i] for i in node.weights[: node.affine.coefficients_count])
        for at, node in enumerate(structure.nodes[1 : index + 1], start=1)
    ]
    if visit is None and pays_as_calls(structure):
        pending, charges = by_calls(run, parameters, {index: rows}, frame, run.digits)
    else:
        visit = visit or unchanged
        pending, charges = spelled_out(run, parameters, {index: rows}, frame, visit)
        pending[0] = visit(0, pending[0])
    total = tf.add_n(charges) if charges else tf.zeros((), pending[0].values.dtype)
    return Traced(pending[0], total)


def fuses(structure: Structure, index: int) -> bool:
    """Whether `trace` takes the rows of all neurons of a node past two layers by one product."""
    last = structure.nodes[index]
    if not isinstance(last.op, Windowed):
        return False
    relu = structure.nodes[last.inputs[0]]
    if not isinstance(relu.op, Relu) or len(structure.consumers[relu.inputs[0]]) != 1:
        return False
    before = structure.nodes[relu.inputs[0]].op
    image = as_pair(last.op.out_shape[:2])
    window = Window(image, image).through(last.op)
    return isinstance(before, Windowed) and pays_as_matrix(window, before)


def support(rows: Rows, frame: Frame, ball: Ball) -> tf.Tensor:
    """How far the rows reach over the ball: `max_{x'} row . (x' - centre)`, one number per row.

    `sum_j |row_j| r_j` for the intervals of `linf`, else eps times the dual norm of the row, or
    what a box allows where that is less. The axes are those of `Frame.listed`.
    """
    if ball.norm != "linf":
        return _round_support(cleaned(rows, frame), frame, ball)
    if ball.radius.shape.rank:
        return absolute_sum(rows, frame, *frame.align(rows, ball.radius))
    if isinstance(rows, WholeRows):
        rows = cleaned(rows, frame)
        return ball.radius * tf.reduce_sum(tf.abs(rows.flat), -1)
    return ball.radius * absolute_sum_inside(rows, frame)


def _round_support(rows: Rows, frame: Frame, ball: Ball) -> tf.Tensor:
    """`support` over an `l2` or `l1` ball."""
    radius = ball.radius
    if radius.shape.rank:
        radius = frame.whole(tf.reshape(radius, (-1,)))
        if isinstance(rows, WindowRows) and isinstance(frame, Every):
            radius = radius[..., None]
    if ball.room is None:
        return frame.listed(radius * dual_norm(rows.flat, ball.norm), rows)
    (room,) = frame.align(rows, ball.room)
    # Pixels that cannot move take no part in the ball.
    moved = rows.with_values(tf.where(room > 0, rows.values, tf.zeros_like(rows.values)))
    reach = frame.listed(radius * dual_norm(moved.flat, ball.norm), moved)
    # NaN where the image is none: `tf.minimum` promises nothing of it.
    walls = absolute_sum(rows, frame, room)
    return tf.where(walls < reach, walls, reach)


def dual_norm(rows: tf.Tensor, norm: str) -> tf.Tensor:
    """`||row||_*` over the last axis: l1 for `linf`, l2 for `l2`, the largest entry for `l1`."""
    if norm == "linf":
        return tf.reduce_sum(tf.abs(rows), -1)
    if norm == "l1":
        return tf.reduce_max(tf.abs(rows), -1)
    # In units of the largest entry: the square of a small one would underflow to zero, and the
    # bound would lose it.
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(rows), -1))
    unit = tf.where(largest <= 0, tf.ones_like(largest), largest)
    return unit * root(tf.reduce_sum(tf.square(rows / unit[..., None]), -1))


def root(square: tf.Tensor) -> tf.Tensor:
    """`sqrt(square)`, with the gradient 0 at 0."""
    zero = square <= 0
    return tf.where(
        zero, tf.zeros_like(square), tf.sqrt(tf.where(zero, tf.ones_like(square), square))
    )
