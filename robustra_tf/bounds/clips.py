"""Boxes of which only the part in a half space counts, and what affine functions reach there."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Clip(NamedTuple):
    """`value + slope . t <= 0` for what counts of each box, `t` in [-1, 1]^k.

    Attributes:
      value: [n], in the middle of each box.
      slope: [n, k], by half of each width. Zeros leave the whole box.
    """

    value: tf.Tensor
    slope: tf.Tensor


def greatest(clip: Clip | None, constant: tf.Tensor, slope: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """`max constant + slope . t` over what counts of each one's box, or more: [R].

    With a multiplier `m >= 0` of the half space it is at most `constant - m value +
    ||slope - m normal||_1`, which is convex in `m`, with a kink wherever an entry is 0. So the
    least is at one of these or at 0, or there is none: then nothing of the box counts.

    Args:
      clip: of the boxes; None where all of them count.
      constant, slope: [R] and [R, k].
      box: [R], the box of each.
    """
    whole = tf.reduce_sum(tf.abs(slope), 1)
    if clip is None:
        return constant + whole
    value, normal = tf.gather(clip.value, box), tf.gather(clip.slope, box)
    kinks = tf.nn.relu(tf.math.divide_no_nan(slope, normal))
    left = slope[:, None] - kinks[..., None] * normal[:, None]
    reach = tf.reduce_sum(tf.abs(left), 2) - kinks * value[:, None]
    # What is no number, by a multiplier too large, leaves the whole box.
    reach = tf.where(tf.math.is_finite(reach), reach, whole[:, None])
    return constant + tf.minimum(whole, tf.reduce_min(reach, 1))
