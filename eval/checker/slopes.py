"""The lines that rows pass ReLUs by: those of a rule, or multipliers that a proof gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .backward import Rows
from .knowledge import Knowledge
from .lines import Lines, adaptive, chord, intercept, settled, with_phases
from .rejection import RejectedError

INTERVAL, WK, CROWN = "interval", "wk", "crown"
RULES = (INTERVAL, WK, CROWN)
_NONE = np.zeros(0, np.int64)


class Given(NamedTuple):
    """Multipliers of `r` rows. Units are those of all ReLUs, one after the other.

    Attributes:
      unit: whose slopes are given, [m], increasing.
      alpha: these slopes, [r, m], within [0, 1]; bytes are 255ths.
      row, fixed, sign, beta: of phases that are fixed, [p] each: in which row, of which unit, 1 or
        -1, and its multiplier at least 0. Rows increase.
    """

    unit: np.ndarray
    alpha: np.ndarray
    row: np.ndarray
    fixed: np.ndarray
    sign: np.ndarray
    beta: np.ndarray

    def take(self, first: int, last: int) -> Given:
        """The rows `first` to `last`, with slopes in float64."""
        a, b = np.searchsorted(self.row, [first, last])
        phases = (part[a:b] for part in (self.fixed, self.sign, self.beta))
        alpha = self.alpha[first:last]
        alpha = alpha / 255.0 if alpha.dtype == np.uint8 else alpha.astype(np.float64)
        return Given(self.unit, alpha, self.row[a:b] - first, *phases)


class Slopes:
    """Lines of the ReLUs by their nodes, for the present bounds."""

    def __init__(self, known: Knowledge, rule: str, given: Given | None = None):
        self.known, self.rule, self.given = known, rule, given
        self._fixed: dict[int, np.ndarray] = {}

    def fixed(self, node: int) -> np.ndarray:
        """Units of a ReLU of which any row fixes the phase, increasing."""
        if self.given is None or not len(self.given.fixed):
            return _NONE
        if node not in self._fixed:
            start, end = self._units(node)
            inside = (self.given.fixed >= start) & (self.given.fixed < end)
            self._fixed[node] = np.unique(self.given.fixed[inside]) - start
        return self._fixed[node]

    def lines(self, node: int, rows: Rows) -> Lines:
        """The lines of a ReLU for the columns of rows, [n, r or 1, c] each."""
        number = self.known.subject.relus.index(node)
        slope, above, below, open_ = (rows.of(part)[:, None] for part in self._rule(number, node))
        lines = Lines(slope if self.rule == WK else below, slope, above)
        if self.given is None:
            return lines
        start, end = self._units(node)
        count = len(self.given.alpha)
        a, b = np.searchsorted(self.given.unit, [start, end])
        place, size = None, rows.values.shape[-1]
        if a < b:
            place = _places(rows, end - start)
            at = place[self.given.unit[a:b] - start]
            there = at >= 0
            wide = np.broadcast_to(lines.below, (self.known.count, count, size)).copy()
            at, alpha = at[there], self._number(self.given.alpha[None, :, a:b][..., there])
            wide[..., at] = np.where(open_[..., at], alpha, wide[..., at])
            lines = lines._replace(below=wide)
        if not len(self.fixed(node)):
            return lines
        own = (self.given.fixed >= start) & (self.given.fixed < end)
        place = _places(rows, end - start) if place is None else place
        phases, beta = np.zeros((count, size), np.int8), np.zeros((count, size))
        where = self.given.row[own], place[self.given.fixed[own] - start]
        phases[where], beta[where] = self.given.sign[own], self.given.beta[own]
        return with_phases(lines, phases[None], self._number(beta)[None])

    def _units(self, node: int) -> tuple[int, int]:
        number = self.known.subject.relus.index(node)
        return self.known.subject.starts[number], self.known.subject.starts[number + 1]

    def _rule(self, number: int, node: int):
        """The slope above, its intercept, CROWN's slope below, and what is unstable: [n, size]."""
        known = self.known
        if number not in known.lines:
            bounds = known.bounds[number]
            if bounds is None or not all(_finite(end) for end in bounds):
                where = f"ReLU {number} (network[{node}])"
                raise RejectedError(where, "bounds", "a row passes it before it has finite bounds")
            lower, upper = (end.reshape(known.count, -1) for end in bounds)
            chosen = (known.shadow or known).bounds[number] or bounds
            low, high = (np.asarray(end, np.float64).reshape(known.count, -1) for end in chosen)
            slope = self._number(chord(low, high))
            known.lines[number] = (
                slope,
                intercept(slope, lower, upper, known.subject.rounding.exact),
                self._number(settled(adaptive(low, high), low, high)),
                (low < 0) & (high > 0),
            )
        return known.lines[number]

    def _number(self, values: np.ndarray) -> np.ndarray:
        """Values as the derivation has them."""
        return self.known.subject.number(values)


def _places(rows: Rows, size: int) -> np.ndarray:
    """Where among the columns of rows each of so many units is, -1 of others."""
    if rows.at is None:
        return np.arange(size)
    place = np.full(size, -1)
    place[rows.at] = np.arange(len(rows.at))
    return place


def _finite(values: np.ndarray) -> bool:
    return bool((np.abs(values) < np.inf).all())
