"""The set of inputs that an attack may choose from: a norm ball, perhaps cut to a box."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from robustra_tf.vocabulary import NORMS

Box = tuple[float, float]


class Ball(NamedTuple):
    """`{x' : ||x' - x|| <= eps}`, written as a centre and a radius of the dual norm.

    Where there is no ball the centre is NaN, and nothing follows from it.

    Attributes:
      centre: [n, *shape], in pixels.
      radius: for `linf`, the half width of each pixel's interval: [n, *shape] with a box, a scalar
        without. For `l2` and `l1`, the scalar eps.
      norm: `linf`, `l2` or `l1`.
    """

    centre: tf.Tensor
    radius: tf.Tensor
    norm: str

    @property
    def half_widths(self) -> tf.Tensor:
        """How far each pixel can move, [n, *shape]."""
        return tf.broadcast_to(self.radius, tf.shape(self.centre))


def as_scalar(value: float | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """`value` in `dtype`; a Python number does not pass through float32 on its way to float64."""
    if tf.is_tensor(value):
        return tf.cast(value, dtype)
    return tf.constant(value, dtype)


def inside(x: tf.Tensor, box: Box | None) -> tf.Tensor:
    """Whether all pixels of an image are finite and keep to the box: boolean [n, 1, ...]."""
    low, high = (x.dtype.min, x.dtype.max) if box is None else box
    low, high = as_scalar(low, x.dtype), as_scalar(high, x.dtype)
    axes = list(range(1, x.shape.rank))
    return tf.reduce_all(tf.logical_and(x >= low, x <= high), axes, keepdims=True)


def ball(x: tf.Tensor, eps: tf.Tensor, norm: str = "linf", box: Box | None = None) -> Ball:
    """The ball of radius `eps` in `norm` about each of `x`, cut to `box` for `linf`.

    For `l2` and `l1` the box is left out: the ball alone contains the cut ball, so every bound over
    it stays sound.

    A radius below 0 or not finite, a pixel that is not finite or outside the box: there is no ball.

    Args:
      x: images [n, *shape], in pixels.
      eps: radius in pixels, a scalar (a tensor serves a schedule without retracing).
      norm: one of `NORMS`.
      box: (lo, hi) that every pixel keeps to, or None.

    Raises:
      ValueError: an unknown norm or a box that is not lo < hi.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    radius = as_scalar(eps, x.dtype)
    if box is not None and (len(box) != 2 or not box[0] < box[1]):
        raise ValueError(f"box must be (lo, hi) with lo < hi, got {box!r}")
    valid = tf.logical_and(radius >= 0, tf.math.is_finite(radius))
    valid, centre = tf.logical_and(inside(x, box), valid), x
    if box is not None and norm == "linf":
        low = tf.maximum(x - radius, as_scalar(box[0], x.dtype))
        high = tf.minimum(x + radius, as_scalar(box[1], x.dtype))
        centre, radius = 0.5 * (low + high), 0.5 * (high - low)
    return Ball(tf.where(valid, centre, float("nan")), radius, norm)
