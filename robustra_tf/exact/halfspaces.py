"""What affine lower bounds of margins say of the boxes that they hold on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Steps of the search for a convex combination of a group's margins.
_STEPS = 6
# How far an end is moved back out, of the width, for what rounding may take off it; and how small a
# slope's part of a bound may be, beside its largest part, before rounding is no longer below that.
_HAIR, _SMALL = 1e-6, 1e-6


class Groups(NamedTuple):
    """Rows in the order of their groups.

    Attributes:
      first: [g], where each group begins.
      size: [g], how many rows it has.
    """

    first: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, sizes: list[int]) -> Groups:
        """Groups of so many rows, one behind the other."""
        size = np.array(sizes, np.int64)
        return cls(np.cumsum(size) - size, size)

    def owned(self, group: np.ndarray) -> np.ndarray:
        """Which rows are of the group [n], [n, r]."""
        place = np.arange(self.size.sum()) - self.first[group][:, None]
        return (place >= 0) & (place < self.size[group][:, None])

    def join(self, ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        """The values [n, r, ...] of each group joined, [n, g, ...]."""
        return ufunc.reduceat(values, self.first, axis=1)

    def each(self, values: np.ndarray) -> np.ndarray:
        """The values [n, g, ...] of groups for each of their rows, [n, r, ...]."""
        return np.repeat(values, self.size, axis=1)


#: One half space for each box, as `HalfSpaces` has many: value [n] and slope [n, k].
_One = tuple[np.ndarray, np.ndarray]


def closes(bounds: np.ndarray) -> np.ndarray:
    """Where bounds exclude a group; what is no number excludes nothing."""
    return (bounds > 0) & np.isfinite(bounds)


class HalfSpaces(NamedTuple):
    """Margins, less what they must be above: at least `value + slope . t`, `t` in [-1, 1]^k.

    What a group finds unsafe lies in a box in the intersection of the half spaces where these are
    at most 0: where that is empty, the group is excluded from the box; otherwise the box may be cut
    to what of it the half spaces reach.

    Attributes:
      value: [n, r], in the middle of each box.
      slope: [n, r, k], by half of each width.
      groups: of the rows.
    """

    value: np.ndarray
    slope: np.ndarray
    groups: Groups

    @property
    def least(self) -> np.ndarray:
        """Of each row, [n, r]."""
        return self.value - np.abs(self.slope).sum(2)

    def best(self, group: np.ndarray) -> np.ndarray:
        """Of each box the row of the greatest least of its group [n], [n]."""
        least = np.where(self.groups.owned(group), self.least, -np.inf)
        return np.nan_to_num(least, nan=-np.inf).argmax(1)

    def left(self, opened: np.ndarray, beside: _One) -> tuple[np.ndarray, Cut]:
        """What is known of the open groups [n, g], where for lone ones one half space is given.

        Args:
          opened: which groups are.
          beside: value [n] and slope [n, k] of what is at most 0 wherever a box's one open group is
            unsafe; slopes of zeros say nothing. Of boxes with several it is not looked at.

        Returns:
          As `bounds` has them, [n, g], and what of each box is left.
        """
        alone = opened.sum(1) == 1
        found = []
        if alone.any():
            own = self._with(opened.argmax(1), beside)
            bounds = np.where(opened, own.bounds(), -np.inf)
            cut = own.cut(np.any(opened & ~closes(bounds), 1)[:, None])
            found.append((bounds, cut._replace(open=opened & cut.open)))
        if not alone.all():
            bounds = self.bounds()
            found.append((bounds, self.cut(opened & ~closes(bounds))))
        if len(found) == 1:
            return found[0]
        (first, one), (second, other) = found
        return np.where(alone[:, None], first, second), Cut(
            *(np.where(alone[:, None], *pair) for pair in zip(one, other, strict=True))
        )

    def _with(self, group: np.ndarray, beside: _One) -> HalfSpaces:
        """Of each box one group's rows and another half space, as one group."""
        size = int(self.groups.size.max())
        # A smaller group's last row is there more than once.
        row = np.minimum(np.arange(size), self.groups.size[group][:, None] - 1)
        row += self.groups.first[group][:, None]
        index = np.arange(len(row))[:, None]
        value, slope = self.value[index, row], self.slope[index, row]
        # Where nothing is known beside, neither is the last row.
        known = np.any(beside[1] != 0, 1)
        last = np.where(known, beside[0], value[:, 0])
        normal = np.where(known[:, None], beside[1], slope[:, 0])
        return HalfSpaces(
            np.concatenate([value, last[:, None]], 1),
            np.concatenate([slope, normal[:, None]], 1),
            Groups.of([size + 1]),
        )

    def bounds(self) -> np.ndarray:
        """Of each group: some margin of it is at least so much above what it must be, [n, g].

        That of the best row, or of the best convex combination of rows that a few steps of mirror
        ascent find: where a combination is positive, one of its margins is.
        """
        groups, least = self.groups, self.least
        best = groups.join(np.maximum, least)
        if (groups.size == 1).all():
            return best
        size = np.maximum(groups.each(groups.join(np.maximum, np.abs(least))), np.finfo(float).tiny)
        weight = np.exp((least - groups.each(best)) / size * 4.0)
        for step in range(_STEPS):
            weight = weight / groups.each(groups.join(np.add, weight))
            slope = groups.join(np.add, weight[..., None] * self.slope)
            reach = np.abs(slope).sum(2)
            best = np.fmax(best, groups.join(np.add, weight * self.value) - reach)
            if step < _STEPS - 1:
                # Of each row its value at the corner where the combination is least.
                there = (np.sign(groups.each(slope)) * self.slope).sum(2)
                rise = self.value - there
                rise -= groups.each(groups.join(np.maximum, rise))
                spread = np.maximum(-groups.each(groups.join(np.minimum, rise)), 1e-300)
                weight = weight * np.exp(2.0 * rise / spread)
        return best

    def cut(self, open_groups: np.ndarray) -> Cut:
        """What of each box the half spaces of its open groups [n, g] reach.

        In `value + slope . t <= 0` each `slope_j t_j` can be above its least by no more than the
        row's least is below 0. A group's rows all hold; of several groups the hull counts.
        """
        least, sizes = self.least, np.abs(self.slope)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            reach = -least[..., None] / sizes
        fits = (reach >= 0) & (reach < 2.0)
        fits &= sizes > _SMALL * np.maximum(np.abs(self.value), sizes.max(2))[..., None]
        reach = np.where(fits, reach + 2.0 * _HAIR, 2.0)
        high = np.where(self.slope > 0, reach - 1.0, 1.0)
        low = np.where(self.slope < 0, 1.0 - reach, -1.0)
        high, low = self.groups.join(np.minimum, high), self.groups.join(np.maximum, low)
        left = open_groups & (low <= high).all(2)
        high = np.where(left[..., None], np.minimum(high, 1.0), -1.0).max(1)
        low = np.where(left[..., None], np.maximum(low, -1.0), 1.0).min(1)
        return Cut(low, high, left)


class Cut(NamedTuple):
    """Boxes cut to what half spaces reach.

    Attributes:
      low, high: [n, k] in [-1, 1], as the half spaces have their boxes.
      open: [n, g], the groups that reach any of it.
    """

    low: np.ndarray
    high: np.ndarray
    open: np.ndarray
