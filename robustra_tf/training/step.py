"""One step of training a network, alone or against a reference, as one compiled function."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from robustra_tf.counting import labels_tensor
from robustra_tf.intake import checks
from robustra_tf.objective.batch import Seed
from robustra_tf.training.gradient import Step, StepGradient
from robustra_tf.training.options import StepOptions


class TrainStep:
    """`(x, y, eps, seed) -> metrics`: one optimizer step on a batch, compiled once.

    Batch normalisations of the model that are trainable take the batch's statistics and move their
    running ones, which the reference uses and every evaluation.

    A loss or a gradient that is not finite leaves weights and optimizer as they were; the metrics
    show it.

    Attributes:
      traces: how often the step has been traced: once, unless the batch's shape changes.

    Args:
      model: the trained network, image to logits.
      reference: the network whose adversarial space bounds the attack, for `robustra`; else None.
      optimizer: a Keras optimizer; its `learning_rate` is a variable that a schedule assigns.
      method: the name of one of `robustra_tf.training.methods.METHODS`.
      options: what the step is tuned by. The metrics that rest on projections are called estimates.
      devices: the first is where the variables are and what updates them, and every operation of
        a single one; of several, each takes an equal share of the batch, with the weights as they
        are, and the first adds up their gradients. Statistics of batch normalisations and layers'
        regularisers, which are of the batch as a whole, are the first one's too. Without any,
        operations are left to TensorFlow.

    Raises:
      ValueError: an unknown method, a reference that is missing or not wanted, or an option that
        the method does not take.

    Example:
      >>> step = rt.TrainStep(f, g, keras.optimizers.Adam(1e-3), "robustra")
      >>> metrics = step(tf.constant(x), tf.constant(y), tf.constant(0.1))
      >>> float(metrics["robust_error"])
      0.0
    """

    def __init__(
        self,
        model: keras.Model,
        reference: keras.Model | None,
        optimizer: keras.optimizers.Optimizer,
        method: str = "robustra",
        *,
        options: StepOptions = StepOptions(),
        devices: Sequence[str] = (),
    ):
        self._gradient = StepGradient(model, reference, method, options, devices)
        self._optimizer, self._device = optimizer, devices[0] if devices else None
        optimizer.build(model.trainable_variables)
        self.traces = 0
        self._step = tf.function(self._run, autograph=False)

    def __call__(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        eps: tf.Tensor,
        seed: Seed = (0, 0),
        lowered: tf.Tensor | float | None = None,
    ) -> dict[str, tf.Tensor]:
        """Take one step; returns scalars, the means over the batch.

        Args:
          x: images [n, *shape] in pixels, `n` static.
          y: labels [n], integers.
          eps: radius in pixels, a scalar tensor.
          seed: integers [2], of the attacks' random starts and of the random vectors.
          lowered: how far a threshold on a ramp has come from `t0` to 0, 0 to 1; as far as the
            radius has come on its own where it is None.
        """
        checks.plain("TrainStep", x, y)
        eps, seed = tf.cast(eps, tf.float32), tf.cast(seed, tf.int32)
        # Where nothing depends on it, one trace serves calls with it and without.
        ramps = self._gradient.problem.losses.threshold == "ramp"
        lowered = tf.cast(lowered, tf.float32) if ramps and lowered is not None else None
        return self._step(x, labels_tensor(y), eps, seed, lowered)

    def _run(self, x, y, eps, seed, lowered):
        self.traces += 1
        # Within the trace: else what reads no variable would be left to TensorFlow. The name tells
        # the operations of several steps apart in a profile.
        name = self._device and self._device.replace(":", "_")
        with tf.device(self._device), tf.name_scope(name or "step"):
            batch = self._gradient.problem.batch(x, y, eps, seed, lowered=lowered)
            step = self._gradient(*self._gradient.networks(), batch)
            # A poisoned update could not be taken back.
            tf.cond(step.finite, lambda: self._update(step), lambda: False)
        return step.metrics

    def _update(self, step: Step) -> bool:
        self._optimizer.apply(step.gradients, self._gradient.model.trainable_variables)
        self._gradient.graph.assign(step.statistics)
        return True
