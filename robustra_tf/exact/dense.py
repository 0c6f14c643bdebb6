"""A restricted network as dense matrices, for bounds of many domains at once."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.exact.restriction import Restriction

# Entries of a matrix up to which one product is as fast as several; ends of blocks otherwise.
_SMALL = 100_000
_BLOCKS = 9


class Region(NamedTuple):
    """The inputs: intervals of pixels, and perhaps an l_1 ball in them.

    Attributes:
      low, high: [n] the interval of every pixel.
      centre: [n] of the ball.
      radius: of the l_1 ball; infinite where there is none.
    """

    low: tf.Tensor
    high: tf.Tensor
    centre: tf.Tensor
    radius: tf.Tensor

    def lowest(self, rows: tf.Tensor, norm: str) -> tf.Tensor:
        """The inputs [k, n] where `row . x` is least, for rows [k, n].

        Of an l_1 ball in intervals that is a knapsack: the pixels of the largest coefficients go
        as far as their intervals let them until the radius is spent.
        """
        ends = tf.where(rows > 0, self.low, self.high)
        if norm == "linf":
            return ends
        order = tf.argsort(tf.abs(rows), axis=1, direction="DESCENDING")
        room = tf.gather(tf.abs(ends - self.centre), order, batch_dims=1)
        spent = tf.cumsum(room, axis=1, exclusive=True)
        moved = tf.clip_by_value(self.radius - spent, 0.0, room)
        moved = tf.gather(moved, tf.argsort(order, axis=1), batch_dims=1)
        return self.centre + tf.sign(ends - self.centre) * moved


class Lines(NamedTuple):
    """What a unit is between its bounds: below `slope z + intercept`.

    Where a ReLU is stable, and where a unit is none, it is `slope z`, of slope 0 or 1.

    Attributes:
      slope, intercept: [k or 1, m] of the upper lines.
      free: [k or 1, m], 1 where a ReLU is unstable, else 0.
    """

    slope: np.ndarray
    intercept: np.ndarray
    free: np.ndarray

    @classmethod
    def of(cls, relu: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> Lines:
        """Those of units between bounds [k, m], `relu` [m] true where a unit is a ReLU."""
        free = relu & (lower < 0) & (upper > 0)
        slope = np.where(relu & (upper <= 0), 0.0, 1.0)
        slope[free] = upper[free] / (upper[free] - lower[free])
        return cls(slope, np.where(free, -slope * lower, 0.0), free.astype(float))

    def tensors(self, dtype: tf.DType) -> Lines:
        """The same as tensors."""
        return Lines(*(tf.constant(part, dtype) for part in self))


class Block(NamedTuple):
    """Some consecutive columns of a matrix: zero but for the rows from `start` on."""

    values: tf.Tensor
    start: tf.Tensor

    def times(self, left: tf.Tensor) -> tf.Tensor:
        """`left W` [k, width] for `left` [k, rows of the matrix]."""
        rows = tf.shape(self.values)[0]
        return tf.matmul(left[:, self.start : self.start + rows], self.values)

    def applied(self, right: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """`W right` [k, rows of the matrix] for `right` [k, width]."""
        part = tf.matmul(right, self.values, transpose_b=True)
        return tf.pad(part, [[0, 0], [self.start, rows - self.start - tf.shape(part)[1]]])


class Dense(NamedTuple):
    """`z_g = W_g u + c_g` group by group, `u` the pixels and the units of earlier groups.

    Attributes:
      weights: of every group `W_g` [m_g, n + m_1 + ... + m_(g-1)], cut into blocks of columns: of
        pixels, for neurons of a convolution read a band of them, and of every earlier group.
      sizes: the numbers `m_g`.
      offset: `c` [m].
      relu: [m], 1 where a unit is a ReLU, else 0.
      top: [m] what `|z|` is at most.
      reach: [m] what `|W| |u| + |c|` is at most: the size of all that is added up.
      region: the inputs.
    """

    weights: tuple[tuple[Block, ...], ...]
    sizes: tuple[tf.Tensor, ...]
    offset: tf.Tensor
    relu: tf.Tensor
    top: tf.Tensor
    reach: tf.Tensor
    region: Region

    @property
    def farthest(self) -> tf.Tensor:
        """[n + m] what `|u|` is at most."""
        pixels = tf.maximum(tf.abs(self.region.low), tf.abs(self.region.high))
        return tf.concat([pixels, self.top], 0)

    def before(self, group: int, units: int) -> Dense:
        """The groups before one of a number, with so many units."""
        parts = (part[:units] for part in self[2:-1])
        return Dense(self.weights[:group], self.sizes[:group], *parts, region=self.region)

    @property
    def widths(self) -> list[tf.Tensor]:
        """The numbers of pixels of their blocks."""
        if not self.weights:
            return [tf.size(self.region.low)]
        return [tf.shape(block.values)[1] for block in self.weights[0]]

    @property
    def layout(self) -> tuple[int, int]:
        """The numbers of the blocks of pixels and of the groups."""
        return len(self.widths), len(self.weights)


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """Which pixels of a restricted network count: those that are read and may move.

    Attributes:
      restriction: the network.
      moving: the numbers of these pixels.
      still: [n] values of the others, 0 for those that move.
    """

    restriction: Restriction
    moving: np.ndarray
    still: np.ndarray

    @classmethod
    def of(cls, r: Restriction) -> Columns:
        """Those of a restriction."""
        read = np.zeros(r.pixels + r.units, bool)
        read[r.weights.indices] = read[r.logit_weights.indices] = True
        moves = read[: r.pixels] & (r.low < r.high)
        return cls(r, np.flatnonzero(moves), np.where(moves, 0.0, r.low))

    def rows(self, rows: np.ndarray, constants: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows [k, n + m] and constants [k] on the columns that count."""
        n = self.restriction.pixels
        kept = np.concatenate([rows[:, self.moving], rows[:, n:]], axis=1)
        return kept, constants + rows[:, :n] @ self.still

    def image(self, x: np.ndarray) -> np.ndarray:
        """Images [k, n] with these values [k, moving], the others where they are."""
        whole = np.repeat(self.still[None], len(x), axis=0)
        whole[:, self.moving] = x
        return np.clip(whole, self.restriction.low, self.restriction.high)


def dense(columns: Columns, centre: np.ndarray, l1_radius: float | None, dtype: tf.DType) -> Dense:
    """The dense form of a restricted network about the image `centre` [n]."""
    r = columns.restriction
    low, high, middle = (end[columns.moving] for end in (r.low, r.high, centre))
    matrix, offset = columns.rows(r.weights.toarray(), r.offset)
    top = np.maximum(np.abs(r.lower), np.abs(r.upper))
    far = np.concatenate([np.maximum(np.abs(low), np.abs(high)), top])
    reach = np.abs(matrix) @ far + np.abs(offset)
    radius = np.inf if l1_radius is None else l1_radius
    parts = (offset, r.relu, top, reach)
    cuts = np.linspace(0, len(low), _BLOCKS if matrix.size > _SMALL else 2, dtype=int)
    weights, ends = [], [int(cut) for cut in cuts]
    for group in r.groups:
        weights.append(_blocks(matrix[group], ends, dtype))
        ends.append(len(low) + group.stop)
    return Dense(
        tuple(weights),
        tuple(tf.constant(group.stop - group.start) for group in r.groups),
        *(tf.constant(part, dtype) for part in parts),
        region=Region(*(tf.constant(end, dtype) for end in (low, high, middle, radius))),
    )


def _blocks(matrix: np.ndarray, ends: list[int], dtype: tf.DType) -> tuple[Block, ...]:
    """The columns between each two of `ends`, without the rows of zeros about them."""
    blocks = []
    for start, stop in itertools.pairwise(ends):
        rows = np.flatnonzero(matrix[:, start:stop].any(1))
        first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        blocks.append(Block(tf.constant(matrix[first:last, start:stop], dtype), tf.constant(first)))
    return tuple(blocks)
