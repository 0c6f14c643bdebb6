"""One step's gradient, the same for the trainer, the pure step and Keras's `fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from robustra_tf.graph.graph import Network
from robustra_tf.intake.subject import take
from robustra_tf.objective.batch import Batch
from robustra_tf.training.batch_norm import gradients_in_training, normalised, running
from robustra_tf.training.batch_pieces import examples_together
from robustra_tf.training.methods import method_named
from robustra_tf.training.microbatches import Evaluation, evaluated
from robustra_tf.training.options import StepOptions
from robustra_tf.training.problem import Problem
from robustra_tf.training.regularisers import Regularisers, regularisers


class Step(NamedTuple):
    """What an optimizer needs to take a step.

    Attributes:
      gradients: of the trained weights, in their order: clipped, with the weights' decay.
      statistics: new running statistics of batch normalisations, by their places among the graph's
        variables.
      metrics: scalars, means over the batch, with `grad_norm`, that of the gradient before
        clipping.
      finite: whether the loss and the gradient are finite numbers, a boolean scalar: else no step
        should be taken.
    """

    gradients: list[tf.Tensor]
    statistics: Mapping[int, tf.Tensor]
    metrics: dict[str, tf.Tensor]
    finite: tf.Tensor


class StepGradient:
    """`(network, reference, batch) -> Step`: the gradient of a method's loss on a batch.

    Batch normalisations of the model that are trainable take the batch's statistics; the reference
    uses its running ones. The regularisers of the model's layers and the penalty on its weights are
    part of the loss.

    Attributes:
      model, graph: the trained one.
      reference: the reference's graph, or None.
      problem: what is minimised.
      together: examples of a batch that are worked on at a time.

    Args:
      model: the trained network, image to logits.
      reference: the network whose adversarial space bounds the attack, for `robustra`.
      method: the name of one of `robustra_tf.training.methods.METHODS`.
      options: of the step.
      devices: that each take an equal share of a batch; none leaves all where it is asked for.

    Raises:
      ValueError: an unknown method, a reference that is missing or not wanted, or an option that
        the method does not take.
    """

    def __init__(
        self,
        model: keras.Model,
        reference: keras.Model | None,
        method: str,
        options: StepOptions = StepOptions(),
        devices: Sequence[str] = (),
    ):
        traits = method_named(method)
        traits.check_reference(reference is not None)
        self.model, self.graph = model, take(model, door="training").graph
        self.reference = (
            None if reference is None else take(reference, "reference", door="training").graph
        )
        aside = None if self.reference is None else self.reference.structure
        self.problem = Problem(
            self.graph.structure, aside, traits, options.bounds_in_memory, options.losses
        )
        self.together = examples_together(self.problem, options.memory_mb, options.microbatch)
        self._options, self._devices = options, tuple(devices)
        # What a model cannot be trained with is refused now, not by the first step.
        trained_places(model, self.graph.variables)
        running(model, self.graph)
        self._terms()

    def networks(self) -> tuple[Network, Network | None]:
        """The present network and its reference."""
        return self.graph.network(), self.reference and self.reference.network()

    def __call__(self, network: Network, reference: Network | None, batch: Batch) -> Step:
        """The step of a batch.

        Args:
          network, reference: with the present weights.
          batch: as `problem.batch` gives it.
        """
        layers, options = running(self.model, self.graph), self._options
        found = gradients_in_training(
            self.problem, layers, network, reference, batch, self.together, self._devices
        )
        gradients, measured = found.weights, dict(found.measured)
        if terms := self._terms():
            weights = list(network.weights)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                there = normalised(network.with_weights(weights), layers, batch.x)
                penalty = terms.penalty(there, batch.x)
            slopes = tape.gradient(penalty, weights, unconnected_gradients="zero")
            gradients = [g + slope for g, slope in zip(gradients, slopes, strict=True)]
            measured["loss"] += penalty
        gradients, weights = self.trained(gradients), self.trained(network.weights)
        gradients, norm = regularised(gradients, weights, options.clip_norm, options.weight_decay)
        sound = finite(measured["loss"], norm)
        metrics = {**measured, "grad_norm": norm}
        return Step(gradients, found.statistics, metrics, sound)

    def evaluated(self, network: Network, reference: Network | None, batch: Batch) -> Evaluation:
        """The losses, with the regularisers', the clean errors and the bounds of a batch."""
        found = evaluated(self.problem, network, reference, batch, self.together)
        if terms := self._terms():
            return found._replace(loss=found.loss + terms.penalty(network, batch.x))
        return found

    def _terms(self) -> Regularisers:
        """What is added to the loss at present, of layers and of all weights."""
        return regularisers(self.model, self.graph, self._options.l1)

    def step(self, batch: Batch, with_logits: bool = False) -> tuple[Step, tf.Tensor | None]:
        """The step of a batch with the present weights; and the logits, as training has them."""
        network, reference = self.networks()
        logits = None
        if with_logits:
            logits = normalised(network, running(self.model, self.graph), batch.x)(batch.x)
        return self(network, reference, batch), logits

    def evaluation(
        self, batch: Batch, with_logits: bool = False
    ) -> tuple[Evaluation, tf.Tensor | None]:
        """`evaluated` with the present weights; and the logits."""
        network, reference = self.networks()
        logits = network(batch.x) if with_logits else None
        return self.evaluated(network, reference, batch), logits

    @property
    def places(self) -> list[int]:
        """Of the weights that are trained at present, among the graph's variables, in order."""
        return trained_places(self.model, self.graph.variables)

    def trained(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Of values for every variable of the graph, those of the trained weights, in order."""
        return [values[place] for place in self.places]


def trained_places(model: keras.Model, variables: Sequence[tf.Variable]) -> list[int]:
    """For each trainable variable of the model, its place among the graph's variables.

    Raises:
      ValueError: a trainable variable that the graph does not use.
    """
    known = {id(variable): place for place, variable in enumerate(variables)}
    places = []
    for variable in model.trainable_variables:
        if id(variable.value) not in known:
            raise ValueError(f"model: the trainable variable {variable.path} has no place in it")
        places.append(known[id(variable.value)])
    return places


def regularised(
    gradients: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor],
    clip_norm: float | None,
    weight_decay: float,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients cut to a global norm, plus `weight_decay * weight`; and their norm before."""
    norm = tf.linalg.global_norm(gradients)
    if clip_norm is not None:
        gradients = tf.clip_by_global_norm(list(gradients), clip_norm, use_norm=norm)[0]
    if weight_decay:
        gradients = [g + weight_decay * w for g, w in zip(gradients, weights, strict=True)]
    return list(gradients), norm


def finite(loss: tf.Tensor, grad_norm: tf.Tensor) -> tf.Tensor:
    """Whether a step's loss and the norm of its gradient are finite numbers: a scalar, boolean."""
    return tf.logical_and(tf.math.is_finite(loss), tf.math.is_finite(grad_norm))
