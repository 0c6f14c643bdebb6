"""Keras metrics on upper bounds of margins."""

from __future__ import annotations

import keras
import tensorflow as tf

from robustra_tf import counting


def certified(y: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
    """Whether the bounds prove the label: `upper_t < 0`, finite, for every `t != y`. Boolean [n].

    A bound of exactly 0 leaves a tie possible, and one that is not a finite number proves nothing;
    nor does a label that is no class, or the only one.

    Args:
      y: labels, integers [n].
      upper: upper bounds of `f_t - f_y` over each ball, [n, classes]; entry `y` is not looked at.

    Example:
      >>> rt.metrics.certified(np.array([0]), np.array([[0.0, -0.4]])).numpy()
      array([ True])
    """
    return counting.certified_tensor(-upper, y)


class CertifiedAccuracy(keras.metrics.Metric):
    """The share of examples that bounds certify: all other classes provably below the label's.

    It takes upper bounds of `f_t - f_y`; lower bounds of `f_y - f_t`, as a certificate has them,
    with their sign changed. The result is a fraction, 0 before the first example.

    Example:
      >>> metric = rt.metrics.CertifiedAccuracy()
      >>> metric.update_state(y, -rt.certify(model, x, y, eps=0.1).margin_lower)
      >>> float(metric.result())
      1.0
    """

    def __init__(self, name: str = "certified_accuracy", **kwargs):
        super().__init__(name=name, **kwargs)
        self._certified = self.add_variable((), initializer="zeros", name="certified")
        self._count = self.add_variable((), initializer="zeros", name="count")

    def update_state(self, y: tf.Tensor, upper: tf.Tensor) -> None:
        """Adds a batch.

        Args:
          y: labels, integers [n].
          upper: upper bounds of `f_t - f_y`, [n, classes].

        Raises:
          ValueError: labels that are no integers, or `upper` that is not a row of bounds for each.
        """
        y, upper = tf.convert_to_tensor(y), tf.convert_to_tensor(upper)
        if not y.dtype.is_integer:
            raise ValueError(f"y must be integer labels [n], got {y.dtype.name}")
        if upper.shape.rank != 2 or not upper.shape[:1].is_compatible_with(y.shape):
            raise ValueError(
                f"upper must be [n, classes] for labels y [n], got {upper.shape} and {y.shape}"
            )
        found = tf.cast(certified(y, upper), self._certified.dtype)
        self._certified.assign_add(tf.reduce_sum(found))
        self._count.assign_add(tf.cast(tf.size(found), self._count.dtype))

    def result(self) -> tf.Tensor:
        """The share so far, a scalar."""
        return tf.math.divide_no_nan(*map(tf.convert_to_tensor, (self._certified, self._count)))
