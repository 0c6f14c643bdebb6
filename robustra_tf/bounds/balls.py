"""The set of inputs that an attack may choose from: a norm ball, perhaps cut to a box."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from robustra_tf.settings import NORMS

Box = tuple[float, float]


class Ball(NamedTuple):
    """`{x' : ||x' - x|| <= eps}`, written as a centre and a radius of the dual norm.

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


def ball(x: tf.Tensor, eps: tf.Tensor, norm: str = "linf", box: Box | None = None) -> Ball:
    """The ball of radius `eps` in `norm` about each of `x`, cut to `box` for `linf`.

    For `l2` and `l1` the box is left out: the ball alone contains the cut ball, so every bound over
    it stays sound.

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
    if box is None:
        return Ball(x, radius, norm)
    if len(box) != 2 or not box[0] < box[1]:
        raise ValueError(f"box must be (lo, hi) with lo < hi, got {box!r}")
    if norm != "linf":
        return Ball(x, radius, norm)
    low = tf.maximum(x - radius, as_scalar(box[0], x.dtype))
    high = tf.minimum(x + radius, as_scalar(box[1], x.dtype))
    return Ball(0.5 * (low + high), 0.5 * (high - low), norm)
