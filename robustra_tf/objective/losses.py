"""Losses and errors on upper bounds of margins."""

from __future__ import annotations

import tensorflow as tf

from robustra_tf import counting


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
    """Whether some other class may win or tie: not `h_t < 0` for every `t != y`. Boolean [n].

    What is no finite number is an error.
    """
    return tf.logical_not(counting.certified_tensor(-h, y))


def clean_error(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Whether the predicted class is not the label, or there is none. Boolean [n]."""
    return tf.not_equal(counting.predicted_tensor(logits), counting.labels_tensor(y))
