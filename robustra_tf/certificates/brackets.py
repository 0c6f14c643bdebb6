"""Where functions that fall change their sign: many at once, each within its own bracket.

What holds at a radius is told by a number above 0. Between the largest radius known to hold and the
smallest known not to, the next one is where the parabola through the last three numbers is 0, as
margins fall almost linearly; every fourth is the middle, so that any function is bisected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

#: Shares of the tolerance that a guess is moved by, so that two guesses enclose what both aim at.
_ASIDE = 0.3
#: Every so many evaluations the bracket is halved, or its lower end doubled, whatever the guess.
_HALVED = 4
#: The same share where the upper end is known to be a root: what lies beyond closes the bracket.
_BELOW = 0.9
#: Without an upper end no more than this share of the extrapolated way: margins fall ever faster.
_DAMPED = 0.3

#: `(indices [k], radii [k]) -> (radii, values) [k]`: values are above 0 where a radius holds. The
#: radii are those asked for, or smaller ones that are found not to hold.
Evaluate = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Search:
    """How far brackets are narrowed.

    Attributes:
      tolerance: the width at which a bracket is left alone, above 0.
      limit: the largest radius that is looked at.
      start: above it, and without an upper end, a radius is at most doubled.
      radii: those that no bracket may keep within it.
      dtype: what radii are numbers of.
    """

    tolerance: float
    limit: float
    start: float = np.inf
    radii: Sequence[float] = ()
    dtype: str = "float64"

    def at(self, radii: Sequence[float]) -> Search:
        """The search that parts its brackets at the radii, as numbers of `dtype`."""
        parted = self.representable(np.asarray(radii, float)).tolist()
        return dataclasses.replace(self, radii=tuple(parted))

    def reach(self, low: np.ndarray) -> np.ndarray:
        """The largest radii to look at next where these hold and nothing else is known."""
        return np.minimum(np.maximum(self.start, 2 * low), self.limit)

    def representable(self, radii: np.ndarray) -> np.ndarray:
        """The least numbers of `dtype` that are at least the radii, but at most the limit."""
        near = radii.astype(self.dtype)
        up = np.nextafter(near, near.dtype.type(np.inf))
        last = np.asarray(self.limit, self.dtype)
        if last > self.limit:
            last = np.nextafter(last, last.dtype.type(-np.inf))
        return np.minimum(np.where(near < radii, up, near), last).astype(float)


@dataclasses.dataclass(eq=False)
class Brackets:
    """What is known of every function, [n] each.

    Attributes:
      low, low_value: the largest radius at which it was above 0, and its value there.
      high, high_value: the smallest at which it was not; infinite and NaN before there is one.
      other, other_value: the point that the last one pushed out of its place; NaN without one.
      count: of evaluations.
      lowered: of the last ones, those that moved the upper end.
    """

    low: np.ndarray
    low_value: np.ndarray
    high: np.ndarray
    high_value: np.ndarray
    other: np.ndarray
    other_value: np.ndarray
    count: np.ndarray
    lowered: np.ndarray

    @classmethod
    def of(cls, low: np.ndarray, value: np.ndarray) -> Brackets:
        """Brackets of which the lower ends are known, with the values there."""
        high, unknown = np.full(len(low), np.inf), np.full(len(low), np.nan)
        copies = (unknown.copy() for _ in range(3))
        counts = (np.zeros(len(low), int) for _ in range(2))
        return cls(low.copy(), value.astype(float), high, *copies, *counts)

    def record(self, index: np.ndarray, radii: np.ndarray, values: np.ndarray) -> None:
        """Narrows the brackets at `index` by what was found at the radii."""
        holds = values > 0
        for end, kept in (("low", holds), ("high", ~holds)):
            place, at = index[kept], getattr(self, end)
            value = getattr(self, f"{end}_value")
            self.other[place], self.other_value[place] = at[place], value[place]
            at[place], value[place] = radii[kept], values[kept]
        self.count[index] += 1
        self.lowered[index] = np.where(holds, 0, self.lowered[index] + 1)

    def narrow(self, evaluate: Evaluate, search: Search, done: Callable[[int], None]) -> None:
        """Evaluates until every bracket is as narrow as the search asks for.

        Args:
          evaluate: the functions.
          search: how far.
          done: called with the number of brackets that were just finished.
        """
        left = np.arange(len(self.low))
        while True:
            low, high = self.low[left], self.high[left]
            radii = search.representable(self._next(left, search))
            middle = search.representable(0.5 * (low + np.minimum(high, search.limit)))
            radii = np.where((low < radii) & (radii < high), radii, middle)
            # Strictly between: otherwise there is no number left to try.
            going = self._open(left, search) & (low < radii) & (radii < high)
            done(int((~going).sum()))
            left, radii = left[going], radii[going]
            if not len(left):
                return
            self.record(left, *evaluate(left, radii))

    def _open(self, index: np.ndarray, search: Search) -> np.ndarray:
        low, high = self.low[index], np.minimum(self.high[index], search.limit)
        parted = [(low < radius) & (radius < high) for radius in search.radii]
        wide = (high - low > search.tolerance) | np.isinf(self.high[index])
        return wide | np.any(parted, axis=0) if parted else wide

    def _next(self, index: np.ndarray, search: Search) -> np.ndarray:
        """Where to evaluate next, [k]; outside of its bracket where that is finished."""
        low, high = self.low[index], self.high[index]
        guess = np.where(np.isinf(high), self._beyond(index, search), self._within(index, search))
        for radius in search.radii:
            parted = (low < radius) & (radius < high)
            near = (np.abs(guess - radius) <= search.tolerance) | (high - low <= search.tolerance)
            guess = np.where(parted & near, radius, guess)
        return guess

    def _beyond(self, index: np.ndarray, search: Search) -> np.ndarray:
        """A radius above the lower end, by the line through the last two points."""
        low, value = self.low[index], self.low_value[index]
        first = min([radius for radius in search.radii if radius > 0], default=search.tolerance)
        with np.errstate(all="ignore"):
            fall = (self.other_value[index] - value) / (low - self.other[index])
            share = np.where(self.count[index] < 2, _DAMPED, 1.0)
            step = np.where(fall > 0, share * value / fall, low)
        step = np.maximum(np.where(np.isnan(fall), first, step), search.tolerance)
        # Margins that fall ever more slowly would have lines lead but a little on.
        slow = self.count[index] % _HALVED == _HALVED - 1
        return np.minimum(low + np.where(slow, np.maximum(step, low), step), search.reach(low))

    def _within(self, index: np.ndarray, search: Search) -> np.ndarray:
        low, high = self.low[index], np.minimum(self.high[index], search.limit)
        middle, aside = 0.5 * (low + high), _ASIDE * search.tolerance
        root = self._root(index)
        # Towards the farther end: if that is right, the next guess is but on the other side.
        guess = root + np.where(root < middle, aside, -aside)
        usable = (low < guess) & (guess < high) & (self.count[index] % _HALVED < _HALVED - 1)
        guess = np.where(usable, guess, middle)
        # Where the upper end is a root itself the nearest other one is sought, in growing steps.
        steps = np.clip(self.lowered[index] - 2, 0, 60)
        below = high - _BELOW * search.tolerance * 2.0**steps
        return np.where(self.high_value[index] == 0, np.maximum(below, middle), guess)

    def _root(self, index: np.ndarray) -> np.ndarray:
        """Where the parabola through the three points is 0, or the line through the two ends."""
        low, high, other = self.low[index], self.high[index], self.other[index]
        with np.errstate(all="ignore"):
            slope = (self.high_value[index] - self.low_value[index]) / (high - low)
            line = low - self.low_value[index] / slope
            bend = (self.other_value[index] - self.low_value[index]) / (other - low) - slope
            bend /= other - high
            root = line
            for _ in range(4):  # Newton's steps
                off = root - low
                value = self.low_value[index] + slope * off + bend * off * (root - high)
                root = root - value / (slope + bend * (off + root - high))
        return np.where((low < root) & (root < high), root, line)
