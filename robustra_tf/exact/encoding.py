"""The exact programme of a restricted network: what a solver is asked."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, TypeVar

import numpy as np
import scipy.sparse as sp

from robustra_tf.exact.restriction import Restriction

# Points of the ball must satisfy every row up to this, relative to the row's size.
_FEASIBLE = 1e-9
_Places = TypeVar("_Places", int, np.ndarray)


class Programme(NamedTuple):
    """`row_lower <= A w <= row_upper`, `lower <= w <= upper`, `w` whole where `integer`.

    Every column has finite bounds, so that any dual vector gives a bound (`certified_bound`).

    Attributes:
      matrix: `A`, CSC [rows, columns].
      row_lower, row_upper: [rows], infinite where there is none.
      lower, upper: [columns], finite.
      integer: boolean [columns].
    """

    matrix: sp.csc_array
    row_lower: np.ndarray
    row_upper: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    integer: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Encoding:
    """A restricted network as linear rows, and its ReLUs as rows or as binaries.

    Columns: the pixels `x` that matter [p], the units `h` [m], and `s` [m] with `z = h - s`, so
    that the long row `W u + c = h - s` is written once a unit and a ReLU is `h, s >= 0`,
    `h s = 0`. The relaxation (Ehlers 2017) adds `-l h + u s <= -l u` to each unstable ReLU: with
    `h, s >= 0` that is the triangle over [l, u]. The mixed-integer form (Tjeng et al., ICLR 2019)
    has `h <= u a` and `s <= -l (1 - a)` with one binary `a` for each; without its integrality it
    is the same triangle. A phase is chosen by column bounds alone: `s = 0` or `h = 0`.

    For the l_1 ball further columns `r >= |x - centre|` [p] sum to at most eps. `with_greatest`
    adds a last one, at least each of several margins.

    Attributes:
      restriction: the network; `centre` [n] the image, which unused pixels keep to.
      used: the numbers [p] of the pixels that stand in it.
      units: the numbers [m] of the units that stand in it.
      relaxed: the linear programme.
      margins: (rows [k, n + m], constants [k]) of the last column, if it has one.
    """

    restriction: Restriction
    centre: np.ndarray
    used: np.ndarray
    units: np.ndarray
    relaxed: Programme
    margins: tuple[np.ndarray, np.ndarray] | None = None

    def column(self, unit: _Places) -> _Places:
        """The column of `h` of the unit at a position in `units`; that of `s` is m further on."""
        return len(self.used) + unit

    @property
    def unstable(self) -> np.ndarray:
        """The positions in `units` of the ReLUs that may still be on either side."""
        r, units = self.restriction, self.units
        return np.flatnonzero(r.relu[units] & (r.lower[units] < 0) & (r.upper[units] > 0))

    def cost(self, row: np.ndarray) -> np.ndarray:
        """Coefficients on `u` [n + m of the restriction] as coefficients on the columns."""
        cost = np.zeros(len(self.relaxed.lower))
        cost[: len(self.used)] = row[self.used]
        cost[self.column(np.arange(len(self.units)))] = row[self.restriction.pixels + self.units]
        return cost

    def with_greatest(self, rows: np.ndarray, constants: np.ndarray) -> Encoding:
        """With a last column `t >= row u + constant` of every row [k, n + m].

        The least `t` is the least over the inputs of the greatest margin, and every input has one.
        """
        p, costs = self.relaxed, np.stack([self.cost(row) for row in rows])
        ends = costs * p.lower, costs * p.upper
        low, high = (join(*ends).sum(1) + constants for join in (np.minimum, np.maximum))
        room = 1.0 + np.abs([low, high]).max()
        below, t = sp.csr_array(costs), sp.csr_array(-np.ones((len(rows), 1)))
        blocks = [[below, t], [sp.csr_array(p.matrix), None]]
        programme = Programme(
            sp.csc_array(sp.block_array(blocks)),
            np.r_[np.full(len(rows), -np.inf), p.row_lower],
            np.r_[-constants, p.row_upper],
            np.r_[p.lower, low.min() - room],
            np.r_[p.upper, high.max() + room],
            np.r_[p.integer, False],
        )
        return dataclasses.replace(self, relaxed=programme, margins=(rows, constants))

    def image(self, values: np.ndarray) -> np.ndarray:
        """The pixels [n] of a solution, cut to their intervals."""
        x = self.centre.copy()
        x[self.used] = values[: len(self.used)]
        return np.clip(x, self.restriction.low, self.restriction.high)

    def assignment(self, x: np.ndarray) -> np.ndarray:
        """The columns' values that the network has at the image `x` [n], or at each of [k, n]."""
        points = np.atleast_2d(x)
        u, z = self.restriction.values(points)
        h = u[:, self.restriction.pixels + self.units]
        distance = np.abs(points - self.centre)[:, self.used]
        parts = [points[:, self.used], h, h - z[:, self.units], distance]
        columns = len(self.relaxed.lower) - (self.margins is not None)
        values = np.concatenate(parts, axis=1)[:, :columns]
        if self.margins is not None:
            greatest = (u @ self.margins[0].T + self.margins[1]).max(1, keepdims=True)
            values = np.concatenate([values, greatest], axis=1)
        return values.reshape(*x.shape[:-1], -1)

    def check(self, x: np.ndarray) -> None:
        """Refuses an encoding that the image `x` [n], or one of [k, n] points, does not satisfy.

        Otherwise "infeasible" would say something about the encoding, not about the network.

        Raises:
          ValueError: a row or a bound is violated; the text says which and by how much.
        """
        r, p, points = self.restriction, self.relaxed, np.atleast_2d(x)
        outside = np.maximum(r.low - points, points - r.high)
        if not (r.low <= r.high).all() or not (outside <= 0).all():
            raise ValueError(
                "x: expected a clean image inside the ball and the box, got a pixel outside by "
                f"{np.max(np.maximum(outside, r.low - r.high)):.3g}"
            )
        values = self.assignment(points)
        activity = (p.matrix @ values.T).T
        scale = 1.0 + (abs(p.matrix) @ np.abs(values).T).T
        bounds = np.maximum(p.lower - values, values - p.upper)
        rows = np.maximum(p.row_lower - activity, activity - p.row_upper) / scale
        worst = max(rows.max(initial=0.0), (bounds / (1.0 + np.abs(values))).max(initial=0.0))
        if not worst <= _FEASIBLE:
            raise ValueError(
                "encoding: expected the clean image to be feasible, got a violation of "
                f"{worst:.3g}: the pre-activation bounds do not hold"
            )

    def mixed(self) -> Programme:
        """The exact programme: the relaxation with a binary for every unstable ReLU."""
        p, unstable = self.relaxed, self.unstable
        count, columns = len(unstable), len(p.lower)
        chosen = self.units[unstable]
        lower, upper = self.restriction.lower[chosen], self.restriction.upper[chosen]
        ones, rows = np.ones(count), np.arange(count)
        h = self.column(unstable)
        s = h + len(self.units)
        above = sp.coo_array(
            (np.r_[ones, -upper], (np.r_[rows, rows], np.r_[h, columns + rows])),
            (count, columns + count),
        )
        below = sp.coo_array(
            (np.r_[ones, -lower], (np.r_[rows, rows], np.r_[s, columns + rows])),
            (count, columns + count),
        )
        # The triangles, which come last, follow from these rows.
        kept = p.matrix.shape[0] - count
        before = sp.csr_array(p.matrix)[:kept]
        before.resize((kept, columns + count))
        infinite = np.full(2 * count, -np.inf)
        return Programme(
            sp.csc_array(sp.vstack([before, above, below])),
            np.r_[p.row_lower[:kept], infinite],
            np.r_[p.row_upper[:kept], np.zeros(count), -lower],
            np.r_[p.lower, np.zeros(count)],
            np.r_[p.upper, ones],
            np.r_[p.integer, np.ones(count, bool)],
        )


def encode(
    restriction: Restriction,
    centre: np.ndarray,
    units: np.ndarray | None = None,
    l1_radius: float | None = None,
    columns: np.ndarray | None = None,
) -> Encoding:
    """The encoding of a restricted network, or of some of its units.

    Args:
      restriction: the network.
      centre: the image [n].
      units: the numbers of the units to encode, with all that they read; all by default.
      l1_radius: eps of an l_1 ball; the ball of l_inf is in the pixels' intervals already.
      columns: further entries of `u` that costs will weigh; the logits' by default.
    """
    r, n = restriction, restriction.pixels
    units = np.arange(r.units) if units is None else units
    weights = r.weights[units]
    read = weights.indices[weights.indices < n]
    columns = r.logit_weights.indices if columns is None else columns
    used = np.unique(np.r_[read, columns[columns < n]])
    if l1_radius is not None:
        used = np.arange(n)
    weights = weights[:, np.r_[used, n + units]]
    lower, upper = r.lower[units], r.upper[units]
    relu, count, p = r.relu[units], len(units), len(used)
    unstable = np.flatnonzero(relu & (lower < 0) & (upper > 0))
    identity = sp.eye_array(count, format="csr")
    long = sp.hstack([-weights[:, :p], identity - weights[:, p:], -identity])
    # Divided by u - l: entries of a triangle stay within [0, 1].
    slope = upper[unstable] / (upper[unstable] - lower[unstable])
    rows = np.arange(len(unstable))
    triangle = sp.coo_array(
        (np.r_[1 - slope, slope], (np.r_[rows, rows], np.r_[p + unstable, p + count + unstable])),
        (len(unstable), p + 2 * count),
    )
    blocks = [long, triangle]
    row_lower = [r.offset[units], np.full(len(unstable), -np.inf)]
    row_upper = [r.offset[units], -slope * lower[unstable]]
    h_low, h_high = (np.where(relu, np.maximum(end, 0.0), end) for end in (lower, upper))
    s_low, s_high = (np.where(relu, np.maximum(-end, 0.0), 0.0) for end in (upper, lower))
    lows, highs = [r.low[used], h_low, s_low], [r.high[used], h_high, s_high]
    if l1_radius is not None:
        blocks, ends = _with_l1(blocks, p, count, centre, l1_radius)
        row_lower.insert(0, np.full(len(ends), -np.inf))
        row_upper.insert(0, ends)
        lows.append(np.zeros(p))
        highs.append(np.full(p, l1_radius))
    low, high = np.concatenate(lows), np.concatenate(highs)
    programme = Programme(
        sp.csc_array(sp.vstack(blocks)),
        np.concatenate(row_lower),
        np.concatenate(row_upper),
        low,
        high,
        np.zeros(len(low), bool),
    )
    return Encoding(r, centre, used, units, programme)


def _with_l1(blocks, pixels, units, centre, radius):
    """Rows `x - r <= centre`, `-x - r <= -centre`, `sum r <= radius` before the others."""
    one = sp.eye_array(pixels, format="csr")
    nothing = sp.csr_array((pixels, 2 * units))
    ball = [
        sp.hstack([one, nothing, -one]),
        sp.hstack([-one, nothing, -one]),
        sp.hstack([sp.csr_array((1, pixels + 2 * units)), np.ones((1, pixels))]),
    ]
    wide = [sp.hstack([block, sp.csr_array((block.shape[0], pixels))]) for block in blocks]
    return [*ball, *wide], np.r_[centre, -centre, radius]


def certified_bound(
    programme: Programme,
    cost: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    duals: np.ndarray,
) -> float:
    """A lower bound of `min cost w` over a programme's rows and columns in [lower, upper].

    For any `y`, `cost w = y (A w) + (cost - A^T y) w >= sum_i min_{rows} y_i b_i +
    sum_j min_{[l_j, u_j]} d_j w_j` with `d = cost - A^T y` (Neumaier and Shcherbina 2004). A
    solver's duals make it tight, but whatever they are, it holds: the proof needs no trust in the
    solver, its tolerances or its status. What float64 may lose on the way is subtracted: a sum of
    k products errs by at most `k 2^-53` of the sum of their absolute values, and a hair.

    Args:
      programme: its rows are meant; `lower`, `upper` [columns] stand for its columns' bounds.
      cost: [columns].
      duals: `y` [rows], HiGHS's sign: positive for a lower side of a row.

    Returns:
      The bound; -inf for duals that are not numbers.
    """
    if not np.isfinite(duals).all():
        return -np.inf
    # A dual that leans on a side which a row does not have says nothing.
    side = np.where(duals > 0, programme.row_lower, programme.row_upper)
    duals = np.where(np.isfinite(side), duals, 0.0)
    rows = float(duals @ np.where(duals == 0, 0.0, side))
    reduced = cost - programme.matrix.T @ duals
    bound = rows + float(np.minimum(reduced * lower, reduced * upper).sum())
    # Sizes of all that was added up, the columns' sums inside the last one too.
    sizes = np.abs(cost) + abs(programme.matrix).T @ np.abs(duals)
    total = np.abs(duals) @ np.where(duals == 0, 0.0, np.abs(side))
    total += sizes @ np.maximum(np.abs(lower), np.abs(upper))
    return bound - 2.0**-52 * (len(duals) + len(cost) + 8) * float(total)
