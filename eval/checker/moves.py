"""The operations that move entries, and differences of entries, as `operations` has the others."""

from __future__ import annotations

import math

import numpy as np

from .operations import Affine, Counts, Shape
from .windows import Windows


class Take(Affine):
    """Along one axis, entry `i` is entry `indices[i]`, or 0 where that is -1."""

    def __init__(self, shape: Shape, axis: int, indices):
        self.in_shape, self.axis = shape, axis
        self.indices = np.array(indices)
        self.out_shape = (*shape[:axis], len(indices), *shape[axis + 1 :])
        kept = self.indices[self.indices >= 0]
        self.repeats = int(np.bincount(kept, minlength=1).max())
        self.diagonal = self.exact = self.repeats <= 1

    def linear(self, v):
        """Entries of the axis; the row after the last one is zero."""
        v = np.moveaxis(v, self.axis + 1, 0)
        v = np.concatenate([v, np.zeros_like(v[:1])])
        return np.moveaxis(v[self.indices], 0, self.axis + 1)

    def transpose(self, rows):
        """Every entry back, added up where it was taken several times."""
        rows = np.moveaxis(rows, self.axis + 1, 0)
        found = np.zeros((self.in_shape[self.axis], *rows.shape[1:]), rows.dtype)
        there = self.indices >= 0
        np.add.at(found, self.indices[there], rows[there])
        return np.moveaxis(found, 0, self.axis + 1)

    @property
    def counts(self):
        """Nothing forward; backward, what repeats."""
        return Counts(0, self.repeats, 0)


class Permute(Affine):
    """Axis `i` is axis `order[i]` of the input."""

    diagonal = exact = True

    def __init__(self, shape: Shape, order):
        self.in_shape, self.out_shape = shape, tuple(shape[axis] for axis in order)
        self.order = (0, *(axis + 1 for axis in order))

    def linear(self, v):
        """In the new order."""
        return v.transpose(self.order)

    def transpose(self, rows):
        """In the old order."""
        return rows.transpose(np.argsort(self.order))


class Pick(Windows):
    """Of a window's entries, slot by slot, some, less others where they are given."""

    def __init__(self, shape: Shape, size: Shape, strides: Shape, padding, slots: int, plus, minus):
        self.slots, self.plus, self.minus = slots, tuple(plus), tuple(minus)
        super().__init__(shape, size, strides, padding, shape[2] // slots * len(self.plus))
        entries = np.zeros((math.prod(size) * slots, len(self.plus)))
        entries[list(self.plus), range(len(self.plus))] += 1.0
        if self.minus:
            entries[list(self.minus), range(len(self.minus))] -= 1.0
        self.entries = entries.reshape(*size, slots, len(self.plus))

    def only(self, entries) -> Pick | None:
        """The same windows' entries alone, nothing subtracted; None of no entries."""
        window = (self.in_shape, self.size, self.strides, self.padding, self.slots)
        return Pick(*window, entries, ()) if entries else None

    def same(self, other: Pick) -> bool:
        """Whether the other one takes the same entries of the same windows."""
        names = ("in_shape", "size", "strides", "padding", "slots", "plus", "minus")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def _slots(self, v, entries):
        """Sums over slots, `entries` [slots in, slots out], channel by channel."""
        parts = v.reshape(*v.shape[:-1], len(entries), -1)
        if v.dtype == object:
            entries = entries.astype(np.int64)  # exact among fractions
        found = np.einsum("...sc,st->...tc", parts, entries)
        return found.reshape(*v.shape[:-1], -1)

    def linear(self, v):
        """Differences of entries, or entries."""
        return self._apply(v, lambda part, at: self._slots(part, self.entries[at]))

    def absolute(self, v):
        """Their sums."""
        return self._apply(v, lambda part, at: self._slots(part, np.abs(self.entries[at])))

    def transpose(self, rows):
        """Back to the entries, with their signs."""
        return self._spread(rows, lambda part, at: self._slots(part, self.entries[at].T))

    @property
    def counts(self):
        """An entry less another one; the windows' slots."""
        return Counts(2, math.prod(self.size) * len(self.plus), 0)
