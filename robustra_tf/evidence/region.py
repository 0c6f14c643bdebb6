"""The inputs that a proof speaks of, and the least of an affine function over them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Region(NamedTuple):
    """`{x : ||x - centre|| <= radius} and low <= x <= high`, flattened, in float64.

    Attributes:
      low, high: [n], of `linf` all that there is.
      centre: [n], of an `l2` or `l1` ball.
      radius: of that; of `linf` of no account.
      norm: `linf`, `l2` or `l1`.
    """

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    radius: float
    norm: str

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        eps: float | np.ndarray,
        norm: str,
        box: tuple[np.ndarray | float, np.ndarray | float] | None,
    ) -> Region:
        """About one input, of whatever shape; `eps` and `box` are for all entries or for each."""
        centre, radius = np.ravel(x).astype(np.float64), np.ravel(eps)
        low, high = centre - radius, centre + radius
        if box is not None:
            low, high = np.maximum(low, np.ravel(box[0])), np.minimum(high, np.ravel(box[1]))
        return cls(low, high, centre, float(radius.max()), norm)

    def least(self, rows: np.ndarray, mirrored: bool = False) -> np.ndarray:
        """`min rows . x` for rows [q, n], [1, q]; of an `l2` ball a lower bound of it.

        Where `mirrored`, that of the negated rows is behind, [2, q]. Of an `l1` ball within
        intervals it is a knapsack: the entries of the largest coefficients go as far as they may
        until the radius is spent. Of an `l2` ball the better of the ball and the intervals counts.
        """
        positive = np.maximum(rows, 0.0)
        negative = rows - positive
        found = [positive @ self.low + negative @ self.high]
        if mirrored:
            found.append(-(positive @ self.high + negative @ self.low))
        if self.norm == "linf":
            return np.stack(found)
        signs = (1.0, -1.0)[: len(found)]
        if self.norm == "l1":
            return np.stack([self._knapsack(sign * rows) for sign in signs])
        with np.errstate(over="ignore"):
            reach, middle = self.radius * np.linalg.norm(rows, axis=1), rows @ self.centre
        return np.maximum(np.stack(found), [sign * middle - reach for sign in signs])

    def _knapsack(self, rows: np.ndarray) -> np.ndarray:
        """The least over an `l1` ball within intervals, [q]."""
        end = np.where(rows > 0, self.low, self.high)
        size, room = np.abs(rows), np.abs(end - self.centre)
        order = np.argsort(-size, axis=1, kind="stable")
        room = np.take_along_axis(room, order, 1)
        spent = np.cumsum(room, axis=1) - room
        moved = np.clip(self.radius - spent, 0.0, room)
        return rows @ self.centre - (np.take_along_axis(size, order, 1) * moved).sum(1)

    @property
    def farthest(self) -> np.ndarray:
        """[n], what `|x|` is at most."""
        return np.maximum(np.abs(self.low), np.abs(self.high))
