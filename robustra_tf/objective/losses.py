"""Losses and errors on upper bounds of margins."""

from __future__ import annotations

import tensorflow as tf


def robust_cross_entropy(h: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the negated margins `h` against the labels (section 5.6).

    Args:
      h: [n, classes]; entry `t` bounds `f_t - f_y` from above, entry `y` is 0.
      y: labels, integers [n].

    Returns:
      [n].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=h)


def robust_error(h: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Whether some other class may win: `h_t > 0` for some `t != y`. Boolean [n]."""
    other = tf.not_equal(tf.range(h.shape[-1])[None], tf.cast(y, tf.int32)[:, None])
    return tf.reduce_any(tf.logical_and(other, h > 0), -1)


def clean_error(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Whether the predicted class is not the label. Boolean [n]."""
    return tf.not_equal(tf.argmax(logits, -1, output_type=tf.int32), tf.cast(y, tf.int32))
