"""Operations that move entries and compute nothing: `Take`, `Permute`; and `Pick`, of windows."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from robustra_tf.graph.ops import AffineOp, Shape
from robustra_tf.graph.spatial import Windowed
from robustra_tf.graph.spread import NO_PADDING, Padding, Pair


@dataclasses.dataclass(frozen=True)
class Take(AffineOp):
    """Along one axis, entry `i` is entry `indices[i]` of the input, or 0 where that is -1.

    Crops, strided slices, nearest upsampling, zeros between and around entries, edges repeated, a
    branch's place in a concatenation: each is one of these an axis.
    """

    shape: Shape
    axis: int
    indices: tuple[int, ...]

    @property
    def in_shape(self) -> Shape:
        """The shape before."""
        return self.shape

    @property
    def out_shape(self) -> Shape:
        """As many entries along the axis as there are indices."""
        return (*self.shape[: self.axis], len(self.indices), *self.shape[self.axis + 1 :])

    @property
    def repeats(self) -> int:
        """How often the entry that is taken most often is taken."""
        return max(collections.Counter(i for i in self.indices if i >= 0).values(), default=0)

    @property
    def diagonal(self) -> bool:
        """Whether no entry is taken twice."""
        return self.repeats <= 1

    @property
    def start(self) -> int | None:
        """Where a crop begins: indices one after another; None of anything else."""
        first = self.indices[0]
        run = tuple(range(first, first + len(self.indices)))
        return first if first >= 0 and self.indices == run else None

    @property
    def cut(self) -> Padding:
        """Of a crop of an image's rows or columns, the padding that it undoes: none, or less."""
        own = (-self.indices[0], self.indices[-1] + 1 - self.shape[self.axis])
        return (own, (0, 0)) if self.axis == 0 else ((0, 0), own)

    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`x` with its entries moved."""
        return _taken(x, self.indices, self.axis + 1)

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """Every entry back in its place, added up where it was taken several times."""
        return self.returned(y, self.axis + 1)

    def returned(self, y: tf.Tensor, axis: int) -> tf.Tensor:
        """The transpose along any axis of any tensor that has the output's entries there."""
        parts = [_taken(y, places, axis) for places in self._places]
        return tf.add_n(parts) if len(parts) > 1 else parts[0]

    @property
    def _places(self) -> list[tuple[int, ...]]:
        """For each time that entries are taken, where each of them went, or -1."""
        places = [[-1] * self.shape[self.axis] for _ in range(max(self.repeats, 1))]
        times = [0] * self.shape[self.axis]
        for place, index in enumerate(self.indices):
            if index >= 0:
                places[times[index]][index] = place
                times[index] += 1
        return [tuple(each) for each in places]


def _taken(x: tf.Tensor, indices: Sequence[int], axis: int) -> tf.Tensor:
    """Entries of an axis, zeros where an index is -1."""
    index, size = np.array(indices), x.shape[axis]
    if (index < 0).any():
        before, after = [(0, 0)] * axis, [(0, 0)] * (x.shape.rank - axis - 1)
        x = tf.pad(x, [*before, (0, 1), *after])
        index = np.where(index < 0, size, index)
    return tf.gather(x, index, axis=axis)


@dataclasses.dataclass(frozen=True)
class Permute(AffineOp):
    """Axis `i` is axis `order[i]` of the input; neither counts the batch."""

    shape: Shape
    order: tuple[int, ...]
    diagonal = True

    @property
    def in_shape(self) -> Shape:
        """The shape before."""
        return self.shape

    @property
    def out_shape(self) -> Shape:
        """The same sizes in their new order."""
        return tuple(self.shape[axis] for axis in self.order)

    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`x` with its axes in the new order."""
        return tf.transpose(x, (0, *(axis + 1 for axis in self.order)))

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`y` with its axes in the old order."""
        return tf.transpose(y, (0, *(1 + self.order.index(i) for i in range(len(self.order)))))


@dataclasses.dataclass(frozen=True)
class Pick(Windowed):
    """Of each window some entries, or differences of two, side by side; channel by channel.

    What enters has `slots` images of `shape[2] / slots` channels side by side. A window's entries
    are numbered row by row, column by column, slot by slot; slot `i` of the output is entry
    `plus[i]`, less entry `minus[i]` where `minus` is given.
    """

    shape: Shape
    size: Pair
    strides: Pair
    plus: tuple[int, ...]
    minus: tuple[int, ...] = ()
    slots: int = 1
    padding: Padding = NO_PADDING

    @property
    def filters(self) -> int:
        """A slot for each entry."""
        return self.shape[2] // self.slots * len(self.plus)

    @property
    def taps(self) -> np.ndarray:
        """1, -1 and 0: [kh, kw, slots, entries]."""
        taps = np.zeros((math.prod(self.size) * self.slots, len(self.plus)))
        for signs, entries in ((1.0, self.plus), (-1.0, self.minus)):
            for place, entry in enumerate(entries):
                taps[entry, place] += signs
        return taps.reshape(*self.size, self.slots, len(self.plus))

    def kernel(self, weights: tuple[tf.Tensor, ...], dtype: tf.DType) -> tf.Tensor:
        """The taps from each channel to itself."""
        return self._kernel(self.taps, dtype)

    def _kernel(self, taps: np.ndarray, dtype: tf.DType) -> tf.Tensor:
        unit = np.eye(self.shape[2] // self.slots)
        full = np.einsum("abst,cd->absctd", taps, unit)
        return tf.constant(full.reshape(*self.size, self.shape[2], self.filters), dtype)

    def absolute(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """Sums instead of differences."""
        kernel = self._kernel(np.abs(self.taps), x.dtype)
        return self.convolved(x, kernel)
