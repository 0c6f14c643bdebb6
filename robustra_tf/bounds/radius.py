"""The radii of a node's bounds: by intervals where these are exact, else by a row for each neuron.

`radius = sum_i |nuhat_i| . error_i + support(nuhat_1)` for the neuron's backward row `nuhat`, with
a gradient that works on the rows alone through which one passes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.chunks import map_recomputed, tensors_of
from robustra_tf.bounds.cost import COPIES, calls_dominate, row_cost, slices
from robustra_tf.bounds.dual import chosen_rows, fuses, half_widths, support, trace, unit_rows
from robustra_tf.bounds.frames import Chosen, Every, Frame
from robustra_tf.bounds.passing import instead
from robustra_tf.bounds.relu import Relaxation, unstable
from robustra_tf.bounds.rows import Rows, merged
from robustra_tf.bounds.runs import pays_as_calls
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Add, Dense, Relu

#: The share of rows up to which picking them out takes less time than computing all.
WORTH_CHOOSING = 0.7
#: More rows than any batch has, where the batch size is not static.
UNKNOWN = 2**40


@functools.lru_cache(maxsize=64)
def interval_exact(structure: Structure) -> frozenset[int]:
    """The affine nodes with at most one matrix between them and the image.

    Over the `linf` ball intervals equal the dual there: `|A B| = |A| |B|` when one of the two only
    scales, so a chain with a single proper matrix loses nothing to interval arithmetic.
    """
    matrices = {0: 0}
    for index, node in enumerate(structure.nodes[1:], start=1):
        if isinstance(node.op, Relu | Add) or node.inputs[0] not in matrices:
            continue
        matrices[index] = matrices[node.inputs[0]] + (not node.op.diagonal)
    return frozenset(i for i, count in matrices.items() if count <= 1)


def exact_radius(
    network: tuple[Structure, list[tf.Tensor]],
    ball: Ball,
    relaxations: dict[int, Relaxation],
    index: int,
    budget: float,
) -> tf.Tensor:
    """The radius of every neuron of a node, [n, *shape], for the given relaxations below it.

    By intervals where they equal the dual, else by the rows of all neurons.
    """
    structure, weights = network
    if ball.norm == "linf" and index in interval_exact(structure):
        node = structure.nodes[index]
        widths = [
            ball.half_widths if i == 0 else exact_radius(network, ball, {}, i, budget)
            for i in node.inputs
        ]
        return half_widths(node, weights, *widths)
    return row_radius(network, ball, relaxations, index, None, "every", budget)


def row_radius(
    network: tuple[Structure, list[tf.Tensor]],
    ball: Ball,
    relaxations: dict[int, Relaxation],
    index: int,
    known: tuple[tf.Tensor, tf.Tensor] | None,
    rows: str,
    budget: float,
) -> tf.Tensor:
    """The radius of every neuron of a node, [n, *shape], in the way that `rows` says.

    `known` holds the centre and the interval half width of the node, where rows may be skipped:
    there the radius is the interval's. In deep networks the rows of small layers are picked out
    whatever `rows="auto"` would decide: they take no time to speak of, a second way to trace does.
    """
    structure, _ = network
    if rows == "auto" and pays_as_calls(structure) and calls_dominate(structure, index):
        rows = "needed"
    job = _Job(structure, index, ball.norm, budget, ball.centre.dtype.size)
    # A copy: the caller goes on filling its own while a gradient may still need this one.
    calls = pays_as_calls(structure)
    relaxations = {at: each.lean if calls else each for at, each in relaxations.items()}
    # The first weight stays in any case: rows have its dtype.
    met = {0} | structure.coefficients(index)
    weights = [weight if i in met else None for i, weight in enumerate(network[1])]
    arguments = (weights, (ball.centre, ball.radius), relaxations)
    if rows == "every":
        return job.every(arguments)[0]
    batch = ball.centre.shape[0]
    total = UNKNOWN if batch is None else job.neurons * batch
    if rows == "auto" and fuses(structure, index):
        return _with_sparse_gradient(job, job.every, arguments, total, True)
    # A stable neuron's bounds are used by nothing but its sign: no gradient passes through them.
    centre, width = map(tf.stop_gradient, known)
    needed = job.listed(unstable(centre - width, centre + width))
    if rows == "needed":
        some = functools.partial(job.chosen, needed=needed, width=width, most=total)
        return _with_sparse_gradient(job, lambda a: (some(a), []), arguments, total, False)
    many = tf.logical_not(job.few(needed, centre))
    most = int(total * WORTH_CHOOSING)

    def value(arguments) -> tuple[tf.Tensor, list[tf.Tensor]]:
        kept = []

        def every() -> tuple[tf.Tensor, list[tf.Tensor]]:
            radius, found = job.every(arguments)
            kept.extend(found)
            return radius, found

        def chosen() -> tuple[tf.Tensor, list[tf.Tensor]]:
            none = [tf.zeros((0, *t.shape[1:]), t.dtype) for t in kept]
            return job.chosen(arguments, needed, width, most), none

        return tf.cond(many, every, chosen)

    return _with_sparse_gradient(job, value, arguments, total, many)


def _with_sparse_gradient(
    job: _Job,
    value: Callable[[Any], tuple[tf.Tensor, list[tf.Tensor]]],
    arguments: Any,
    total: int,
    many: tf.Tensor | bool,
) -> tf.Tensor:
    """`value(arguments)[0]`, the radii of all neurons, with a gradient that skips idle rows.

    A neuron found stable passes no gradient to its radius, nor does one that nothing depends on:
    the gradient works on the rows of the others alone. `value` also returns what `job.every` keeps
    of all rows, if it computed them, as `many` says; what is not kept is computed again.
    """
    flat, pack = tensors_of(arguments)

    @tf.custom_gradient
    def run(*tensors: tf.Tensor) -> Any:
        radius, kept = value(pack(tensors))

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            needed = job.listed(upstream != 0)

            def pull(results: Callable[[Any], tf.Tensor], upstream: tf.Tensor) -> list[tf.Tensor]:
                copies = [tf.identity(t) for t in tensors]
                with tf.GradientTape() as tape:
                    tape.watch(copies)
                    result = results(pack(copies))
                parts = tape.gradient(result, copies, upstream, tf.UnconnectedGradients.ZERO)
                return [tf.convert_to_tensor(part) for part in parts]

            def chosen(kept: list[tf.Tensor]) -> list[tf.Tensor]:
                # The row that `rows_of` puts first is no neuron's: it has no part in the gradient.
                wanted = tf.gather_nd(tf.reshape(upstream, (-1, job.neurons)), needed)
                most = int(total * WORTH_CHOOSING)
                rows = functools.partial(job.rows_of, needed=needed, most=most, kept=kept)
                return pull(rows, tf.pad(wanted, ((1, 0),)))

            def some() -> list[tf.Tensor]:
                if not kept:
                    return chosen([])
                return tf.cond(many, lambda: chosen(kept), lambda: chosen([]))

            few = job.few(needed, upstream)
            return tf.cond(few, some, lambda: pull(lambda a: job.every(a)[0], upstream))

        return radius, gradient

    return run(*flat)


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

    def _reach(self, arguments, start: int, rows: Rows, frame: Frame, visit=None) -> tf.Tensor:
        weights, ball, relaxations = arguments
        traced = trace(self.structure, weights, relaxations, start, rows, frame, visit)
        reach = support(traced.rows, frame, Ball(*ball, norm=self.norm))
        if traced.error.shape.rank != 1:
            return traced.error + reach
        # As `+`, but its gradient asks for no shapes, for which both would have to be computed.
        return tf.add_n([traced.error, reach])

    @property
    def keeps(self) -> bool:
        """Whether the rows of all neurons have the layout of rows picked out: whole images.

        Calls compute what nobody reads: rows known before would save nothing there.
        """
        dense = isinstance(self.structure.nodes[self.index].op, Dense)
        return dense and not pays_as_calls(self.structure)

    def every(self, arguments) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The radii of all rows, a slice of the channels at a time: [n, *shape].

        And the rows that `trace` visits, where they fit the budget.
        """
        batch = arguments[1][0].shape[0] or 1
        count = slices(self.structure, self.index, batch, self.budget, self.itemsize)
        size, positions = self.shape[-1] // count, math.prod(self.shape[:-1])

        kept: list[tf.Tensor] = []
        keeps = self.keeps and count == 1

        def keep(rows: Rows) -> Rows:
            kept.append(rows.values)
            return rows

        def some(i: tf.Tensor | int, arguments) -> tf.Tensor:
            weights, (centre, _), _ = arguments
            start, rows = unit_rows(self.structure, weights, self.index, i * size, size)
            reach = self._reach(arguments, start, rows, Every(), keep if keeps else None)
            reach = tf.reshape(reach, (-1, positions, size))
            return tf.broadcast_to(reach, (tf.shape(centre)[0], positions, size))

        if count == 1:
            return tf.reshape(some(0, arguments), (-1, *self.shape)), kept
        parts = map_recomputed(some, count, arguments)
        return tf.reshape(tf.transpose(parts, (1, 2, 0, 3)), (-1, *self.shape)), []

    def listed(self, wanted: tf.Tensor) -> tf.Tensor:
        """Where `wanted` [n, *shape] is true, as (example, neuron) [k, 2]."""
        return tf.cast(tf.where(tf.reshape(wanted, (-1, self.neurons))), tf.int32)

    def few(self, needed: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """Whether the rows `needed` [k, 2] of `batch` [n, ...] are faster picked out."""
        return tf.shape(needed)[0] <= int(WORTH_CHOOSING * self.neurons) * tf.shape(batch)[0]

    def rows_of(
        self, arguments, needed: tf.Tensor, most: int, kept: list[tf.Tensor] | None = None
    ) -> tf.Tensor:
        """The radii [1 + k] of one neuron of no account and of `needed` [k <= most, 2].

        Rows that `every` kept are picked out of `kept`, not computed again.
        """
        # Convolutions refuse an empty batch: one row is always computed.
        needed = tf.concat([tf.zeros((1, 2), tf.int32), needed], 0)
        row_bytes = COPIES * row_cost(self.structure, self.index).widest * self.itemsize
        size = max(1, int(self.budget / max(row_bytes, 1)))

        def some(i: tf.Tensor | int, arguments) -> tf.Tensor:
            example, neuron = tf.unstack(needed[i * size : (i + 1) * size], axis=-1)
            frame = Chosen(example, neuron // self.shape[-1])
            start, rows = chosen_rows(self.structure, arguments[0], self.index, neuron)
            left = iter(kept or ())

            def recall(rows: Rows) -> Rows:
                values = next(left, None)
                if values is None:
                    return rows
                # Of rows on the image itself there is one set for all examples, seen here alone:
                # the branch that keeps none hides it from the static shape.
                alike = tf.shape(values)[0] == 1
                index = neuron + tf.where(alike, 0, example * self.neurons)
                found = tf.gather(merged(values, values.shape.rank - 2), index)
                return rows.with_values(instead(rows.values, found))

            return self._reach(arguments, start, rows, frame, recall if kept else None)

        if size > most:
            return some(0, arguments)
        return map_recomputed(some, -(-tf.shape(needed)[0] // size), arguments)

    def chosen(self, arguments, needed: tf.Tensor, width: tf.Tensor, most: int) -> tf.Tensor:
        """The radii of `needed` [k <= most, 2]; `width` [n, *shape] elsewhere."""
        flat = tf.reshape(width, (-1, self.neurons))
        radius = self.rows_of(arguments, needed, most)[1:]
        return tf.reshape(tf.tensor_scatter_nd_update(flat, needed, radius), tf.shape(width))
