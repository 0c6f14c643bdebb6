"""Bounds of a restricted network's units for each target of a search, and rows that better them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustra_tf.exact.dense import Lines
from robustra_tf.exact.restriction import Restriction


class Rows(NamedTuple):
    """Bounds of units of one node that lean on a target's margins, as they are written down.

    Attributes:
      target: its place.
      unit: [q] units of the restricted network.
      sign: [q], 1 where the lower end is bounded, -1 where the upper one is.
      alpha: [q, m] lower slopes.
      weight: [q, j] float32, of the target's margins in their own units.
    """

    target: int
    unit: np.ndarray
    sign: np.ndarray
    alpha: np.ndarray
    weight: np.ndarray

    def take(self, which: np.ndarray) -> Rows:
        """Some of them."""
        return Rows(self.target, *(part[which] for part in self[1:]))


class Ends:
    """Bounds of units, [targets, m], with the lines that follow from them."""

    def __init__(self, relu: np.ndarray, lower: np.ndarray, upper: np.ndarray):
        """Of units [m] that are ReLUs or not."""
        self.relu, self.lower, self.upper = relu, lower, upper
        self.lines = Lines.of(relu, lower, upper)

    @classmethod
    def of(cls, r: Restriction, targets: int) -> Ends:
        """Those of a restriction, for each of some targets."""
        return cls(r.relu, *(np.repeat(end[None], targets, 0) for end in (r.lower, r.upper)))

    def copy(self) -> Ends:
        """The same, to go on from in another way."""
        return Ends(self.relu, self.lower.copy(), self.upper.copy())

    def again(self, target: int) -> Ends:
        """These, and behind them those of one target once more."""
        ends = (np.concatenate([end, end[[target]]]) for end in (self.lower, self.upper))
        return Ends(self.relu, *ends)

    def of_target(self, target: int) -> Lines:
        """The lines [1, m] of one target."""
        return Lines(*(part[target][None] for part in self.lines))

    def tighten(self, target: int, units: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> bool:
        """Takes in bounds [c] of some units; true if there is nothing between any unit's."""
        low, high = self.lower[target], self.upper[target]
        low[units], high[units] = np.maximum(low[units], lower), np.minimum(high[units], upper)
        lines = Lines.of(self.relu, low[None], np.maximum(low, high)[None])
        for whole, line in zip(self.lines, lines, strict=True):
            whole[target] = line[0]
        return bool((low > high).any())
