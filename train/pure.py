"""The step of training as a pure function, for machines where no TensorFlow runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from robustra_tf.bounds.radius import DEFAULT_BUDGET
from robustra_tf.objective.normalisation import gradients_in_training, running
from robustra_tf.objective.problem import pose, trained_places

from . import rules
from .step import regularised

Tensors = Sequence[tf.Tensor]


class Networks(NamedTuple):
    """What a step takes over from the one before it, and the reference that it holds fixed.

    Attributes:
      weights: every variable of the trained network's graph.
      state: the optimizer's, as `rules.state` has it.
      reference: every variable of the reference's graph; empty without a reference.
    """

    weights: list[tf.Tensor]
    state: list[tf.Tensor]
    reference: list[tf.Tensor]


class PureStep:
    """(weights, state, x, y, reference, eps, learning rate) -> (weights, state, metrics).

    Does what `TrainStep` does, with every row's bound computed (static shapes), nothing captured
    and no variable touched: compiled by XLA, it can be exported and driven from anywhere.

    Args:
      model, reference, method, clip_norm, weight_decay: as `TrainStep` takes them.
      optimizer: a Keras `Adam` or `SGD` with no other option than its own; it is read, not used.
      together: examples whose rows are worked on at once, None for the whole batch.
      budget: bytes that one slice of rows may take.

    Raises:
      ValueError: as `TrainStep`, and for an optimizer that has no pure form.
    """

    def __init__(
        self,
        model: keras.Model,
        reference: keras.Model | None,
        optimizer: keras.optimizers.Optimizer,
        method: str = "robustra",
        together: int | None = None,
        budget: float = DEFAULT_BUDGET,
        clip_norm: float | None = None,
        weight_decay: float = 0.0,
    ):
        self._problem, self._graph, self._reference = pose(
            model, reference, method, rows="every", budget=budget
        )
        self._places = trained_places(model, self._graph.variables)
        self._running = running(model, self._graph)
        self._optimizer, self._rule = optimizer, rules.rule(optimizer)
        optimizer.build(model.trainable_variables)
        self._together = together
        self._clip_norm, self._weight_decay = clip_norm, weight_decay
        #: How often the step has been traced: once, unless the batch's shape changes.
        self.traces = 0
        #: The compiled function itself, whose intermediate representation can be asked for.
        self.function = tf.function(self._run, jit_compile=True, autograph=False)

    def networks(self) -> Networks:
        """The present values of the models and of the optimizer: where a run begins."""
        reference = () if self._reference is None else self._reference.variables
        # Values, not variables: the step must not see what becomes of the models afterwards.
        weights, reference = (
            [tf.cast(tf.convert_to_tensor(v), tf.float32) for v in variables]
            for variables in (self._graph.variables, reference)
        )
        return Networks(weights, rules.state(self._optimizer), reference)

    def __call__(
        self,
        weights: Tensors,
        state: Tensors,
        x: tf.Tensor,
        y: tf.Tensor,
        reference: Tensors,
        eps: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], dict[str, tf.Tensor]]:
        """Take one step.

        Args:
          weights, state, reference: as `networks` gives them, or as the step before returned them.
          x: images [n, *shape] in pixels, float32.
          y: labels [n], int32.
          eps: radius in pixels, a float32 scalar.
          learning_rate: a float32 scalar.

        Returns:
          The new weights and state, and the metrics of `TrainStep`.
        """
        return self.function(weights, state, x, y, reference, eps, learning_rate)

    def _run(self, weights, state, x, y, reference, eps, learning_rate):
        self.traces += 1
        together = self._together or x.shape[0]
        found, metrics, statistics = gradients_in_training(
            self._problem,
            self._running,
            weights,
            list(reference) or None,
            *(x, y, eps, together),
        )
        trained = [weights[i] for i in self._places]
        found, norm = regularised(
            [found[i] for i in self._places], trained, self._clip_norm, self._weight_decay
        )
        trained, state = rules.updated(self._rule, found, trained, state, learning_rate)
        weights = list(weights)
        updated = dict(zip(self._places, trained, strict=True)) | statistics
        for place, weight in updated.items():
            weights[place] = weight
        return weights, state, {**metrics, "grad_norm": norm}
