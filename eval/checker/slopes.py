"""The lines that rows pass ReLUs by: those of a rule, or multipliers that a proof gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .knowledge import Knowledge
from .lines import Lines, adaptive, chord, intercept, settled, with_phases
from .rejection import RejectedError

INTERVAL, WK, CROWN = "interval", "wk", "crown"
RULES = (INTERVAL, WK, CROWN)


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

    def __getitem__(self, node: int) -> Lines:
        subject = self.known.subject
        number = subject.relus.index(node)
        lines = self._rule(number, node)
        if self.given is None:
            return lines
        shape, size = subject.nodes[node].shape, subject.sizes[number]
        start, rows = subject.starts[number], len(self.given.alpha)
        a, b = np.searchsorted(self.given.unit, [start, start + size])
        if a < b:
            below = np.broadcast_to(lines.below, (self.known.count, rows, *shape))
            below = below.reshape(self.known.count, rows, size).copy()
            at = self.given.unit[a:b] - start
            lower, upper = self._reference(number)
            open_ = ((lower < 0) & (upper > 0)).reshape(self.known.count, 1, size)[..., at]
            alpha = self.number(self.given.alpha[None, :, a:b])
            below[..., at] = np.where(open_, alpha, below[..., at])
            lines = lines._replace(below=below.reshape(-1, rows, *shape))
        own = (self.given.fixed >= start) & (self.given.fixed < start + size)
        if not own.any():
            return lines
        phases, beta = np.zeros((rows, size), np.int8), np.zeros((rows, size))
        where = self.given.row[own], self.given.fixed[own] - start
        phases[where], beta[where] = self.given.sign[own], self.given.beta[own]
        full = (1, rows, *shape)
        return with_phases(lines, phases.reshape(full), self.number(beta).reshape(full))

    def _rule(self, number: int, node: int) -> Lines:
        known = self.known
        if number in known.lines:
            slope, above, below = known.lines[number]
        else:
            bounds = known.bounds[number]
            if bounds is None or not all(_finite(end) for end in bounds):
                where = f"ReLU {number} (network[{node}])"
                raise RejectedError(where, "bounds", "a row passes it before it has finite bounds")
            reference = self._reference(number)
            slope = self.number(chord(*reference))
            above = intercept(slope, *bounds, known.subject.rounding.exact)
            below = self.number(settled(adaptive(*reference), *reference))
            known.lines[number] = slope, above, below
        below = slope if self.rule == WK else below
        return Lines(below[:, None], slope[:, None], above[:, None])

    def _reference(self, number: int):
        """The bounds that slopes are chosen by."""
        bounds = (self.known.shadow or self.known).bounds[number]
        assert bounds is not None
        return bounds

    def number(self, values: np.ndarray) -> np.ndarray:
        """Values as the derivation has them."""
        return self.known.subject.number(values)


def _finite(values: np.ndarray) -> bool:
    return bool((np.abs(values) < np.inf).all())
