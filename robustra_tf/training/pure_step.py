"""The step of training as a pure function, for machines where no TensorFlow runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from robustra_tf.graph.graph import Network
from robustra_tf.intake import checks
from robustra_tf.objective.batch import Seed
from robustra_tf.training import optimizers
from robustra_tf.training.gradient import StepGradient
from robustra_tf.training.options import StepOptions


class PureState(NamedTuple):
    """What a step takes over from the one before it.

    Attributes:
      weights: every variable of the trained network's graph.
      optimizer: the optimizer's, as `optimizers.state` has it.
    """

    weights: list[tf.Tensor]
    optimizer: list[tf.Tensor]


class PureStep:
    """`(state, x, y, reference, eps, learning_rate, seed) -> (state, metrics)`.

    Does what `TrainStep` does without its `lowered`, with every row's bound computed (static
    shapes), nothing captured and no variable touched: compiled by XLA, it can be exported and
    driven from anywhere.

    Attributes:
      traces: how often the step has been traced: once, unless the batch's shape changes.
      function: the compiled function itself, whose intermediate representation can be asked for.

    Args:
      model, reference, method, options: as `TrainStep` takes them; of `options.bounds`, the rows
        are always every neuron's.
      optimizer: a Keras `Adam`, `AdamW` or `SGD`, or an `RAdam`, with no other options than its own
        and those of an average (`use_ema=True`); it is read, not used.

    Raises:
      ValueError: as `TrainStep`, and for an optimizer that has no pure form.

    Example:
      >>> step = rt.PureStep(f, g, keras.optimizers.Adam(1e-3))
      >>> [tuple(weight.shape) for weight in step.state().weights]
      [(2, 2), (2,), (2, 2), (2,)]
    """

    def __init__(
        self,
        model: keras.Model,
        reference: keras.Model | None,
        optimizer: keras.optimizers.Optimizer,
        method: str = "robustra",
        *,
        options: StepOptions = StepOptions(),
    ):
        self._gradient = StepGradient(model, reference, method, options.with_bounds(rows="every"))
        self._optimizer, self._rule = optimizer, optimizers.rule(optimizer)
        optimizer.build(model.trainable_variables)
        self.traces = 0
        self.function = tf.function(self._run, jit_compile=True, autograph=False)

    def state(self) -> PureState:
        """The present values of the model and of the optimizer: where a run begins."""
        # Values, not variables: the step must not see what becomes of the model afterwards.
        weights = self._gradient.graph.weights()
        return PureState(weights, optimizers.state(self._optimizer))

    def reference(self) -> list[tf.Tensor]:
        """The present values of the reference's variables; none without a reference."""
        graph = self._gradient.reference
        return [] if graph is None else graph.weights()

    def __call__(
        self,
        state: PureState,
        x: tf.Tensor,
        y: tf.Tensor,
        reference: Sequence[tf.Tensor],
        eps: tf.Tensor,
        learning_rate: tf.Tensor,
        seed: Seed = (0, 0),
    ) -> tuple[PureState, dict[str, tf.Tensor]]:
        """Take one step.

        Args:
          state: as `state` gives it, or as the step before returned it.
          x: images [n, *shape] in pixels, float32.
          y: labels [n], int32.
          reference: as `reference` gives it.
          eps: radius in pixels, a float32 scalar.
          learning_rate: a float32 scalar.
          seed: integers [2], of the attacks' random starts and of the random vectors; XLA draws
            others than `TrainStep` has for the same seed.

        Returns:
          The new state, and the metrics of `TrainStep`. Where the loss or its gradient is not
          finite, the state is as it was.
        """
        checks.plain("PureStep", x, y)
        seed = tf.cast(seed, tf.int32)
        return self.function(state, x, y, reference, eps, learning_rate, seed)

    def _run(self, state, x, y, reference, eps, learning_rate, seed):
        self.traces += 1
        problem = self._gradient.problem
        network = Network(problem.structure, state.weights)
        other = None if problem.reference is None else Network(problem.reference, reference)
        step = self._gradient(network, other, problem.batch(x, y, eps, seed))
        trained = self._gradient.trained(state.weights)
        updated = optimizers.updated(
            self._rule, step.gradients, trained, state.optimizer, learning_rate
        )
        weights = list(state.weights)
        replaced = dict(zip(self._gradient.places, updated.weights, strict=True))
        for place, weight in (replaced | dict(step.statistics)).items():
            weights[place] = weight
        after = PureState(weights, updated.state)
        kept = tf.nest.map_structure(lambda a, b: tf.where(step.finite, a, b), after, state)
        return kept, step.metrics
