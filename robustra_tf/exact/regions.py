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
      node: [n], by which a record of all boxes knows them.
      offset, normal: [n] and [n, k]: `normal . x + offset <= 0` wherever the one open group of a
        box is unsafe; 0 where more is open.
    """

    low: np.ndarray
    high: np.ndarray
    open: np.ndarray
    bound: np.ndarray
    crossing: np.ndarray
    node: np.ndarray
    offset: np.ndarray
    normal: np.ndarray

    @classmethod
    def whole(cls, low: np.ndarray, high: np.ndarray, groups: int, crossing: int) -> Regions:
        """The box [k] of which all others are parts, with so many groups, all open."""
        return cls(
            low[None],
            high[None],
            np.ones((1, groups), bool),
            np.full(1, -np.inf),
            np.full(1, float(crossing)),
            np.zeros(1, int),
            np.zeros(1),
            np.zeros((1, len(low))),
        )

    @property
    def middle(self) -> np.ndarray:
        """Of each, [n, k]."""
        return 0.5 * self.low + 0.5 * self.high

    @property
    def radius(self) -> np.ndarray:
        """Half of each width, [n, k]."""
        return 0.5 * (self.high - self.low)

    @property
    def half_space(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each its value in the middle, [n], and its slope by half of each width, [n, k]."""
        value = self.offset + (self.normal * self.middle).sum(1)
        return value, self.normal * self.radius

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

    def cuts(self, score: np.ndarray) -> Cuts:
        """Where each box is halved: in the middle of the input of the highest score [n, k]."""
        middle = self.middle
        ends = np.maximum(np.abs(self.low), np.abs(self.high)).astype(np.float32)
        wide = self.high - self.low > 2.0 * np.spacing(ends)
        wide &= (self.low < middle) & (middle < self.high)
        entry = np.where(wide, score, -1.0).argmax(1)
        return Cuts(np.where(np.any(wide, 1), entry, -1), middle[np.arange(self.boxes), entry])

    def halves(self, cuts: Cuts, node: np.ndarray) -> Regions:
        """Both halves of every box, each of which is cut: those above, then those below.

        Args:
          cuts: of the boxes.
          node: [2 n] of the halves.
        """
        index = np.arange(self.boxes)
        above, below = self.low.copy(), self.high.copy()
        above[index, cuts.entry] = below[index, cuts.entry] = cuts.at
        both = self._replace(low=above).joined(self._replace(high=below))
        return both._replace(node=node)


class Cuts(NamedTuple):
    """Where boxes are halved.

    Attributes:
      entry: [n], along which input, -1 of a box so small that float32 has no numbers between its
        ends, in whatever input.
      at: [n], where.
    """

    entry: np.ndarray
    at: np.ndarray


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
