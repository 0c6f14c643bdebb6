"""Where the slope of `max_j |nuhat_j + eta qhat_j|` reaches a level: of the `l1` ball.

It is the upper envelope of lines. Two of them are kept, one with a slope below the level and one
with a slope of at least that; a line above where they meet takes the place of the one on its side,
until there is none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

#: What is smaller than so many units in the last place of what it was computed from is rounding.
ROUNDING = 8


def unit_of(values: tf.Tensor) -> float:
    """The unit in the last place of 1 of a tensor's type."""
    return float(np.finfo(values.dtype.as_numpy_dtype).eps)


class Line(NamedTuple):
    """Of each row, a line `intercept + slope eta` below `max_j |nuhat_j + eta qhat_j|`.

    It is `sign (nuhat_j + eta qhat_j)` for j = `place`; [...] each.
    """

    intercept: tf.Tensor
    slope: tf.Tensor
    place: tf.Tensor
    sign: tf.Tensor


class Crossing(NamedTuple):
    """Where the slope passes a level.

    Attributes:
      eta: the smallest one at which the slope right of it is at least the level, [...].
      low, high: the lines left and right of it.
      still: that is so at 0 already, [...].
      alone: a perturbation that is worst at 0, [..., n].
    """

    eta: tf.Tensor
    low: Line
    high: Line
    still: tf.Tensor
    alone: tf.Tensor

    def worst(self, share: tf.Tensor | float) -> tf.Tensor:
        """A perturbation of the unit ball that is worst at `eta`: `share` [...] of the right line.

        It has the same share of that line's slope, and the rest of the left one's.
        """
        size = self.alone.shape[-1]
        high, low = (
            (weight * line.sign)[..., None] * tf.one_hot(line.place, size, dtype=self.alone.dtype)
            for line, weight in ((self.high, share), (self.low, 1.0 - share))
        )
        return tf.where(self.still[..., None], self.alone, low + high)


def crossing(nuhat: tf.Tensor, qhat: tf.Tensor, level: tf.Tensor) -> Crossing:
    """Where the slope reaches `level` [...], for every leading entry of the rows [..., n]."""
    first, last = first_line(nuhat, qhat), last_line(nuhat, qhat)
    still = first.slope >= level

    def meeting(low: Line, high: Line) -> tf.Tensor:
        apart = high.slope > low.slope
        steeper = tf.where(apart, high.slope - low.slope, tf.ones_like(level))
        found = (low.intercept - high.intercept) / steeper
        return tf.where(tf.logical_or(still, ~apart), tf.zeros_like(found), tf.maximum(found, 0.0))

    def advance(low: Line, high: Line, _) -> tuple[Line, Line, tf.Tensor]:
        eta = meeting(low, high)
        row = nuhat + eta[..., None] * qhat
        line = _line(nuhat, qhat, tf.argmax(tf.abs(row), -1, tf.int32), row)
        top, known = (part.intercept + eta * part.slope for part in (line, low))
        scale = tf.abs(low.intercept) + eta * tf.abs(low.slope)
        above = tf.logical_and(~still, top - known > ROUNDING * unit_of(nuhat) * scale)
        flat = line.slope < level
        low = _replaced(low, line, tf.logical_and(above, flat))
        high = _replaced(high, line, tf.logical_and(above, ~flat))
        return low, high, above

    low, high, _ = tf.while_loop(
        lambda _, __, open_: tf.reduce_any(open_),
        advance,
        (first, last, ~still),
        # Each line enters once.
        maximum_iterations=2 * nuhat.shape[-1],
    )
    # Of a constant slope there is one line, and at 0 no direction where all of nuhat is 0.
    place = first.sign[..., None] * tf.one_hot(first.place, nuhat.shape[-1], dtype=nuhat.dtype)
    alone = tf.where(first.intercept[..., None] > 0, place, tf.zeros_like(place))
    return Crossing(meeting(low, high), low, high, still, alone)


def _line(nuhat: tf.Tensor, qhat: tf.Tensor, place: tf.Tensor, row: tf.Tensor) -> Line:
    """The line of the coordinate `place`, with the sign that it has in `row`."""
    rank = nuhat.shape.rank - 1
    a, b, here = (tf.gather(part, place, batch_dims=rank) for part in (nuhat, qhat, row))
    sign = tf.where(here < 0, -tf.ones_like(here), tf.ones_like(here))
    return Line(sign * a, sign * b, place, sign)


def first_line(nuhat: tf.Tensor, qhat: tf.Tensor) -> Line:
    """The line just right of 0: of the largest entries of `nuhat`, the one that rises most."""
    largest = tf.reduce_max(tf.abs(nuhat), -1, keepdims=True)
    rise = tf.where(tf.equal(nuhat, 0), tf.abs(qhat), tf.sign(nuhat) * qhat)
    place = _argmax(rise, tf.abs(nuhat) >= largest)
    return _line(nuhat, qhat, place, tf.where(tf.equal(nuhat, 0), qhat, nuhat))


def last_line(nuhat: tf.Tensor, qhat: tf.Tensor) -> Line:
    """The line towards infinity: of the largest entries of `qhat`, the one that is highest."""
    steepest = tf.reduce_max(tf.abs(qhat), -1, keepdims=True)
    place = _argmax(tf.sign(qhat) * nuhat, tf.abs(qhat) >= steepest)
    return _line(nuhat, qhat, place, qhat)


def _argmax(values: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    return tf.argmax(tf.where(allowed, values, values.dtype.min), -1, tf.int32)


def _replaced(old: Line, new: Line, where: tf.Tensor) -> Line:
    return Line(*(tf.where(where, b, a) for a, b in zip(old, new, strict=True)))
