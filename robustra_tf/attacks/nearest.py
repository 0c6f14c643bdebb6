"""The way to the nearest point that is classified wrongly: one descent for all radii.

Steepest ascent of the margin `max_t logit_t - logit_y` in a ball whose radius is each image's own:
the distance at which a linear function of that margin and gradient is 0. Radii may change by less
from step to step, and are never above the nearest point's that was found.

Source: J. Rony et al., *Decoupling direction and norm for efficient gradient-based l2 adversarial
attacks and defenses*, CVPR 2019, of which the radius's factor is taken from the gradient here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from robustra_tf.attacks import steps as geometry
from robustra_tf.attacks.ascent import label_margin
from robustra_tf.bounds.balls import Box

#: By which share of itself a radius may change in the second step and in the last.
_FIRST, _LAST = 0.2, 0.02
#: Of the radius, the length of the first step and the last.
_LONG, _SHORT = 0.5, 0.05
#: How far beyond the distance that a linear function has a point is sought, in shares of it.
_BEYOND = 1e-3
#: The least slope that is divided by.
_FLAT = 1e-20


@dataclasses.dataclass(frozen=True)
class Nearest:
    """Looks for the points near images that are classified wrongly.

    Attributes:
      network: images [n, *shape] -> logits [n, classes], float32.
      norm: of distances, `linf`, `l2` or `l1`.
      box: of every pixel, or None.
      limit: the largest radius.
      steps: how many, at least 1.
      batch_size: images at a time.
    """

    network: Callable
    norm: str
    box: Box | None
    limit: float
    steps: int
    batch_size: int = 500

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The nearest points found, float32 [n, *shape]; the images where none was.

        Args:
          x: images [n, *shape], float32, in the box.
          y: labels int [n].
        """
        shape = x.shape[1:]
        descend = tf.function(
            self._descend,
            input_signature=(
                tf.TensorSpec((None, *shape), tf.float32),
                tf.TensorSpec((None,), tf.as_dtype(y.dtype)),
            ),
            autograph=False,
        )
        found = [np.zeros((0, *shape), np.float32)]
        for first in range(0, len(x), self.batch_size):
            part = slice(first, first + self.batch_size)
            found.append(descend(x[part], y[part]).numpy())
        return np.concatenate(found)

    def _descend(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        shape, size = tf.shape(x), int(np.prod(x.shape[1:]))
        centre, limit = tf.reshape(x, (-1, size)), tf.constant(self.limit, tf.float32)

        def place(delta, eps):
            point = centre + geometry.project(delta, eps, self.norm)
            return point if self.box is None else tf.clip_by_value(point, *self.box)

        def step(k, point, eps, best, least):
            with tf.GradientTape() as tape:
                tape.watch(point)
                logits = tf.cast(self.network(tf.reshape(point, shape)), tf.float32)
                margin = label_margin(logits, y)
            gradient = tape.gradient(margin, point)
            away = self._length(point - centre)
            nearer = (margin > 0) & (away < least)
            best = tf.where(nearer[:, None], point, best)
            least = tf.where(nearer, away, least)
            share = tf.cast(k, tf.float32) / max(self.steps - 1, 1)
            blocked = tf.zeros_like(point, tf.bool)
            if self.box is not None:
                blocked = ((point <= self.box[0]) & (gradient < 0)) | (
                    (point >= self.box[1]) & (gradient > 0)
                )
            slope = self._dual(tf.where(blocked, tf.zeros_like(gradient), gradient))
            most = _FIRST * (_LAST / _FIRST) ** share
            aimed = (1 + _BEYOND) * (away - margin / tf.maximum(slope, _FLAT))
            near = tf.clip_by_value(aimed, (1 - most) * eps, (1 + most) * eps)
            eps = tf.minimum(tf.where(k > 0, near, aimed), tf.minimum(least, limit))
            move = (_LONG * (_SHORT / _LONG) ** share * eps)[:, None]
            delta = point - centre + move * geometry.steepest(gradient, blocked, self.norm)
            return k + 1, place(delta, eps[:, None]), eps, best, least

        none = tf.fill(shape[:1], tf.constant(np.inf))
        start = (tf.constant(0), centre, tf.zeros_like(none), centre, none)
        _, _, _, best, _ = tf.while_loop(lambda k, *_: k < self.steps, step, start)
        return tf.reshape(best, shape)

    def _length(self, delta: tf.Tensor) -> tf.Tensor:
        """The norm of perturbations, [n]."""
        order = {"linf": np.inf, "l2": 2, "l1": 1}[self.norm]
        return tf.norm(delta, order, axis=1)

    def _dual(self, gradient: tf.Tensor) -> tf.Tensor:
        """The dual norm of gradients: how fast a linear function rises with the radius, [n]."""
        order = {"linf": 1, "l2": 2, "l1": np.inf}[self.norm]
        return tf.norm(gradient, order, axis=1)
