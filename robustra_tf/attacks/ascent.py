"""One restart of projected gradient ascent, as a function of tensors alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from robustra_tf.attacks import steps as geometry
from robustra_tf.bounds.balls import Box

# What of a derivative passes a dead ReLU where otherwise nothing would pass at all.
_LEAK = 0.1


class Attacked(Protocol):
    """A network: a callable of images, and the same with other derivatives."""

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The outputs."""
        ...

    def bent(self, x: tf.Tensor, relu: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """The outputs with another function in the place of every ReLU."""
        ...


class Unsafe(NamedTuple):
    """Conditions of a batch, as `conditions.Conditions` has them."""

    rows: tf.Tensor
    offset: tf.Tensor
    group: tf.Tensor


class Batch(NamedTuple):
    """What is attacked.

    Attributes:
      x, start: images and perturbations to begin with, float32 [n, *shape].
      aim: labels [n], integers; or what is to be reached.
      eps: a scalar; or radii, [n, pixels], or [n, 1] for `l2` and `l1`.
      walls: intervals of the pixels, [n, pixels] each; None where there are none, or one for all.
      until: no step is begun from there on, as `tf.timestamp` counts; a scalar.
    """

    x: tf.Tensor
    start: tf.Tensor
    aim: tf.Tensor | Unsafe
    eps: tf.Tensor
    walls: tuple[tf.Tensor, tf.Tensor] | None
    until: tf.Tensor


def label_margin(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The largest `logit_t - logit_y` over `t != y`, [n]."""
    label = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False)
    own = tf.reduce_sum(tf.where(label, logits, tf.zeros_like(logits)), axis=1)
    rivals = tf.where(label, tf.constant(-np.inf, logits.dtype), logits)
    return tf.reduce_max(rivals, axis=1) - own


@tf.custom_gradient
def leaking(z: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """`max(z, 0)` with a derivative below 0 too: a way off a plateau where all units are dead."""

    def backward(upstream):
        return tf.where(z > 0, upstream, _LEAK * upstream)

    return tf.nn.relu(z), backward


def violation(outputs: tf.Tensor, unsafe: Unsafe) -> tf.Tensor:
    """How far outputs are inside the unsafe set, [n]: over groups the largest of the least."""
    values = tf.linalg.matvec(unsafe.rows, outputs) + unsafe.offset
    count, batch = unsafe.rows.shape[1], tf.shape(values)[0]
    # No more groups than conditions; those of no group go where nobody looks.
    place = tf.where(unsafe.group < 0, count, unsafe.group)
    place += (count + 1) * tf.range(batch)[:, None]
    flat = (tf.reshape(part, (-1,)) for part in (values, place))
    least = tf.math.unsorted_segment_min(*flat, batch * (count + 1))
    least = tf.reshape(least, (-1, count + 1))[:, :count]
    # A segment of nothing has the type's largest number.
    there = least < values.dtype.max
    return tf.reduce_max(tf.where(there, least, tf.constant(-np.inf, values.dtype)), axis=1)


@dataclasses.dataclass(frozen=True)
class Ascent:
    """How a restart climbs.

    Attributes:
      norm, box: of the balls; a box of two numbers, or None.
      loss: `margin` or `cross_entropy`.
      steps: how many, of shrinking length.
      relative_step: the first one's length in radii.
      early_stop: leaves alone what is found.
    """

    norm: str
    box: Box | None
    loss: str
    steps: int
    relative_step: float
    early_stop: bool

    def run(self, network: Attacked, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """The point of the largest margin [n, *shape] and that margin [n]."""
        x, eps = batch.x, batch.eps
        shape, size = tf.shape(x), int(np.prod(x.shape[1:]))
        centre, walls = tf.reshape(x, (-1, size)), batch.walls or self.box

        def place(delta):
            """The ball's nearest point, cut to the box: as the image lies in it, still inside."""
            point = centre + geometry.project(delta, eps, self.norm)
            return point if walls is None else tf.clip_by_value(point, *walls)

        def climbed(point, network):
            with tf.GradientTape() as tape:
                tape.watch(point)
                margin, loss = self._judged(network(tf.reshape(point, shape)), batch.aim)
            return margin, tape.gradient(loss, point)

        def surrogate(image):
            return network.bent(image, leaking)

        def evaluate(point):
            margin, gradient = climbed(point, network)
            level = tf.reduce_all(gradient == 0, axis=1, keepdims=True)
            return margin, tf.cond(
                tf.reduce_any(level),
                lambda: tf.where(level, climbed(point, surrogate)[1], gradient),
                lambda: gradient,
            )

        def keep(point, margin, best, best_margin):
            better = margin > best_margin
            if self.early_stop:
                # Others of the batch may go on: what is found must not depend on them.
                better &= best_margin <= 0
            return tf.where(better[:, None], point, best), tf.where(better, margin, best_margin)

        def unfinished(step, point, best, best_margin):
            del point, best
            going = tf.reduce_any(best_margin <= 0) if self.early_stop else True
            return (step < self.steps) & going & (tf.timestamp() < batch.until)

        def advance(step, point, best, best_margin):
            margin, gradient = evaluate(point)
            best, best_margin = keep(point, margin, best, best_margin)
            blocked = tf.zeros_like(point, tf.bool)
            if walls is not None:
                blocked = ((point <= walls[0]) & (gradient < 0)) | (
                    (point >= walls[1]) & (gradient > 0)
                )
            length = eps * self.relative_step * (1.0 - tf.cast(step, x.dtype) / self.steps)
            move = length * geometry.steepest(gradient, blocked, self.norm)
            return step + 1, place(point + move - centre), best, best_margin

        point = place(tf.reshape(batch.start, (-1, size)))
        floor = tf.fill(shape[:1], tf.constant(-np.inf, x.dtype))
        _, point, best, best_margin = tf.while_loop(
            unfinished, advance, (tf.constant(0), point, point, floor)
        )
        margin, _ = self._judged(network(tf.reshape(point, shape)), batch.aim)
        best, best_margin = keep(point, margin, best, best_margin)
        return tf.reshape(best, shape), best_margin

    def _judged(self, outputs: tf.Tensor, aim: tf.Tensor | Unsafe) -> tuple[tf.Tensor, tf.Tensor]:
        """What is to be made positive, and the loss that is climbed, [n] each."""
        outputs = tf.cast(outputs, tf.float32)
        if isinstance(aim, Unsafe):
            margin = violation(outputs, aim)
            return margin, margin
        margin = label_margin(outputs, aim)
        if self.loss == "margin":
            return margin, margin
        return margin, tf.nn.sparse_softmax_cross_entropy_with_logits(aim, outputs)
