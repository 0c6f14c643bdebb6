"""One step of training a network, alone or against a reference, as one compiled function."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from robustra_tf.bounds.radius import DEFAULT_BUDGET
from robustra_tf.objective.methods import DEFAULTS, Options
from robustra_tf.objective.normalisation import gradients_in_training, running
from robustra_tf.objective.pieces import examples_together
from robustra_tf.objective.problem import Seed, Weights, pose, trained_places
from robustra_tf.settings import DEFAULT_MEMORY_MB


def make_optimizer(name: str, lr: float, momentum: float) -> keras.optimizers.Optimizer:
    """The Keras optimizer of a setting: `adam`, or `sgd` with a momentum."""
    if name == "adam":
        return keras.optimizers.Adam(lr)
    return keras.optimizers.SGD(lr, momentum=momentum)


def regularised(
    found: Sequence[tf.Tensor],
    weights: Weights,
    clip_norm: float | None,
    weight_decay: float,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients cut to a global norm, plus `weight_decay * weight`; and their norm before."""
    norm = tf.linalg.global_norm(found)
    if clip_norm is not None:
        found = tf.clip_by_global_norm(list(found), clip_norm, use_norm=norm)[0]
    if weight_decay:
        found = [g + weight_decay * w for g, w in zip(found, weights, strict=True)]
    return list(found), norm


def finite(loss: tf.Tensor, grad_norm: tf.Tensor) -> tf.Tensor:
    """Whether a step's loss and the norm of its gradient are finite numbers: a scalar, boolean."""
    return tf.logical_and(tf.math.is_finite(loss), tf.math.is_finite(grad_norm))


class TrainStep:
    """`(x, y, eps, seed) -> metrics`: one optimizer step on a batch, compiled once.

    Batch normalisations of the model that are trainable take the batch's statistics and move their
    running ones, which the reference uses and every evaluation.

    A loss or a gradient that is not finite leaves weights and optimizer as they were; the metrics
    show it.

    Args:
      model: the trained network, image to logits.
      reference: the network whose adversarial space bounds the attack, for `robustra`.
      optimizer: a Keras optimizer; its `learning_rate` is a variable that a schedule assigns.
      method: `robustra`; `wong`, the same bound without a reference; or `natural`.
      memory_mb: MiB that the rows of one piece of the batch may take.
      microbatch: examples of one piece at most, 0 for no limit but the memory's; the gradient is
        that of the whole batch either way.
      clip_norm: the largest global norm of the gradient, or None.
      weight_decay: the factor of each weight that is added to its gradient.
      inner: where `robustra` and `wong` take the bounds of inner layers from, of `INNER`.
      options: of the losses by intervals.
      eps_end: the radius at the end of the ramp, in pixels, by which these losses fade.
      device: that every operation is placed on, where the variables are too; None leaves it to
        TensorFlow.
      norm: of the ball; by intervals `linf` alone.
      projection: estimate the inner ranges of `robustra` and `wong` by so many random vectors, new
        ones for every seed; 0 bounds them. The metrics that rest on them are called estimates.

    Raises:
      ValueError: an unknown method, a reference that is missing or not wanted, or a norm or a
        projection that the method does not take.
    """

    def __init__(
        self,
        model: keras.Model,
        reference: keras.Model | None,
        optimizer: keras.optimizers.Optimizer,
        method: str = "robustra",
        memory_mb: float = DEFAULT_MEMORY_MB,
        microbatch: int = 0,
        clip_norm: float | None = None,
        weight_decay: float = 0.0,
        inner: str = "dual",
        options: Options = DEFAULTS,
        eps_end: float = 1.0,
        device: str | None = None,
        norm: str = "linf",
        projection: int = 0,
    ):
        budget = min(memory_mb * 2**20, DEFAULT_BUDGET)
        self._problem, self._graph, self._reference = pose(
            model,
            reference,
            method,
            rows="auto",
            budget=budget,
            inner=inner,
            options=options,
            eps_end=eps_end,
            norm=norm,
            projection=projection,
        )
        self._together = examples_together(self._problem, memory_mb, microbatch)
        self._optimizer, self._device = optimizer, device
        self._clip_norm, self._weight_decay = clip_norm, weight_decay
        self._variables = model.trainable_variables
        self._places = trained_places(model, self._graph.variables)
        self._running = running(model, self._graph)
        optimizer.build(self._variables)
        #: How often the step has been traced: once, unless the batch's shape changes.
        self.traces = 0
        self._step = tf.function(self._run, autograph=False)

    def __call__(
        self, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: Seed = (0, 0)
    ) -> dict[str, tf.Tensor]:
        """Take one step; returns scalars, the means over the batch.

        Args:
          x: images [n, *shape] in pixels, `n` static.
          y: labels [n], integers.
          eps: radius in pixels, a scalar tensor.
          seed: integers [2], of the attacks' random starts and of the random vectors.
        """
        eps, seed = tf.cast(eps, tf.float32), tf.cast(seed, tf.int32)
        return self._step(x, tf.cast(y, tf.int32), eps, seed)

    def _run(self, x, y, eps, seed):
        self.traces += 1
        # Within the trace: else what reads no variable would be left to TensorFlow. The name tells
        # the operations of several steps apart in a profile.
        name = self._device and self._device.replace(":", "_")
        with tf.device(self._device), tf.name_scope(name or "step"):
            weights = self._graph.weights()
            reference = None if self._reference is None else self._reference.weights()
            found, metrics, statistics = gradients_in_training(
                self._problem,
                self._running,
                weights,
                reference,
                *(x, y, eps, self._together, seed),
            )
            found, norm = regularised(
                [found[i] for i in self._places],
                [weights[i] for i in self._places],
                self._clip_norm,
                self._weight_decay,
            )
            # A poisoned update could not be taken back.
            sound = finite(metrics["loss"], norm)
            tf.cond(sound, lambda: self._update(found, statistics), lambda: False)
        return {**metrics, "grad_norm": norm}

    def _update(self, found, statistics):
        self._optimizer.apply(found, self._variables)
        self._graph.assign(statistics)
        return True
