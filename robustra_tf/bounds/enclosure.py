"""Wong and Kolter's bounds on every pre-activation, layer by layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.chunks import map_recomputed
from robustra_tf.bounds.cost import COPIES, row_cost, slices
from robustra_tf.bounds.dual import (
    Weights,
    affine,
    chosen_rows,
    support,
    trace,
    unit_rows,
)
from robustra_tf.bounds.relu import Relaxation, relax, unstable
from robustra_tf.bounds.rows import Chosen, Every
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Add, Input, Relu

#: Which rows are computed: every neuron's, or only those that intervals leave undecided.
ROWS = ("every", "needed")
#: Bytes that one slice of rows may take. Small enough for a second-level cache to help.
DEFAULT_BUDGET = 256 * 2**20


class Enclosure(NamedTuple):
    """Pre-activation bounds of a batch and what follows from them.

    Attributes:
      bounds: for each ReLU node, (lower, upper), [n, *shape] each.
      relaxations: for each ReLU node, its relaxation between those bounds.
      centre: the relaxed network's output at the centre of the ball, [n, classes].
    """

    bounds: dict[int, tuple[tf.Tensor, tf.Tensor]]
    relaxations: dict[int, Relaxation]
    centre: tf.Tensor


def enclose(
    structure: Structure,
    weights: Weights,
    ball: Ball,
    rows: str = "every",
    budget: float = DEFAULT_BUDGET,
) -> Enclosure:
    """Bound every pre-activation over the ball by the dual network, layer by layer.

    The bounds of a neuron are `centre -+ radius`: the centre is the relaxed network's value at the
    centre of the ball, and the radius `sum_i |nuhat_i| . error_i + support(nuhat_1)` is the same
    for both signs of the neuron, so one backward row serves both (equal to Eqn 8 without `g` for
    `c = +-e_j`).

    With `rows="needed"`, a neuron that interval arithmetic on the same relaxation proves stable
    gets no row. Its interval contains the dual's, so the dual would call it stable too, and a
    stable ReLU's slope and error do not depend on its bounds: every other bound and the margins
    stay exactly Wong and Kolter's. Only that neuron's reported bounds are the intervals'.

    Args:
      structure, weights: the network.
      ball: the inputs; a static batch size lets slices be planned.
      rows: `"every"` (differentiable) or `"needed"` (evaluation).
      budget: bytes that one slice of rows may take.
    """
    if rows not in ROWS:
        raise ValueError(f"rows must be one of {', '.join(ROWS)}, got {rows!r}")
    values: list[tf.Tensor] = []
    widths: list[tf.Tensor | None] = []
    bounds: dict[int, tuple[tf.Tensor, tf.Tensor]] = {}
    relaxations: dict[int, Relaxation] = {}
    exact = _interval_exact(structure) if ball.norm == "linf" else frozenset()
    for index, node in enumerate(structure.nodes):
        if isinstance(node.op, Input):
            values.append(ball.centre)
            widths.append(ball.half_widths)
        elif isinstance(node.op, Relu):
            below = node.inputs[0]
            if below in exact:
                radius = widths[below]
            elif rows == "every":
                radius = _every_radius(structure, weights, ball, relaxations, below, budget)
            else:
                radius = _needed_radius(
                    structure,
                    weights,
                    ball,
                    relaxations,
                    below,
                    values[below],
                    widths[below],
                    budget,
                )
            bounds[index] = (values[below] - radius, values[below] + radius)
            relaxation = relaxations[index] = relax(*bounds[index])
            values.append(relaxation.forward(values[below]))
            widths.append(relaxation.slope * radius + relaxation.error)
        else:
            values.append(affine(node, weights, *(values[i] for i in node.inputs)))
            wanted = rows == "needed" or index in exact
            widths.append(
                _width(node, weights, [widths[i] for i in node.inputs]) if wanted else None
            )
    return Enclosure(bounds, relaxations, values[-1])


def _width(node, weights: Weights, widths: list[tf.Tensor]) -> tf.Tensor:
    """The half widths of an affine node's intervals from those of its inputs."""
    if isinstance(node.op, Add):
        return tf.add_n(widths)
    return node.op.absolute(widths[0], *(weights[i] for i in node.weights))


@functools.lru_cache(maxsize=64)
def _interval_exact(structure: Structure) -> frozenset[int]:
    """The affine nodes for which intervals equal the dual: at most one matrix from the image.

    `|A B| = |A| |B|` when one of the two only scales, so a chain with a single proper matrix loses
    nothing to interval arithmetic.
    """
    matrices = {0: 0}
    for index, node in enumerate(structure.nodes[1:], start=1):
        if isinstance(node.op, Relu | Add) or node.inputs[0] not in matrices:
            continue
        matrices[index] = matrices[node.inputs[0]] + (not node.op.diagonal)
    return frozenset(i for i, count in matrices.items() if count <= 1)


def _every_radius(
    structure: Structure,
    weights: Weights,
    ball: Ball,
    relaxations: Mapping[int, Relaxation],
    index: int,
    budget: float,
) -> tf.Tensor:
    """The radius of every neuron of a node: [n, *shape]."""
    shape = structure.nodes[index].op.out_shape
    batch = ball.centre.shape[0]
    count = slices(structure, index, batch or 1, budget, ball.centre.dtype.size)
    size = shape[-1] // count

    def radius(i: tf.Tensor | int, arguments: tuple) -> tf.Tensor:
        weights, ball, relaxations = arguments
        start, rows = unit_rows(structure, weights, index, i * size, size)
        traced = trace(structure, weights, relaxations, start, rows, Every())
        total = traced.error + support(traced.rows, Every(), Ball(*ball, norm=norm))
        lead = tf.shape(ball[0])[0]
        return tf.broadcast_to(
            tf.reshape(total, (-1, math.prod(shape[:-1]), size)),
            (lead, math.prod(shape[:-1]), size),
        )

    norm = ball.norm
    arguments = (list(weights), (ball.centre, ball.radius), dict(relaxations))
    if count == 1:
        return tf.reshape(radius(0, arguments), (-1, *shape))
    parts = map_recomputed(radius, count, arguments)
    return tf.reshape(tf.transpose(parts, (1, 2, 0, 3)), (-1, *shape))


def _needed_radius(
    structure: Structure,
    weights: Weights,
    ball: Ball,
    relaxations: Mapping[int, Relaxation],
    index: int,
    centre: tf.Tensor,
    width: tf.Tensor,
    budget: float,
) -> tf.Tensor:
    """The radius where intervals leave the sign open, the intervals' half width elsewhere."""
    neurons = math.prod(structure.nodes[index].op.out_shape)
    channels = structure.nodes[index].op.out_shape[-1]
    centre, flat = tf.reshape(centre, (-1, neurons)), tf.reshape(width, (-1, neurons))
    needed = tf.cast(tf.where(unstable(centre - flat, centre + flat)), tf.int32)
    bytes_per_row = COPIES * row_cost(structure, index).widest * ball.centre.dtype.size
    size = max(1, int(budget / max(bytes_per_row, 1)))
    total = tf.shape(needed)[0]

    def some(i: tf.Tensor, radii: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        picked = needed[i : i + size]
        example, neuron = picked[:, 0], picked[:, 1]
        frame = Chosen(example, neuron // channels)
        start, rows = chosen_rows(structure, weights, index, neuron)
        traced = trace(structure, weights, relaxations, start, rows, frame)
        radius = traced.error + support(traced.rows, frame, ball)
        return i + size, tf.tensor_scatter_nd_update(radii, picked, radius)

    _, radii = tf.while_loop(
        lambda i, _: i < total, some, (tf.constant(0), flat), parallel_iterations=1
    )
    return tf.reshape(radii, tf.shape(width))
