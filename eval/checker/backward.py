"""One backward pass of rows, with everything that rounding may take away subtracted.

A row `c` on a node's values is carried to the input. Each number that is computed is taken as it
is, and what it may be off what it should be is charged with the largest value that it multiplies:
so the result is a lower bound over all networks that `known` speaks of. At a ReLU nothing has to
be charged. A coefficient `a >= 0` times a slope in [0, 1] rounds to something in [0, a], that is to
another such slope; `a - beta` rounds to at most `a`, which is another multiplier at least 0.

Only columns that may not be zero are carried: a unit that is dead on all sets has none, and a
convolution reads few.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np

from .knowledge import Knowledge
from .lines import Lines
from .operations import Add, Affine, Reshape, Scale
from .rejection import RejectedError
from .rounding import SMALLEST, TINY, UNIT64
from .sets import Region, lowest
from .windows import Convolution

#: Restricted matrices that are kept.
_KEPT = 12
#: How many times as many numbers a dense product may multiply as one that knows of the zeros.
_DENSE = 4


class Rows(NamedTuple):
    """Coefficients on a node's values, [n or 1, r, c], of the columns `at` alone; None is all."""

    values: np.ndarray
    at: np.ndarray | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """What belongs to the columns, [..., c], of values [..., size]."""
        return values if self.at is None else values[..., self.at]


class Passage(Protocol):
    """How ReLUs are passed, by the numbers of their nodes."""

    def lines(self, node: int, rows: Rows) -> Lines:
        """The lines for the columns of rows."""
        ...

    def fixed(self, node: int) -> np.ndarray:
        """Units of which any row fixes the phase."""
        ...


def lower_bounds(
    known: Knowledge,
    rows: Mapping[int, Rows],
    passage: Passage,
    stop: bool = False,
    mirrored: bool = False,
) -> np.ndarray:
    """Lower bounds of `sum row . v` over each set, [n, r].

    Args:
      known: of the sets, and of all nodes up to those that are meant.
      rows: for each node whose values `v` are meant.
      passage: the lines of ReLUs on the way.
      stop: whether rows end at the intervals of the first ReLUs that they come to instead.
      mirrored: whether the negated rows are bounded too, behind the others: [n, 2 r]. They take the
        same way where lines have one slope above and below.
    """
    return _Pass(known, passage, stop, mirrored).run(rows)


class _Pass:
    """The pass; `lost` is what rounding takes away, `size` what `total` was added up from."""

    def __init__(self, known: Knowledge, passage: Passage, stop: bool, mirrored: bool):
        self.known, self.passage, self.stop, self.mirrored = known, passage, stop, mirrored
        self.nodes, self.rounding = known.subject.nodes, known.subject.rounding
        self.exact = self.rounding.exact
        self.total: Any = 0
        self.size: Any = 0
        self.lost: Any = 0
        self.terms = 0
        self.pending: dict[int, Rows] = {}

    def run(self, rows: Mapping[int, Rows]) -> np.ndarray:
        for index, (values, at) in rows.items():
            given = Rows(np.broadcast_to(values, (self.known.count, *values.shape[1:])), at)
            self._charge(given, index)
            self._arrive(index, given)
        for at in range(max(rows), 0, -1):
            if at in self.pending:
                here = self.pending.pop(at)
                if self.nodes[at].op != "relu":
                    self._past_affine(at, here)
                elif self.stop:
                    self._end(at, here)
                else:
                    self._past_relu(at, here)
        here = self.pending.get(0)
        if here is not None:
            self._lowest(self.known.region.columns(here.at), here.values)
        if self.exact:
            return _all_exact(self.total)
        slack = 8 * UNIT64 * (self.terms + 2) * (self.size + self.lost)
        return self.total - (self.lost * (1 + 4 * self.rounding.gamma) + slack + TINY)

    def _past_relu(self, at: int, here: Rows) -> None:
        if here.at is None:
            wanted = np.flatnonzero(self._wanted(at))
            here = Rows(here.values[..., wanted], wanted)
        line = self.passage.lines(at, here)
        positive = np.maximum(here.values, 0)
        negative = here.values - positive
        other = -dot(positive, line.intercept) if self.mirrored else None
        self._add(dot(negative, line.intercept), other, one_sign=True)
        self._flushed(here.values)
        there = positive * line.below
        there += negative * line.above
        if line.extra is not None:
            there += line.extra
        (below,) = self.nodes[at].inputs
        self._charge(Rows(there, here.at), below)
        self._arrive(below, Rows(there, here.at))

    def _end(self, at: int, here: Rows) -> None:
        """A ReLU's interval in place of what is before it."""
        one = self.known.passed[at]
        self._lowest(Region(one.lower, one.upper).columns(here.at), here.values)
        self._flushed(here.values)

    def _lowest(self, region: Region, values: np.ndarray) -> None:
        other = lowest(region, -values, self.rounding) if self.mirrored else None
        self._add(lowest(region, values, self.rounding), other)

    def _flushed(self, values: np.ndarray) -> None:
        """What float32 flushes to zero behind a ReLU."""
        if self.rounding.float32:
            self._lose(SMALLEST * np.abs(values).sum(-1))

    def _past_affine(self, at: int, here: Rows) -> None:
        node, subject = self.nodes[at], self.known.subject
        offset = subject.offsets[at]
        if offset is not None:
            # Its rounding is part of what is charged where the node's values are met.
            value = dot(here.values, here.of(offset.reshape(1, 1, -1)))
            self._add(value, -value if self.mirrored else None)
        op = node.affine
        if isinstance(op, Add | Reshape):
            there = here
        elif isinstance(op, Scale):
            scale = np.broadcast_to(op.scale, op.out_shape).reshape(1, 1, -1)
            there = Rows(here.values * here.of(scale), here.at)
        else:
            there = self._past_matrix(at, here)
        for i in node.inputs:
            self._arrive(i, there)

    def _past_matrix(self, at: int, here: Rows) -> Rows:
        node, count = self.nodes[at], here.values.shape[:2]
        matrix = self.known.subject.matrix(at)
        columns, part = (None, None) if matrix is None else self._restricted(at, matrix, here.at)
        if columns is None or part is None or self._sparse(node.affine, len(part), len(columns)):
            full = here.values
            if here.at is not None:
                full = np.zeros((*count, np.prod(node.shape, dtype=int)), here.values.dtype)
                full[..., here.at] = here.values
            there = node.affine.transpose(full.reshape(-1, *node.shape))
            there = there.reshape(*count, -1)
            return Rows(there) if columns is None else Rows(there[..., columns], columns)
        return Rows(_product(here.values, part), columns)

    def _sparse(self, op: Affine, rows: int, columns: int) -> bool:
        """Whether the part of a matrix that matters has so many zeros that it is not worth it."""
        return isinstance(op, Convolution) and rows * columns > _DENSE * op.products

    def _restricted(self, at: int, matrix: np.ndarray, rows: np.ndarray | None):
        """The columns of some rows of a matrix that matter, and these."""
        below = self.nodes[at].inputs[0]
        while isinstance(self.nodes[below].op, Reshape):
            below = self.nodes[below].inputs[0]
        wanted, fixed = None, np.zeros(0, np.int64)
        if self.nodes[below].op == "relu":
            wanted, fixed = self._wanted(below), self.passage.fixed(below)
        key = (at, b"" if rows is None else rows.tobytes(), fixed.tobytes())
        kept = self.known.restricted
        if key not in kept:
            there = self.known.subject.reads(at, rows)
            if wanted is not None:
                there = there & wanted
            there[fixed] = True
            columns = np.flatnonzero(there)
            some = (matrix if rows is None else matrix[rows])[:, columns]
            if len(kept) >= _KEPT:
                kept.pop(next(iter(kept)))
            kept[key] = columns, some if self.exact else some.astype(np.float64)
        return kept[key]

    def _wanted(self, relu: int) -> np.ndarray:
        """Units of a ReLU that are not dead on all sets, or whose phase a row fixes."""
        upper = self.known.passed[relu].upper
        wanted = np.array(~(upper.reshape(self.known.count, -1) <= 0).all(0))
        wanted[self.passage.fixed(relu)] = True
        return wanted

    def _arrive(self, index: int, rows: Rows) -> None:
        """Rows that come to a node, in addition to those that are there."""
        if index in self.pending:
            rows = _sum(self.pending[index], rows, self.nodes[index].shape)
            if not self.exact:
                magnitude = rows.of(_flat(self.known.passed[index].magnitude))
                self._lose(2 * UNIT64 * dot(np.abs(rows.values), magnitude))
        self.pending[index] = rows

    def _charge(self, rows: Rows, index: int) -> None:
        """What rounding may have moved a node's values since the last ReLU, for these rows."""
        off = self.known.passed[index].pushed
        if off is not None:
            self._lose(dot(np.abs(rows.values), rows.of(_flat(off))))

    def _lose(self, value: np.ndarray) -> None:
        """The same for rows and for what mirrors them."""
        self.lost = self.lost + (np.tile(value, 2) if self.mirrored else value)

    def _add(self, value: np.ndarray, other: Any = None, one_sign: bool = False) -> None:
        """A sum of numbers of one sign is off by a share of itself, which is counted here."""
        if other is not None:
            value = np.concatenate([value, other], axis=1)
        self.total = self.total + value
        if not self.exact:
            self.size, self.terms = self.size + np.abs(value), self.terms + 1
            if one_sign:
                self.lost = self.lost + 2 * self.rounding.gamma * np.abs(value)


def _product(values: np.ndarray, part: np.ndarray) -> np.ndarray:
    """`values @ part`; rows of single entries, and these negated, are the matrix's own."""
    rows, size = values.shape[1:]
    if size > 1 and rows in (size, 2 * size):
        unit = np.eye(size)
        if (values[:, :size] == unit).all() and (values[:, size:] == -unit[: rows - size]).all():
            own = part if rows == size else np.concatenate([part, -part])
            return np.broadcast_to(own, (len(values), *own.shape))
    return values @ part


def _sum(first: Rows, second: Rows, shape: tuple[int, ...]) -> Rows:
    """The sum of two rows' coefficients, whichever columns they have."""
    if first.at is second.at:
        return Rows(first.values + second.values, first.at)
    full = np.zeros((*first.values.shape[:2], np.prod(shape, dtype=int)), first.values.dtype)
    for rows in (first, second):
        if rows.at is None:
            full += rows.values
        else:
            full[..., rows.at] += rows.values
    return Rows(full)


def _flat(values: np.ndarray) -> np.ndarray:
    """[n, *shape] as [n, 1, size]."""
    return values.reshape(len(values), 1, -1)


def _all_exact(values: np.ndarray) -> np.ndarray:
    """Values of which none became a floating-point number on the way."""
    if not all(isinstance(value, Fraction | int) for value in values.reshape(-1).tolist()):
        raise RejectedError("arithmetic", "exact", "a result is no fraction")
    return values


def dot(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`sum_j row_j value_j`, [n, r], of rows [n, r, c] and values that broadcast to them."""
    if values.shape[1] == 1:
        return (rows @ values.transpose(0, 2, 1))[..., 0]
    return (rows * values).sum(-1)
