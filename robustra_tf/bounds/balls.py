"""The set of inputs that an attack may choose from: a norm ball, perhaps cut to a box."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from robustra_tf.vocabulary import NORMS

Box = tuple[float, float]
#: A box, or an interval for each pixel, [n or 1, *shape] each.
Cut = Box | tuple[tf.Tensor, tf.Tensor]


class Ball(NamedTuple):
    """`{x' : ||x' - x|| <= eps}`, written as a centre and a radius of the dual norm.

    Where there is no ball the centre is NaN, and nothing follows from it.

    Attributes:
      centre: [n, *shape], in pixels.
      radius: for `linf`, the half width of each pixel's interval: [n, *shape], or a scalar where
        there is one eps and no box. For `l2` and `l1`, eps: a scalar, or [n, 1, ...].
      norm: `linf`, `l2` or `l1`.
      room: beside an `l2` or `l1` ball, how far each pixel may move for its box alone, [n, *shape];
        None where that is not looked at.
    """

    centre: tf.Tensor
    radius: tf.Tensor
    norm: str
    room: tf.Tensor | None = None

    @property
    def half_widths(self) -> tf.Tensor:
        """How far each pixel can move, [n, *shape]."""
        widths = tf.broadcast_to(self.radius, tf.shape(self.centre))
        return widths if self.room is None else tf.minimum(widths, self.room)


def as_scalar(value: float | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """`value` in `dtype`; a Python number does not pass through float32 on its way to float64."""
    if tf.is_tensor(value):
        return tf.cast(value, dtype)
    return tf.constant(value, dtype)


def inside(x: tf.Tensor, box: Cut | None) -> tf.Tensor:
    """Whether all pixels of an image are finite and keep to the box: boolean [n, 1, ...]."""
    low, high = (x.dtype.min, x.dtype.max) if box is None else box
    low, high = as_scalar(low, x.dtype), as_scalar(high, x.dtype)
    axes = list(range(1, x.shape.rank))
    return tf.reduce_all(tf.logical_and(x >= low, x <= high), axes, keepdims=True)


def ball(x: tf.Tensor, eps: tf.Tensor, norm: str = "linf", box: Cut | None = None) -> Ball:
    """The ball of radius `eps` in `norm` about each of `x`, cut to `box` for `linf`.

    For `l2` and `l1` the box is left out: the ball alone contains the cut ball, so every bound over
    it stays sound. `boxed` puts it back.

    A radius below 0 or not finite, a pixel that is not finite or outside the box: there is no ball.

    Args:
      x: images [n, *shape], in pixels.
      eps: radius in pixels, a scalar (a tensor serves a schedule without retracing), or for `linf`
        [n or 1, ...] that broadcasts to `x`, for `l2` and `l1` [n or 1, 1, ...].
      norm: one of `NORMS`.
      box: (lo, hi) that every pixel keeps to, numbers or an interval for each; or None.

    Raises:
      ValueError: an unknown norm or a box that is not lo < hi.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    radius = as_scalar(eps, x.dtype)
    numbers = box is not None and not tf.is_tensor(box[0])
    if box is not None and numbers and (len(box) != 2 or not box[0] < box[1]):
        raise ValueError(f"box must be (lo, hi) with lo < hi, got {box!r}")
    valid = tf.logical_and(radius >= 0, tf.math.is_finite(radius))
    if radius.shape.rank:
        valid = tf.reduce_all(valid, list(range(1, x.shape.rank)), keepdims=True)
        shape = tf.shape(x if norm == "linf" else inside(x, None))
        radius = tf.broadcast_to(radius, shape)
    valid, centre = tf.logical_and(inside(x, box), valid), x
    if box is not None and norm == "linf":
        low = tf.maximum(x - radius, as_scalar(box[0], x.dtype))
        high = tf.minimum(x + radius, as_scalar(box[1], x.dtype))
        centre, radius = 0.5 * (low + high), 0.5 * (high - low)
    return Ball(tf.where(valid, centre, float("nan")), radius, norm)


def boxed(region: Ball, box: tuple[tf.Tensor, tf.Tensor], share: float = 1.0) -> Ball:
    """An `l2` or `l1` ball whose pixels keep to intervals about their centres, too.

    Args:
      region: the ball.
      box: intervals that the centre lies in; of each the farther end counts.
      share: what the intervals' half widths are multiplied by.
    """
    room = share * tf.maximum(box[1] - region.centre, region.centre - box[0])
    return region._replace(room=tf.minimum(room, region.radius))
