"""CROWN's relaxation of a ReLU: an upper and a lower line, and how rows pass them.

WK's relaxation takes the same slope for both lines. CROWN (Zhang et al. 2018) keeps the upper one,
`v <= u (z - l) / (u - l)`, and takes any slope `a` in [0, 1] for the lower one, `v >= a z`: every
choice is sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.frames import Frame
from robustra_tf.bounds.interval import Interval
from robustra_tf.bounds.passing import summed
from robustra_tf.bounds.relu import known, unstable
from robustra_tf.bounds.rows import Rows, WindowRows

#: For each ReLU node, slopes of the lower line: [n, *shape], or for k rows [n, k, *shape].
Slopes = Mapping[int, tf.Tensor]


class Lines(NamedTuple):
    """`lower z <= v <= upper z + intercept` for a ReLU between its bounds, [n, *shape] each.

    `lower` is 1 where the ReLU is active, 0 where it is dead, and free within [0, 1] elsewhere.
    `upper` is NaN where the bounds are not `known`, so that nothing follows from them.
    """

    upper: tf.Tensor
    intercept: tf.Tensor
    crossing: tf.Tensor
    active: tf.Tensor


def lines(lower: tf.Tensor, upper: tf.Tensor) -> Lines:
    """The lines for pre-activation bounds `lower`, `upper`, both [n, *shape]."""
    crossing = unstable(lower, upper)
    active = tf.cast(tf.logical_and(upper > 0, tf.logical_not(crossing)), upper.dtype)
    top = tf.where(crossing, upper, tf.ones_like(upper))
    bottom = tf.where(crossing, lower, tf.zeros_like(lower))
    slope = top / (top - bottom)
    line = tf.where(known(lower, upper), tf.where(crossing, slope, active), float("nan"))
    return Lines(line, -slope * bottom, crossing, active)


def adaptive(bounds: Mapping[int, Interval]) -> dict[int, tf.Tensor]:
    """CROWN's lower slopes: 1 where `u > -l`, else 0, the smaller of the two areas."""
    return {index: tf.cast(upper > -lower, upper.dtype) for index, (lower, upper) in bounds.items()}


def parallel(bounds: Mapping[int, Interval]) -> dict[int, tf.Tensor]:
    """WK's lower slopes, those of the upper lines: `u / (u - l)` where the ReLU is unstable."""
    return {index: lines(*ends).upper for index, ends in bounds.items()}


class Strip(NamedTuple):
    """Both lines of a ReLU seen from a point `z_0`, with `v_0 = relu(z_0)`:
    `v - v_0 <= upper (z - z_0) + above` and `v - v_0 >= lower (z - z_0) - beneath`.

    Seen so, what rows bound is their value at the point and what the ReLUs charge: no line has an
    intercept, no layer a bias. `above` and `beneath` are at least 0 where `z_0` is between the
    bounds, and right wherever it is.

    Attributes:
      upper, above: [n, *shape].
      lower, beneath: [n, *shape], or for k rows [n, k, *shape].
    """

    upper: tf.Tensor
    above: tf.Tensor
    lower: tf.Tensor
    beneath: tf.Tensor

    def past(self, rows: Rows, frame: Frame) -> tuple[Rows, tf.Tensor]:
        """The rows on the ReLU's input, and what each row is charged.

        A positive coefficient takes the upper line, a negative one the lower line.
        """
        if self.lower.shape.rank == self.upper.shape.rank:
            upper, above, lower, beneath = frame.align(rows, *self)
        else:
            upper, above = frame.align(rows, self.upper, self.above)
            lower, beneath = _in_tiles(self.lower, rows), _in_tiles(self.beneath, rows)
        # A choice by signs has no gradient of its own, so that few passes over the rows lead back.
        gate = tf.cast(rows.values > 0, rows.values.dtype)
        line = lower + gate * (upper - lower)
        gap = gate * (above + beneath) - beneath
        passed = rows.with_values(rows.values * line, clean=True)
        return passed, summed(rows.with_values(rows.values * gap), frame)


def strip(relu: Lines, point: tf.Tensor, slope: tf.Tensor) -> Strip:
    """The lines of a ReLU from `point` [n, *shape], the slopes of the lower ones as in `Slopes`."""
    # Nothing depends on the slope of a stable ReLU: given ones leave the lower line no gradient.
    after, crossing, stable = tf.nn.relu(point), relu.crossing, tf.stop_gradient(relu.upper)
    above = relu.upper * point + relu.intercept - after
    if slope.shape.rank > point.shape.rank:
        after, crossing, stable, point = (t[:, None] for t in (after, crossing, stable, point))
    # NaN where the upper line is: what is not known must not look stable.
    lower = tf.where(crossing, slope, stable)
    return Strip(relu.upper, above, lower, after - lower * point)


def _in_tiles(images: tf.Tensor, rows: Rows) -> tf.Tensor:
    """`images` [n, k, *shape] laid out as the rows are: whole, for each has its own lines."""
    if isinstance(rows, WindowRows):
        raise TypeError("rows: expected WholeRows where each row has lines of its own")
    if rows.tiling is None:
        return images
    count = images.shape[1]
    tiles = rows.tiling.cut(tf.reshape(images, (-1, *images.shape[2:])))
    return tf.reshape(tiles, (-1, count, *tiles.shape[1:]))
