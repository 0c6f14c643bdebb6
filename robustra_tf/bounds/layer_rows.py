"""The radii of one node's neurons by their backward rows: all of them, or some picked out.

`radius = sum_i |nuhat_i| . error_i + support(nuhat_1)` for the neuron's row `nuhat`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.chunks import map_recomputed
from robustra_tf.bounds.cost import COPIES, row_cost, slices
from robustra_tf.bounds.dual import Visit, chosen_rows, support, trace, unit_rows
from robustra_tf.bounds.frames import Chosen, Every, Frame
from robustra_tf.bounds.gradients import instead
from robustra_tf.bounds.rows import Rows, merged
from robustra_tf.bounds.runs import pays_as_calls
from robustra_tf.graph.graph import Network, Structure
from robustra_tf.graph.ops import Dense

#: The share of rows up to which picking them out takes less time than computing all.
WORTH_CHOOSING = 0.7
#: More rows than any batch has, where the batch size is not static.
UNKNOWN = 2**40

#: Rows that were passed, by the ReLU that they leave, or 0 on the image: the values of `Rows`.
Kept = Mapping[int, tf.Tensor]


class Below(NamedTuple):
    """What the rows of a node meet on their way to the image: a nest of tensors and None.

    Attributes:
      network: weights that they do not meet are None.
      centre, radius, room: of the ball.
      relaxations: of the ReLUs, what `trace` takes, or what that is made of for each set of rows.
    """

    network: Network
    centre: tf.Tensor
    radius: tf.Tensor
    room: tf.Tensor | None
    relaxations: Mapping[int, Any]


class Radii(NamedTuple):
    """Radii of all neurons of a node, [n, *shape], and the rows that were kept on the way."""

    values: tf.Tensor
    kept: Kept


@dataclasses.dataclass(frozen=True)
class LayerRows:
    """The rows of one node.

    Attributes:
      structure, index: the node.
      norm: of the ball.
      batch: how many examples there are, where that is static.
      budget: bytes that one slice of rows may take.
      itemsize: bytes of a number.
    """

    structure: Structure
    index: int
    norm: str
    batch: int | None
    budget: float
    itemsize: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the node's output."""
        return self.structure.nodes[self.index].op.out_shape

    @property
    def neurons(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def total(self) -> int:
        """At least as many rows as the whole batch has."""
        return UNKNOWN if self.batch is None else self.neurons * self.batch

    @property
    def most_chosen(self) -> int:
        """The most rows that are picked out where `few` decides."""
        return int(self.total * WORTH_CHOOSING)

    def listed(self, wanted: tf.Tensor) -> tf.Tensor:
        """Where `wanted` [n, *shape] is true, as (example, neuron) [k, 2]."""
        return tf.cast(tf.where(tf.reshape(wanted, (-1, self.neurons))), tf.int32)

    def few(self, needed: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """Whether the rows `needed` [k, 2] of `batch` [n, ...] are faster picked out."""
        return tf.shape(needed)[0] <= int(WORTH_CHOOSING * self.neurons) * tf.shape(batch)[0]

    def every(self, below: Below) -> Radii:
        """The radii of all rows, a slice of the channels at a time.

        The rows themselves are kept where they fit the budget and can be picked out of.
        """
        count = slices(self.structure, self.index, self.batch or 1, self.budget, self.itemsize)
        size, positions = self.shape[-1] // count, math.prod(self.shape[:-1])
        kept: dict[int, tf.Tensor] = {}

        def keep(at: int, rows: Rows) -> Rows:
            kept[at] = rows.values
            return rows

        def some(i: tf.Tensor | int, below: Below) -> tf.Tensor:
            start, rows = unit_rows(below.network, self.index, i * size, size)
            visit = keep if self._keeps and count == 1 else None
            reach = tf.reshape(
                self.reach(below, start, rows, Every(), visit), (-1, positions, size)
            )
            return tf.broadcast_to(reach, (tf.shape(below.centre)[0], positions, size))

        if count == 1:
            return Radii(tf.reshape(some(0, below), (-1, *self.shape)), kept)
        parts = map_recomputed(some, count, below)
        return Radii(tf.reshape(tf.transpose(parts, (1, 2, 0, 3)), (-1, *self.shape)), {})

    def chosen(self, below: Below, needed: tf.Tensor, width: tf.Tensor, most: int) -> tf.Tensor:
        """The radii of `needed` [k <= most, 2]; `width` [n, *shape] elsewhere."""
        flat = tf.reshape(width, (-1, self.neurons))
        radius = self.rows_of(below, needed, most, {})[1:]
        return tf.reshape(tf.tensor_scatter_nd_update(flat, needed, radius), tf.shape(width))

    def rows_of(self, below: Below, needed: tf.Tensor, most: int, kept: Kept) -> tf.Tensor:
        """The radii [1 + k] of any one neuron and of `needed` [k <= most, 2].

        Rows that `every` kept are picked out of `kept`, not computed again.
        """
        # Convolutions refuse an empty batch: one row is always computed.
        needed = tf.concat([tf.zeros((1, 2), tf.int32), needed], 0)
        row_bytes = COPIES * row_cost(self.structure, self.index).widest * self.itemsize
        size = max(1, int(self.budget / max(row_bytes, 1)))

        def some(i: tf.Tensor | int, below: Below) -> tf.Tensor:
            example, neuron = tf.unstack(needed[i * size : (i + 1) * size], axis=-1)
            frame = Chosen(example, neuron // self.shape[-1])
            start, rows = chosen_rows(below.network, self.index, neuron)

            def recall(at: int, rows: Rows) -> Rows:
                return self._recalled(rows, kept[at], example, neuron)

            return self.reach(below, start, rows, frame, recall if kept else None)

        if size > most:
            return some(0, below)
        return map_recomputed(some, -(-tf.shape(needed)[0] // size), below)

    def _recalled(self, rows: Rows, kept: tf.Tensor, example: tf.Tensor, neuron: tf.Tensor) -> Rows:
        """`rows`, of these neurons of these examples, with the values that were kept of them."""
        # Of rows on the image itself there is one set for all examples, seen here alone: the branch
        # that keeps none hides it from the static shape.
        alike = tf.shape(kept)[0] == 1
        index = neuron + tf.where(alike, 0, example * self.neurons)
        known = tf.gather(merged(kept, kept.shape.rank - 2), index)
        return rows.with_values(instead(rows.values, known))

    @property
    def _keeps(self) -> bool:
        """Whether the rows of all neurons have the layout of rows picked out: whole images.

        Calls compute what nobody reads: rows known before would save nothing there.
        """
        dense = isinstance(self.structure.nodes[self.index].op, Dense)
        return dense and not pays_as_calls(self.structure)

    def reach(
        self, below: Below, start: int, rows: Rows, frame: Frame, visit: Visit | None
    ) -> tf.Tensor:
        """How far rows on node `start` reach, one number per row: charges and support."""
        traced = trace(below.network, below.relaxations, start, rows, frame, visit)
        reach = support(traced.rows, frame, Ball(below.centre, below.radius, self.norm, below.room))
        if traced.error.shape.rank != 1:
            return traced.error + reach
        # As `+`, but its gradient asks for no shapes, for which both would have to be computed.
        return tf.add_n([traced.error, reach])
