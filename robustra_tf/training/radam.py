"""Adam with its step rectified for how little the first steps know of the gradients' squares."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="robustra_tf")
class RAdam(keras.optimizers.Adam):
    """Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020.

    With `rho_inf = 2 / (1 - beta_2) - 1` and `rho_t = rho_inf - 2 t beta_2^t / (1 - beta_2^t)`, a
    weight moves by `lr r_t mhat_t / (sqrt(vhat_t) + epsilon)` once `rho_t > 4`, where

        r_t = sqrt((rho_t - 4)(rho_t - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho_t)),

    and by `lr mhat_t` before, with Adam's means without their bias. The paper has no such constant
    beside the root.

    Args:
      learning_rate: a number, or a schedule of Keras's.
      **options: as `keras.optimizers.Adam` takes them, but for `amsgrad=True`.

    Raises:
      ValueError: `amsgrad=True`, or `beta_2 <= 0.6`, which leaves no step to rectify.

    Example:
      >>> rt.RAdam(1e-3).get_config()["beta_2"]
      0.999
    """

    def __init__(self, learning_rate: Any = 1e-3, **options: Any):
        super().__init__(learning_rate, **options)
        if self.amsgrad:
            raise ValueError("amsgrad must be False for RAdam, got True")
        if not _longest(self.beta_2) > 4:
            raise ValueError(f"beta_2 must be above 0.6 for RAdam, got {self.beta_2!r}")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves a variable, as Keras calls it."""
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        dtype = variable.dtype
        gradient = tf.cast(gradient, dtype)
        self.assign_add(m, (1 - self.beta_1) * (gradient - m))
        self.assign_add(v, (1 - self.beta_2) * (tf.square(gradient) - v))
        means = tf.convert_to_tensor(m), tf.convert_to_tensor(v)
        betas = self.beta_1, self.beta_2
        moved = rectified(*means, self.iterations + 1, betas=betas, epsilon=self.epsilon)
        self.assign_sub(variable, tf.cast(learning_rate, dtype) * moved)


def rectified(
    m: tf.Tensor, v: tf.Tensor, count: Any, *, betas: tuple[float, float], epsilon: float
) -> tf.Tensor:
    """How far a weight moves at rate 1, towards less.

    Args:
      m, v: the means after the step's gradient.
      count: of the step, from 1.
      betas: what the means keep of themselves.
      epsilon: as `RAdam` has it.
    """
    # Near 1, float32 has too few digits of what is left of the power.
    step = tf.cast(count, tf.float64)
    kept = tf.pow(tf.constant(betas[1], tf.float64), step)
    longest = _longest(betas[1])
    length = longest - 2.0 * step * kept / (1.0 - kept)
    known = tf.maximum(length, 4.0)
    squared = (known - 4.0) * (known - 2.0) * longest
    squared /= (longest - 4.0) * (longest - 2.0) * known
    unbiased = 1.0 - tf.pow(tf.constant(betas[0], tf.float64), step)
    scale = tf.cast(tf.sqrt(squared * (1.0 - kept)) / unbiased, m.dtype)
    least = epsilon * tf.cast(tf.sqrt(1.0 - kept), m.dtype)
    adaptive = scale * m / (tf.sqrt(v) + least)
    return tf.where(length > 4.0, adaptive, m / tf.cast(unbiased, m.dtype))


def _longest(beta_2: float) -> float:
    """How many gradients the mean of squares comes to weigh."""
    return 2.0 / (1.0 - beta_2) - 1.0 if beta_2 < 1 else math.inf
