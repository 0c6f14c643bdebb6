"""The geometry of an attack's steps in a norm ball: project, step, start at random.

Perturbations are flat here: `delta` is [n, d] with d the number of pixels.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# Share of the pixels that one l1 step moves: the single steepest one would need very many steps.
_L1_SHARE = 0.05
_TINY = 1e-12


def project(delta: tf.Tensor, eps: tf.Tensor, norm: str) -> tf.Tensor:
    """The nearest perturbation `argmin ||p - delta||_2` with `||p|| <= eps`.

    Args:
      delta: [n, d].
      eps: radius in pixels, a scalar or [n, 1].
      norm: "linf", "l2" or "l1".

    Returns:
      [n, d].
    """
    if norm == "linf":
        return tf.clip_by_value(delta, -eps, eps)
    if norm == "l2":
        length = tf.norm(delta, axis=1, keepdims=True)
        return delta * tf.minimum(1.0, eps / tf.maximum(length, _TINY))
    return _project_l1(delta, eps)


def _project_l1(delta: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    """Duchi et al. 2008: shrink every coordinate by one threshold, found by sorting."""
    size = tf.abs(delta)
    ordered = tf.sort(size, axis=1, direction="DESCENDING")
    ranks = tf.range(1, tf.shape(delta)[1] + 1)
    thresholds = (tf.cumsum(ordered, axis=1) - eps) / tf.cast(ranks, delta.dtype)
    kept = tf.reduce_sum(tf.cast(ordered > thresholds, tf.int32), axis=1, keepdims=True)
    # At eps = 0 no coordinate lies above its threshold.
    kept = tf.maximum(kept, 1)
    threshold = tf.maximum(tf.gather(thresholds, kept - 1, axis=1, batch_dims=1), 0.0)
    return tf.sign(delta) * tf.maximum(size - threshold, 0.0)


def steepest(gradient: tf.Tensor, blocked: tf.Tensor, norm: str) -> tf.Tensor:
    """A direction of unit norm along which the loss rises fastest, spread out for l1.

    Args:
      gradient: [n, d], of the loss to increase.
      blocked: boolean [n, d], coordinates that the box keeps from moving along the gradient.
      norm: "linf", "l2" or "l1".

    Returns:
      [n, d]; zero where the gradient is.
    """
    gradient = tf.where(blocked, tf.zeros_like(gradient), gradient)
    if norm == "linf":
        return tf.sign(gradient)
    if norm == "l2":
        return gradient / tf.maximum(tf.norm(gradient, axis=1, keepdims=True), _TINY)
    size = tf.abs(gradient)
    count = max(1, round(_L1_SHARE * gradient.shape[1]))
    least = tf.math.top_k(size, count).values[:, -1:]
    moved = tf.where((size >= least) & (size > 0), tf.sign(gradient), tf.zeros_like(gradient))
    return moved / tf.maximum(tf.reduce_sum(tf.abs(moved), axis=1, keepdims=True), 1.0)


def random_start(shape: tuple[int, ...], norm: str, seed: tuple[int, ...]) -> np.ndarray:
    """A random point of the unit ball of `norm`: float32 `shape`, the same for the same seed.

    Uniform for linf; for l2 and l1 uniform too, by the usual normalised normal and exponential
    draws and a radius u^(1/d).
    """
    rng = np.random.default_rng(seed)
    if norm == "linf":
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    radius = rng.uniform() ** (1.0 / np.prod(shape))
    if norm == "l2":
        point = rng.normal(size=shape)
        return (radius * point / np.linalg.norm(point)).astype(np.float32)
    point = rng.laplace(size=shape)
    return (radius * point / np.abs(point).sum()).astype(np.float32)
