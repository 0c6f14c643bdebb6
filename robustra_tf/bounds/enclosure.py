"""Wong and Kolter's bounds on every pre-activation, layer by layer."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.chunks import map_recomputed
from robustra_tf.bounds.cost import COPIES, row_cost, slices
from robustra_tf.bounds.dual import (
    Weights,
    affine,
    chosen_rows,
    fuses,
    half_widths,
    support,
    trace,
    unit_rows,
)
from robustra_tf.bounds.relu import Relaxation, relax, unstable
from robustra_tf.bounds.rows import Chosen, Every, Frame, Rows
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Add, Input, Relu

#: Which rows are computed: every neuron's; only those that intervals leave undecided; or
#: whichever of the two takes less time, decided batch by batch.
ROWS = ("every", "needed", "auto")
#: The share of rows up to which picking them out takes less time than computing all.
WORTH_CHOOSING = 0.7
#: More rows than any batch has, where the batch size is not static.
UNKNOWN = 2**40
#: Bytes that one slice of rows may take.
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

    With `rows="needed"` or `"auto"`, a neuron that interval arithmetic on the same relaxation
    proves stable gets no row. Its interval contains the dual's, so the dual would call it stable
    too, and a stable ReLU's slope and error do not depend on its bounds: every other bound and the
    margins stay exactly Wong and Kolter's. Only that neuron's reported bounds are the intervals'.

    Args:
      structure, weights: the network.
      ball: the inputs; a static batch size lets slices be planned.
      rows: one of `ROWS`. Only `"every"` has static shapes, as `jit_compile=True` needs them.
      budget: bytes that one slice of rows may take.
    """
    if rows not in ROWS:
        raise ValueError(f"rows must be one of {', '.join(ROWS)}, got {rows!r}")
    network = (structure, list(weights))
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
            else:
                interval = None if rows == "every" else (values[below], widths[below])
                radius = _radius(network, ball, relaxations, below, interval, rows, budget)
            bounds[index] = (values[below] - radius, values[below] + radius)
            relaxation = relaxations[index] = relax(*bounds[index])
            values.append(relaxation.forward(values[below]))
            widths.append(relaxation.slope * radius + relaxation.error)
        else:
            values.append(affine(node, weights, *(values[i] for i in node.inputs)))
            wanted = rows != "every" or index in exact
            widths.append(
                half_widths(node, weights, *(widths[i] for i in node.inputs)) if wanted else None
            )
    return Enclosure(bounds, relaxations, values[-1])


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


def _radius(
    network: tuple[Structure, list[tf.Tensor]],
    ball: Ball,
    relaxations: dict[int, Relaxation],
    index: int,
    interval: tuple[tf.Tensor, tf.Tensor] | None,
    rows: str,
    budget: float,
) -> tf.Tensor:
    """The radius of every neuron of a node, [n, *shape], in the way that `rows` says.

    `interval` holds the centre and the interval half width of the node, where rows may be skipped:
    there the radius is the interval's.
    """
    structure, _ = network
    job = _Job(structure, index, ball.norm, budget, ball.centre.dtype.size)
    # A copy: the caller goes on filling its own while a gradient may still need this one.
    arguments = (network[1], (ball.centre, ball.radius), dict(relaxations))
    if rows == "every" or (rows == "auto" and fuses(structure, index)):
        return job.every(arguments)
    # A stable neuron's bounds are used by nothing but its sign: no gradient passes through them.
    centre, width = map(tf.stop_gradient, interval)
    needed = tf.cast(tf.where(unstable(centre - width, centre + width)), tf.int32)
    needed = _flat_index(needed, job.shape)
    batch = ball.centre.shape[0]
    total = UNKNOWN if batch is None else job.neurons * batch
    if rows == "needed":
        return job.chosen(arguments, needed, width, total)
    most = int(total * WORTH_CHOOSING)
    few = tf.shape(needed)[0] <= int(WORTH_CHOOSING * job.neurons) * tf.shape(ball.centre)[0]
    # Gradients inside a conditional need tensors of its own graph, hence the identities.
    return tf.cond(
        few,
        lambda: job.chosen(*_copies((arguments, needed, width)), most),
        lambda: job.every(_copies(arguments)),
    )


def _copies(tensors):
    return tf.nest.map_structure(tf.identity, tensors)


def _flat_index(index: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """(example, entry of `shape`) [k, 1 + rank] as (example, row-major number) [k, 2]."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    neuron = tf.reduce_sum(index[:, 1:] * tf.constant(strides, tf.int32), -1)
    return tf.stack([index[:, 0], neuron], -1)


@dataclasses.dataclass(frozen=True)
class _Job:
    """The radii of one node; `arguments` are (weights, (ball centre, radius), relaxations)."""

    structure: Structure
    index: int
    norm: str
    budget: float
    itemsize: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.structure.nodes[self.index].op.out_shape

    @property
    def neurons(self) -> int:
        return math.prod(self.shape)

    def _reach(self, arguments, start: int, rows: Rows, frame: Frame) -> tf.Tensor:
        weights, ball, relaxations = arguments
        traced = trace(self.structure, weights, relaxations, start, rows, frame)
        return traced.error + support(traced.rows, frame, Ball(*ball, norm=self.norm))

    def every(self, arguments) -> tf.Tensor:
        """All rows, a slice of the channels at a time: [n, *shape]."""
        batch = arguments[1][0].shape[0] or 1
        count = slices(self.structure, self.index, batch, self.budget, self.itemsize)
        size, positions = self.shape[-1] // count, math.prod(self.shape[:-1])

        def some(i: tf.Tensor | int, arguments) -> tf.Tensor:
            weights, (centre, _), _ = arguments
            start, rows = unit_rows(self.structure, weights, self.index, i * size, size)
            reach = self._reach(arguments, start, rows, Every())
            reach = tf.reshape(reach, (-1, positions, size))
            return tf.broadcast_to(reach, (tf.shape(centre)[0], positions, size))

        if count == 1:
            return tf.reshape(some(0, arguments), (-1, *self.shape))
        parts = map_recomputed(some, count, arguments)
        return tf.reshape(tf.transpose(parts, (1, 2, 0, 3)), (-1, *self.shape))

    def chosen(self, arguments, needed: tf.Tensor, width: tf.Tensor, most: int) -> tf.Tensor:
        """The rows `needed` [k <= most, 2], in slices; `width` [n, *shape] elsewhere."""
        # Convolutions refuse an empty batch: one row is always computed, and left out at the end,
        # because an update that names a neuron twice would count its gradient twice.
        needed = tf.concat([tf.zeros((1, 2), tf.int32), needed], 0)
        row_bytes = COPIES * row_cost(self.structure, self.index).widest * self.itemsize
        size = max(1, int(self.budget / max(row_bytes, 1)))

        def some(i: tf.Tensor | int, arguments) -> tf.Tensor:
            example, neuron = tf.unstack(needed[i * size : (i + 1) * size], axis=-1)
            frame = Chosen(example, neuron // self.shape[-1])
            start, rows = chosen_rows(self.structure, arguments[0], self.index, neuron)
            return self._reach(arguments, start, rows, frame)

        if size > most:
            radius = some(0, arguments)
        else:
            count = -(-tf.shape(needed)[0] // size)
            radius = map_recomputed(some, count, arguments)
        flat = tf.reshape(width, (-1, self.neurons))
        flat = tf.tensor_scatter_nd_update(flat, needed[1:], radius[1:])
        return tf.reshape(flat, tf.shape(width))
