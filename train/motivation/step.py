"""One step of a pair whose first network keeps its loss's gradient away from the second's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from robustra_tf.graph.build import build
from robustra_tf.graph.graph import Structure
from robustra_tf.objective.losses import clean_error
from robustra_tf.training.gradient import regularised, trained_places

_TINY = 1e-30


def cosine(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """`cos(a_i, b_i)` of every example, [n], for a and b [n, ...]; 0 where one of them is 0.

    Of images that are fitted well, gradients are so small that their squares vanish: each is
    divided by its largest entry first.
    """

    def direction(values: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(values, (tf.shape(values)[0], -1))
        largest = tf.reduce_max(tf.abs(flat), 1, keepdims=True)
        # The cosine does not depend on the scale, nor does its gradient.
        flat /= tf.stop_gradient(tf.maximum(largest, _TINY))
        square = tf.reduce_sum(tf.square(flat), 1, keepdims=True)
        return flat / tf.sqrt(tf.where(square > 0, square, tf.ones_like(square)))

    return tf.reduce_sum(direction(a) * direction(b), 1)


class PairLosses(NamedTuple):
    """Of f and of g.

    Attributes:
      losses: two of [n].
      logits: two of [n, classes].
      alignment: `|cos(grad_x l_f, grad_x l_g)|`, [n].
    """

    losses: list[tf.Tensor]
    logits: list[tf.Tensor]
    alignment: tf.Tensor


def losses(
    structures: Sequence[Structure],
    weights: Sequence[Sequence[tf.Tensor]],
    x: tf.Tensor,
    y: tf.Tensor,
) -> PairLosses:
    """Cross-entropies and logits of f and g, and `|cos(grad_x l_f, grad_x l_g)|`.

    Args:
      structures, weights: of f and of g.
      x: images [n, *shape] in pixels.
      y: labels [n], int32.
    """
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        logits = [
            structure.forward(own, x) for structure, own in zip(structures, weights, strict=True)
        ]
        found = [tf.nn.sparse_softmax_cross_entropy_with_logits(y, z) for z in logits]
    slopes = [tape.gradient(loss, x) for loss in found]
    return PairLosses(found, logits, tf.abs(cosine(*slopes)))


class PairStep:
    """`(x, y) -> metrics`: a step of f on `l_f + lambda |cos|` and one of g on `l_g`.

    Both are taken at the same time, from the weights before it; the cosine trains f alone. Compiled
    once.

    Args:
      models: f and g, image to logits.
      optimizers: theirs, Keras ones.
      alignment: lambda.
      clip_norm: the largest global norm of each gradient, or None.
      weight_decay: the factor of each weight that is added to its gradient.
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        optimizers: Sequence[keras.optimizers.Optimizer],
        alignment: float,
        clip_norm: float | None = None,
        weight_decay: float = 0.0,
    ):
        self._models, self._optimizers, self._alignment = models, optimizers, alignment
        self._graphs = [build(model) for model in models]
        self._clip_norm, self._weight_decay = clip_norm, weight_decay
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.build(model.trainable_variables)
        #: How often the step has been traced: once, unless the batch's shape changes.
        self.traces = 0
        self._step = tf.function(self._run, autograph=False)

    def __call__(self, x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        """Take one step; returns scalars.

        The means over the batch of `loss_f`, `loss_g`, `clean_error_f`, `clean_error_g` and
        `cosine`, the alignment; `loss`, all that is minimised; `grad_norm`, the larger of the two
        gradients' norms.

        Args:
          x: images [n, *shape] in pixels, float32.
          y: labels [n], integers.
        """
        return self._step(x, tf.cast(y, tf.int32))

    def _run(self, x, y):
        self.traces += 1
        weights = [graph.weights() for graph in self._graphs]
        structures = [graph.structure for graph in self._graphs]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(weights)
            found, logits, aligned = losses(structures, weights, x, y)
            totals = [tf.reduce_mean(loss) for loss in found]
            totals[0] += self._alignment * tf.reduce_mean(aligned)
        metrics, norms = {"loss": tf.add_n(totals), "cosine": tf.reduce_mean(aligned)}, []
        gradients = [tape.gradient(total, own) for total, own in zip(totals, weights, strict=True)]
        for k, name in enumerate("fg"):
            metrics[f"loss_{name}"] = tf.reduce_mean(found[k])
            metrics[f"clean_error_{name}"] = tf.reduce_mean(
                tf.cast(clean_error(logits[k], y), tf.float32)
            )
            norms.append(self._update(k, weights[k], gradients[k]))
        return {**metrics, "grad_norm": tf.maximum(*norms)}

    def _update(
        self, k: int, weights: Sequence[tf.Tensor], gradient: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """Moves one network; returns the norm of its gradient."""
        places = trained_places(self._models[k], self._graphs[k].variables)
        found, norm = regularised(
            [gradient[i] for i in places],
            [weights[i] for i in places],
            self._clip_norm,
            self._weight_decay,
        )
        self._optimizers[k].apply(found, self._models[k].trainable_variables)
        return norm
