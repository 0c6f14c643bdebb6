"""Bounds of units, step by step as a proof has them, and of margins by rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .backward import Rows, dot, lower_bounds
from .knowledge import Knowledge
from .rounding import FEW, TINY
from .slopes import CROWN, INTERVAL, WK, Given, Slopes

#: Bytes that the rows of one pass may take at a node.
BUDGET = 2**24


class Asked(NamedTuple):
    """Conditions `c . f + d >= 0` on the outputs, whose margins are `-(c . f + d)`: [k, ...]."""

    rows: np.ndarray
    offset: np.ndarray

    def take(self, which: np.ndarray) -> Asked:
        """Some of them."""
        return Asked(self.rows[which], self.offset[which])


class RowSet(NamedTuple):
    """Rows with multipliers of their own, [q] of them.

    Attributes:
      number: that they have in their example.
      neuron: which unit of its ReLU a row is of.
      end: 1 of a lower bound, -1 of an upper one.
      given: their multipliers.
      weight: of margins that may be taken to be at most 0, [q, j]; None for none.
    """

    number: int
    neuron: np.ndarray
    end: np.ndarray
    given: Given
    weight: np.ndarray | None


class Step(NamedTuple):
    """Bounds of one ReLU, by a rule, or by rows."""

    relu: int
    rule: str
    rows: RowSet | None


def follow(known: Knowledge, steps: Sequence[Step], asked: Asked | None = None) -> None:
    """Takes the steps; `asked` are conditions that are all at least 0 where anything is shown."""
    for step in steps:
        found = _bounds(known, step, asked)
        if known.shadow is not None:
            known.shadow.tighten(step.relu, *_bounds(known.shadow, step, asked))
        known.tighten(step.relu, *found)


def _bounds(known: Knowledge, step: Step, asked: Asked | None):
    below = known.subject.below(step.relu)
    known.forward(below if step.rows is None or step.rows.weight is None else _last(known))
    if step.rule == INTERVAL:
        return known.passed[below].lower, known.passed[below].upper
    if step.rows is not None:
        return _by_rows(known, step.relu, below, step.rows, asked)
    return _by_rule(known, step.relu, below, step.rule)


def _by_rule(known: Knowledge, relu: int, below: int, rule: str):
    """Both ends of what is unstable so far."""
    subject, chosen = known.subject, known.shadow or known
    size, shape = subject.sizes[relu], subject.nodes[below].shape
    bounds = chosen.bounds[relu]
    open_ = np.full((known.count, size), True)
    if bounds is not None:
        open_ = ((bounds[0] < 0) & (bounds[1] > 0)).reshape(known.count, size)
    which = np.flatnonzero(open_.any(0))
    lower, upper = _unknown(known, size)
    slopes = Slopes(known, rule)
    for part in _neighbours(known, which, shape):
        signs, mirrored = np.eye(len(part)), rule == WK
        if not mirrored:
            signs = np.concatenate([signs, -signs])
        rows = {below: Rows(subject.number(signs[None]), part)}
        found = lower_bounds(known, rows, slopes, mirrored=mirrored)
        # What a step says of a set does not depend on the sets that are derived beside it.
        lower[:, part] = np.where(open_[:, part], found[:, : len(part)], lower[:, part])
        upper[:, part] = np.where(open_[:, part], -found[:, len(part) :], upper[:, part])
    return lower.reshape(-1, *shape), upper.reshape(-1, *shape)


def _neighbours(known: Knowledge, which: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Units in parts for passes of their own: of an image, those of one line read alike."""
    line = which // (math.prod(shape[1:]) if len(shape) == 3 else math.prod(shape))
    parts = [which[line == number] for number in np.unique(line)]
    return [part[a:b] for part in parts for a, b in slices(known, len(part), 2)]


def _by_rows(known: Knowledge, relu: int, below: int, rows: RowSet, asked: Asked | None):
    size, shape = known.subject.sizes[relu], known.subject.nodes[below].shape
    lower, upper = _unknown(known, size)
    for first, last in slices(known, len(rows.neuron), 1):
        neuron, end = rows.neuron[first:last], rows.end[first:last]
        part, place = np.unique(neuron, return_inverse=True)
        start = np.zeros((1, last - first, len(part)))
        start[0, np.arange(last - first), place] = end
        starts = {below: Rows(known.subject.number(start), part)}
        slopes = Slopes(known, CROWN, rows.given.take(first, last))
        if rows.weight is None:
            found = lower_bounds(known, starts, slopes)
        else:
            assert asked is not None
            found = weighed_margins(known, asked, rows.weight[first:last], slopes, starts)
        for at, bound in zip(zip(neuron, end, strict=True), found.T, strict=True):
            if at[1] > 0:
                lower[:, at[0]] = np.maximum(lower[:, at[0]], bound)
            else:
                upper[:, at[0]] = np.minimum(upper[:, at[0]], -bound)
    return lower.reshape(-1, *shape), upper.reshape(-1, *shape)


def _unknown(known: Knowledge, size: int):
    kind = object if known.subject.rounding.exact else np.float64
    ends = np.full((known.count, size), -np.inf), np.full((known.count, size), np.inf)
    return tuple(end.astype(kind) for end in ends)


def slices(known: Knowledge, count: int, each: int):
    """Ranges of rows, of which a pass takes `each` times as many."""
    widest = max(math.prod(node.shape) for node in known.subject.nodes)
    step = max(1, BUDGET // (8 * widest * known.count * each))
    return [(first, min(first + step, count)) for first in range(0, count, step)]


def _last(known: Knowledge) -> int:
    return len(known.subject.nodes) - 1


def margins(known: Knowledge, asked: Asked, rule: str) -> np.ndarray:
    """Lower bounds of every condition's margin, [n, k], by a rule."""
    known.forward(_last(known))
    rows = -known.subject.number(asked.rows[None])
    slopes = Slopes(known, WK if rule == WK else CROWN)
    found = lower_bounds(known, {_last(known): Rows(rows)}, slopes, stop=rule == INTERVAL)
    return _kept(known, _less(known, found, asked.offset[None]))


def weighed_margins(
    known: Knowledge, asked: Asked, weight: np.ndarray, slopes: Slopes, starts=None
) -> np.ndarray:
    """Lower bounds of `sum_j weight_j margin_j`, and of rows that start elsewhere: [n, r].

    Args:
      known: of the sets.
      asked: conditions [j].
      weight: [r, j].
      slopes: of the rows.
      starts: further rows by nodes.
    """
    last, number = _last(known), known.subject.number
    known.forward(last)
    weight = number(weight)
    rows = weight @ number(asked.rows)
    found = lower_bounds(known, {last: Rows(-rows[None]), **(starts or {})}, slopes)
    offset = weight @ number(asked.offset)
    if not known.subject.rounding.exact:
        # What adding conditions up may round, in what the outputs multiply and beside it.
        share = FEW * (len(asked.offset) + 1)
        terms = np.abs(weight) @ np.abs(asked.rows)
        found = found - 2 * share * dot(terms[None], known.passed[last].magnitude[:, None])
        found = found - 2 * share * (np.abs(weight) @ np.abs(asked.offset))[None]
    return _kept(known, _less(known, found, offset[None]))


def _less(known: Knowledge, found: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """`found - offset`, rounded downward."""
    less = found - known.subject.number(offset) if known.subject.rounding.exact else found - offset
    if known.subject.rounding.exact:
        return less
    return np.where(offset == 0, found, less - FEW * (np.abs(found) + np.abs(offset)) - TINY)


def _kept(known: Knowledge, found: np.ndarray) -> np.ndarray:
    """Nothing is known where numbers overflow."""
    if known.subject.rounding.exact:
        return found
    fine = known.safe[:, None] & np.isfinite(found)
    return np.where(fine, found, -np.inf)
