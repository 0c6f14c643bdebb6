"""The least of the bounds of all mixes of two functions over one ball, exactly.

Let `F(x') <= base_f + nu . (x' - centre)` and `G(x') <= base_g + q . (x' - centre)` on the ball.
Where both `F >= 0` and `G >= 0`, every mix `a F + (1 - a) G` with `a` in [0, 1] is at least 0 too,
and it is at most

  h(a) = a base_f + (1 - a) base_g + max_{x' in ball} (a nu + (1 - a) q) . (x' - centre).

So a negative `h` excludes the point. `h` is convex, for `linf` and `l1` piecewise linear. Its
ends are the bounds of `F` and of `G` alone; it is `h_c(eta)` of Eqn 8 with `t = 0` in homogeneous
form, `eta = (1 - a) / a`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.dual import dual_norm

#: What is smaller than so many units in the last place of what it was computed from is rounding.
_ROUNDING = 8
#: Tangents that are tried: of `linf` some ten are needed, of `l2` a few for each bit.
_TANGENTS = 100


class Affine(NamedTuple):
    """An upper bound of k functions on a ball, affine in the input.

    Attributes:
      base: its value at the centre, [n, k].
      rows: its coefficients, [n, k, pixels].
    """

    base: tf.Tensor
    rows: tf.Tensor

    def upper(self, ball: Ball) -> tf.Tensor:
        """Its largest value on the ball, [n, k]."""
        return self.base + reach(self.rows, ball)

    def mixed(self, other: Affine, share: tf.Tensor) -> Affine:
        """`share` [n, k] of this one and the rest of the other."""
        column = share[..., None]
        base = share * self.base + (1 - share) * other.base
        return Affine(base, column * self.rows + (1 - column) * other.rows)


def reach(rows: tf.Tensor, ball: Ball) -> tf.Tensor:
    """`max_{x'} row . (x' - centre)` over a ball without intervals beside it, [n, k].

    Args:
      rows: [n, k, pixels].
      ball: `linf`, or `l2` or `l1` with `Ball.room` None.
    """
    radius = _radius(ball)
    if ball.norm == "linf":
        return tf.reduce_sum(tf.abs(rows) * radius, -1)
    return dual_norm(rows, ball.norm) * radius[..., 0]


def _radius(ball: Ball) -> tf.Tensor:
    """The radius as it stands beside rows: [n or 1, 1, pixels or 1]."""
    radius = ball.radius
    if not radius.shape.rank:
        return radius[None, None, None]
    return tf.reshape(radius, (tf.shape(radius)[0], 1, -1))


def best_share(f: Affine, g: Affine, ball: Ball) -> tf.Tensor:
    """The `a` at which `h` is least, [n, k]; any value of it gives a bound. No gradient.

    Two tangents are kept, one that falls and one that rises. Where they meet is no point below the
    minimum; the tangent there takes the place of the one on its side, until there is none above.
    Of a piecewise linear `h` that ends at a breakpoint.
    """
    nu, q = (tf.stop_gradient(part.rows) for part in (f, g))
    rise = tf.stop_gradient(f.base - g.base)
    start = tf.stop_gradient(g.base)
    turn, radius = nu - q, _radius(ball)

    def tangent(share: tf.Tensor) -> _Tangent:
        rows = q + share[..., None] * turn
        worst = _worst(rows, turn, ball.norm)
        reached, slope = (tf.reduce_sum(worst * radius * part, -1) for part in (rows, turn))
        value, slope = start + share * rise + reached, rise + slope
        return _Tangent(value, slope, value - share * slope)

    zero, one = tf.zeros_like(rise), tf.ones_like(rise)
    low, high = tangent(zero), tangent(one)
    # A tangent that rises at 0 or falls at 1: the minimum is there.
    inner = tf.logical_and(low.slope < 0, high.slope > 0)
    best = tf.where(low.value <= high.value, zero, one)
    ulp = float(np.finfo(rise.dtype.as_numpy_dtype).eps)
    scale = _ROUNDING * ulp * (tf.abs(low.value) + tf.abs(high.value) + tf.abs(rise))

    def meeting(low: _Tangent, high: _Tangent) -> tf.Tensor:
        steeper = tf.where(inner, high.slope - low.slope, one)
        return tf.clip_by_value((low.intercept - high.intercept) / steeper, 0.0, 1.0)

    def advance(low, high, best, least, open_):
        share = meeting(low, high)
        new = tangent(share)
        better = tf.logical_and(open_, new.value < least)
        best, least = tf.where(better, share, best), tf.where(better, new.value, least)
        open_ = tf.logical_and(open_, new.value - (low.intercept + share * low.slope) > scale)
        falls = new.slope < 0
        low = low.replaced(new, tf.logical_and(open_, falls))
        high = high.replaced(new, tf.logical_and(open_, tf.logical_not(falls)))
        return low, high, best, least, open_

    least = tf.where(low.value <= high.value, low.value, high.value)
    found = tf.while_loop(
        lambda low, high, best, least, open_: tf.reduce_any(open_),
        advance,
        (low, high, best, least, inner),
        maximum_iterations=_TANGENTS,
    )
    return tf.stop_gradient(found[2])


class _Tangent(NamedTuple):
    """A line below `h` that touches it: its value there, slope and intercept, [n, k] each."""

    value: tf.Tensor
    slope: tf.Tensor
    intercept: tf.Tensor

    def replaced(self, new: _Tangent, where: tf.Tensor) -> _Tangent:
        return _Tangent(*(tf.where(where, b, a) for a, b in zip(self, new, strict=True)))


def _worst(rows: tf.Tensor, turn: tf.Tensor, norm: str) -> tf.Tensor:
    """A perturbation of the unit ball that is worst for the rows, [n, k, pixels].

    Where an entry is 0 it has the sign of `turn`: any is right.
    """
    sign = tf.where(tf.equal(rows, 0), tf.sign(turn), tf.sign(rows))
    if norm == "linf":
        return sign
    if norm == "l1":
        place = tf.one_hot(tf.argmax(tf.abs(rows), -1), rows.shape[-1], dtype=rows.dtype)
        return place * sign
    size = dual_norm(rows, norm)[..., None]
    return rows / tf.where(size > 0, size, tf.ones_like(size))


def least_mixed(f: Affine, g: Affine, ball: Ball) -> tf.Tensor:
    """`min_a h(a)`, [n, k]: no greater than either bound alone; inf where neither is known.

    The gradient is that of `h` at its minimiser (an envelope).
    """
    alone = known_lesser(f.upper(ball), g.upper(ball))
    both = f.mixed(g, best_share(f, g, ball))
    return known_lesser(alone, both.upper(ball))


def known_lesser(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """The smaller of two upper bounds, of which one that is no finite number says nothing.

    `inf` where neither says anything. Either network excludes a point by itself, so that one of
    which nothing is known does not spoil what is known of the other.
    """
    unknown = tf.constant(float("inf"), first.dtype)
    first, second = (tf.where(tf.math.is_finite(each), each, unknown) for each in (first, second))
    return tf.where(first <= second, first, second)
