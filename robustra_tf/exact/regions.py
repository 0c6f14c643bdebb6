"""Boxes that are still to be decided, many at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Up to so many the worst go first; of more the youngest, which come to an end the soonest.
_RANKED = 2**18


class Regions(NamedTuple):
    """Boxes of the inputs that move.

    Attributes:
      low, high: [n, k], float64.
      open: [n, g], the groups that are not excluded.
      bound: [n], of the box that each is a part of.
      crossing: [n], ReLUs on either side there.
    """

    low: np.ndarray
    high: np.ndarray
    open: np.ndarray
    bound: np.ndarray
    crossing: np.ndarray

    @property
    def boxes(self) -> int:
        """How many."""
        return self.low.shape[0]

    def take(self, index: np.ndarray | slice) -> Regions:
        """Some of them."""
        return Regions(*(part[index] for part in self))

    def joined(self, other: Regions) -> Regions:
        """These and those."""
        return Regions(*map(np.concatenate, zip(self, other, strict=True)))

    def halves(self, score: np.ndarray) -> tuple[Regions, np.ndarray]:
        """Each box in two at the middle of the input of the highest score, which both have.

        Args:
          score: [n, k], finite.

        Returns:
          The halves, and which boxes are so small that float32 has no numbers between their ends,
          in whatever input; these are left out.
        """
        middle = 0.5 * self.low + 0.5 * self.high
        ends = np.maximum(np.abs(self.low), np.abs(self.high)).astype(np.float32)
        wide = self.high - self.low > 2.0 * np.spacing(ends)
        wide &= (self.low < middle) & (middle < self.high)
        rank = np.where(wide, score, -1.0)
        atoms = ~np.any(wide, 1)
        parts = self.take(~atoms)
        index = np.arange(parts.boxes)
        at = rank[~atoms].argmax(1)
        first, second = parts.high.copy(), parts.low.copy()
        first[index, at] = second[index, at] = middle[~atoms][index, at]
        return parts._replace(high=first).joined(parts._replace(low=second)), atoms


class Pool:
    """The boxes that wait."""

    def __init__(self, regions: Regions):
        self._waiting = regions

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting.boxes

    def put(self, regions: Regions) -> None:
        """Adds boxes."""
        self._waiting = self._waiting.joined(regions) if len(self) else regions

    def next(self, most: int, rows: int, each: int) -> Regions:
        """Takes boxes out, those of the least bounds first.

        Args:
          most: boxes.
          rows: as many ReLUs on either side as they may have together, beside one box.
          each: counted with every box.
        """
        waiting = self._waiting
        count = min(most, waiting.boxes)
        if count == waiting.boxes:
            order = np.arange(count)
        elif waiting.boxes > _RANKED:
            order = np.arange(waiting.boxes - count, waiting.boxes)
        else:
            order = np.argpartition(waiting.bound, count - 1)[:count]
        cost = np.cumsum(waiting.crossing[order] + each)
        order = order[: max(1, int(np.searchsorted(cost, rows, "right")))]
        rest = np.ones(waiting.boxes, bool)
        rest[order] = False
        self._waiting = waiting.take(rest)
        return waiting.take(order)
