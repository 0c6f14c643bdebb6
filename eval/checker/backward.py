"""One backward pass of rows, with everything that rounding may take away subtracted.

A row `c` on a node's values is carried to the input. Each number that is computed is taken as it
is, and what it may be off what it should be is charged with the largest value that it multiplies:
so the result is a lower bound over all networks that `knowledge` speaks of. At a ReLU nothing has
to be charged. A coefficient `a >= 0` times a slope in [0, 1] rounds to something in [0, a], that is
to another such slope; `a - beta` rounds to at most `a`, which is another multiplier at least 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from .knowledge import Knowledge
from .lines import Lines
from .rejection import RejectedError
from .rounding import SMALLEST, TINY, UNIT64
from .sets import Region, lowest


class Passage(Protocol):
    """The lines of a ReLU by the number of its node."""

    def __getitem__(self, node: int) -> Lines: ...


def lower_bounds(
    known: Knowledge,
    rows: Mapping[int, np.ndarray],
    lines: Passage,
    stop: bool = False,
) -> np.ndarray:
    """Lower bounds of `sum row . v` over each set, [n, r].

    Args:
      known: of the sets, and of all nodes up to those that are meant.
      rows: for each node whose values `v` are meant, [n or 1, r, *shape].
      lines: of every ReLU on the way.
      stop: whether rows end at the intervals of the first ReLUs that they come to instead.
    """
    return _Pass(known, lines, stop).run(rows)


class _Pass:
    """The pass; `lost` is what rounding takes away, `size` what `total` was added up from."""

    def __init__(self, known: Knowledge, lines: Passage, stop: bool):
        self.known, self.lines, self.stop = known, lines, stop
        self.nodes, self.rounding = known.subject.nodes, known.subject.rounding
        self.exact = self.rounding.exact
        self.total: Any = 0
        self.size: Any = 0
        self.lost: Any = 0
        self.terms = 0
        self.pending: dict[int, np.ndarray] = {}

    def run(self, rows: Mapping[int, np.ndarray]) -> np.ndarray:
        for index, given in rows.items():
            given = np.broadcast_to(given, (self.known.count, *given.shape[1:]))
            self._charge(given, index)
            self._reach(index, given)
        for at in range(max(rows), 0, -1):
            if at in self.pending:
                node, here = self.nodes[at], self.pending.pop(at)
                if node.op != "relu":
                    self._past_affine(at, node, here)
                elif self.stop:
                    one = self.known.passed[at]
                    self._add(lowest(Region(one.lower, one.upper), here, self.rounding))
                    self._flushed(here)
                else:
                    self._past_relu(at, node.inputs[0], here)
        here = self.pending.get(0)
        if here is not None:
            self._add(lowest(self.known.region, here, self.rounding))
        if self.exact:
            return _all_exact(self.total)
        slack = 8 * UNIT64 * (self.terms + 2) * (self.size + self.lost)
        return self.total - (self.lost * (1 + 4 * self.rounding.gamma) + slack + TINY)

    def _past_relu(self, at: int, below: int, here: np.ndarray) -> None:
        line = self.lines[at]
        positive = np.maximum(here, 0)
        negative = here - positive
        self._add(dot(negative, line.intercept), one_sign=True)
        self._flushed(here)
        there = positive * line.below
        there += negative * line.above
        if line.extra is not None:
            there += line.extra
        self._charge(there, below)
        self._reach(below, there)

    def _flushed(self, here: np.ndarray) -> None:
        """What float32 flushes to zero behind a ReLU."""
        if self.rounding.float32:
            self.lost = self.lost + SMALLEST * np.abs(here).reshape(*here.shape[:2], -1).sum(-1)

    def _past_affine(self, at: int, node, here: np.ndarray) -> None:
        offset = self.known.subject.offsets[at]
        if offset is not None:
            # Its rounding is part of what is charged where the node's values are met.
            self._add(dot(here, offset[None, None]))
        merged = node.affine.transpose(here.reshape(-1, *node.shape))
        there = merged.reshape(*here.shape[:2], *node.affine.in_shape)
        for i in node.inputs:
            self._reach(i, there)

    def _reach(self, index: int, rows: np.ndarray) -> None:
        """Rows that arrive at a node, in addition to those that are there."""
        if index in self.pending:
            rows = self.pending[index] + rows
            if not self.exact:
                magnitude = self.known.passed[index].magnitude[:, None]
                self.lost = self.lost + 2 * UNIT64 * dot(np.abs(rows), magnitude)
        self.pending[index] = rows

    def _charge(self, rows: np.ndarray, index: int) -> None:
        """What rounding may have moved a node's values since the last ReLU, for these rows."""
        off = self.known.passed[index].pushed
        if off is not None:
            self.lost = self.lost + dot(np.abs(rows), off[:, None])

    def _add(self, value: np.ndarray, one_sign: bool = False) -> None:
        """A sum of numbers of one sign is off by a share of itself, which is counted here."""
        self.total = self.total + value
        if not self.exact:
            self.size, self.terms = self.size + np.abs(value), self.terms + 1
            if one_sign:
                self.lost = self.lost + 2 * self.rounding.gamma * np.abs(value)


def _all_exact(values: np.ndarray) -> np.ndarray:
    """Values of which none became a floating-point number on the way."""
    if not all(isinstance(value, Fraction | int) for value in values.reshape(-1).tolist()):
        raise RejectedError("arithmetic", "exact", "a result is no fraction")
    return values


def dot(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`sum_j row_j value_j`, [n, r], of rows [n, r, *shape] and values that broadcast to them."""
    flat = rows.reshape(*rows.shape[:2], -1)
    values = values.reshape(*values.shape[:2], -1)
    if values.shape[1] == 1:
        return (flat @ values.transpose(0, 2, 1))[..., 0]
    return (flat * values).sum(-1)
