"""Sets of inputs that proofs speak of: boxes, and balls within boxes, rounded outward."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .rounding import FEW, TINY, Rounding

#: Balls of which `support` knows the norm.
ROUND = ("l2", "l1")


class Region(NamedTuple):
    """Of `n` sets, each a box, or what it has in common with a ball.

    Attributes:
      low, high: [n, *shape], the box.
      norm: of the ball, `l2` or `l1`; None where there is none.
      centre: of the ball, [n, *shape].
      radius: [n].
    """

    low: np.ndarray
    high: np.ndarray
    norm: str | None = None
    centre: Any = None
    radius: Any = None

    def take(self, which: np.ndarray | slice) -> Region:
        """Some of the sets."""
        ball = (None if a is None else a[which] for a in (self.centre, self.radius))
        return Region(self.low[which], self.high[which], self.norm, *ball)

    def columns(self, at: np.ndarray | None) -> Region:
        """Entries in a row, [n, size], some of them alone where that is asked for."""

        def some(values: np.ndarray) -> np.ndarray:
            flat = values.reshape(len(values), -1)
            return flat if at is None else flat[:, at]

        centre = None if self.centre is None else some(self.centre)
        return Region(some(self.low), some(self.high), self.norm, centre, self.radius)

    @property
    def magnitude(self) -> np.ndarray:
        """The largest absolute value of each entry."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def ball(norm: str, x: np.ndarray, radius: np.ndarray, walls: Any, rounding: Rounding) -> Region:
    """Balls about images, cut to walls.

    Args:
      norm: `linf`, `l2` or `l1`.
      x: images [n, *shape].
      radius: [n, *shape] for `linf`, else [n].
      walls: lower and upper ends [n, *shape], or None.
      rounding: how the ends are rounded outward.
    """
    reach = radius if norm == "linf" else radius.reshape(-1, *(1,) * (x.ndim - 1))
    low, high = x - reach, x + reach
    if not rounding.exact:
        low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
    if walls is not None:
        low, high = np.maximum(low, walls[0]), np.minimum(high, walls[1])
    if norm == "linf":
        return Region(low, high)
    return Region(low, high, norm, x, radius)


def within(norm: str, centre: np.ndarray, reach: np.ndarray, walls: Any, point: np.ndarray) -> bool:
    """Whether a point is in the ball about an image and between walls, in real numbers.

    Args:
      norm: `linf`, `l2` or `l1`.
      centre: [*shape].
      reach: the radius, [*shape] for `linf`, else one number.
      walls: lower and upper ends [*shape], or None.
      point: [*shape].
    """
    x, radius, flat = centre.ravel(), reach.ravel(), point.ravel()
    if walls is not None:
        low, high = (wall.ravel() for wall in walls)
        if not ((flat >= low) & (flat <= high)).all():
            return False
    moved = np.abs(flat - x)
    if norm == "linf":
        # One subtraction is off by less than this share; fractions decide what is as close.
        near = np.abs(moved - radius) <= FEW * radius + TINY
        exact = zip(flat[near].tolist(), x[near].tolist(), radius[near].tolist(), strict=True)
        return bool((moved <= radius)[~near].all()) and all(
            abs(Fraction(a) - Fraction(b)) <= Fraction(r) for a, b, r in exact
        )
    power, (own,) = 1 if norm == "l1" else 2, radius.tolist()
    size, most = float((moved**power).sum()), own**power
    if np.isfinite(size) and abs(size - most) > FEW * (len(x) + 100) * most + TINY:
        return size <= most
    pairs = zip(flat.tolist(), x.tolist(), strict=True)
    return sum(abs(Fraction(a) - Fraction(b)) ** power for a, b in pairs) <= Fraction(own) ** power


def lowest(region: Region, rows: np.ndarray, rounding: Rounding) -> np.ndarray:
    """A lower bound of `row . x` over each set: rows [n, r, *shape] to [n, r]."""
    flat = rows.reshape(*rows.shape[:2], -1)
    positive = np.maximum(flat, 0)
    low, high, most = (_columns(a) for a in (region.low, region.high, region.magnitude))
    # What is not positive is the rest: no entry is in both.
    found = (positive @ low + (flat - positive) @ high)[..., 0]
    if rounding.gamma:
        found = found - (rounding.gamma * (np.abs(flat) @ most)[..., 0] + TINY)
    if region.norm is None:
        return found
    middle = (flat @ _columns(region.centre))[..., 0]
    reach = _far(flat, region, rounding)
    if rounding.gamma:
        sizes = (np.abs(flat) @ _columns(np.abs(region.centre)))[..., 0]
        reach = reach * (1 + 4 * rounding.gamma) + rounding.gamma * sizes + TINY
    return np.maximum(found, middle - reach)


def _far(flat: np.ndarray, region: Region, rounding: Rounding) -> np.ndarray:
    """How far below its value at the centre a row can fall, up to rounding: [n, r]."""
    # An entry that cannot move takes no part in the ball.
    moving = (region.high > region.low).reshape(len(flat), 1, -1)
    size = np.abs(np.where(moving, flat, 0 * flat))
    if region.norm == "l1":
        return _cut(flat, size, region, rounding)
    squares = (size * size).sum(-1)
    roots = _roots(squares) if rounding.exact else np.sqrt(squares) * (1 + rounding.gamma) + TINY
    return region.radius[:, None] * roots


def _cut(flat: np.ndarray, size: np.ndarray, region: Region, rounding: Rounding) -> np.ndarray:
    """Of an `l1` ball within a box: `t r + sum_p (|a_p| - t)^+ room_p` for the best `t >= 0`.

    Any `t` is valid. The best one is where the entries above it have used up the radius.
    """
    low, high, centre = (
        end.reshape(len(flat), 1, -1) for end in (region.low, region.high, region.centre)
    )
    room = np.where(flat > 0, centre - low, high - centre)
    order = np.argsort(-size, axis=-1, kind="stable")
    sorted_, rooms = (np.take_along_axis(part, order, -1) for part in (size, room))
    used = np.cumsum(rooms, axis=-1) <= region.radius[:, None, None]
    after = np.where(used, 0 * sorted_, sorted_)
    threshold = after.max(-1, keepdims=True)
    above = np.maximum(size - threshold, 0)
    if rounding.gamma:
        room = room * (1 + rounding.gamma) + TINY
    return threshold[..., 0] * region.radius[:, None] + (above * room).sum(-1)


def _roots(squares: np.ndarray) -> np.ndarray:
    """Fractions at least the square roots of fractions, by at most a share of 2^-100 above them."""
    found = np.empty(squares.shape, object)
    for at, value in np.ndenumerate(squares):
        found[at] = root(Fraction(value))
    return found


def root(value: Fraction) -> Fraction:
    """A fraction at least the square root of one, and larger by at most a share of 2^-100."""
    if value == 0:
        return Fraction(0)
    # With n digits before the binary point the integer root of value 4^k has some 120 of them.
    digits = value.numerator.bit_length() - value.denominator.bit_length()
    k = max(0, 120 - digits // 2)
    scaled = -(-value.numerator * 4**k // value.denominator)
    found = math.isqrt(scaled)
    return Fraction(found + (found * found < scaled), 2**k)


def _columns(values: np.ndarray) -> np.ndarray:
    """[n, *shape] as [n, size, 1]."""
    return values.reshape(len(values), -1, 1)
