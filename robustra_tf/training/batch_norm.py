"""Batch normalisation in training: bounds under the statistics of the batch's clean images.

As in Shi et al. 2021, "Fast certified robust training with short warmup": a batch normalisation
takes the mean and the variance that its input has on the images themselves, and bounds go through
it as through any affine layer with these numbers. They depend on the weights before them, and the
gradient knows it. Evaluation, certificates and references use the running means of both, with which
the layer folds into its neighbours.

What a loss sees is a list of weights like any other; nothing else knows of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from robustra_tf.graph.graph import Graph, Network
from robustra_tf.objective.batch import Batch
from robustra_tf.training.microbatches import BatchGradient, gradients
from robustra_tf.training.problem import Problem


class Running(NamedTuple):
    """A batch normalisation that learns, as the graph has it.

    Attributes:
      node: its place among the nodes.
      mean, variance: the places of its running statistics among the graph's variables.
      momentum: what these keep of themselves in a step.
    """

    node: int
    mean: int
    variance: int
    momentum: float


def running(model: keras.Model, graph: Graph) -> tuple[Running, ...]:
    """The batch normalisations of a model that train; frozen ones (`trainable=False`) do not.

    Args:
      model: a Keras model.
      graph: made of it.

    Raises:
      ValueError: one that the model uses more than once: it has no one set of statistics.
    """
    layers = {id(layer.moving_mean.value): layer for layer in _normalisations(model)}
    found = {}
    for index, node in enumerate(graph.structure.nodes):
        if len(node.weights) < 2:
            continue
        mean, variance = node.weights[-2:]
        layer = layers.get(id(graph.variables[mean]))
        if layer is None:
            continue
        if mean in found:
            raise ValueError(
                f"model: {layer.name!r} is used more than once and cannot be trained by the "
                "statistics of batches; set its trainable to False"
            )
        found[mean] = Running(index, mean, variance, float(layer.momentum))
    return tuple(found.values())


def _normalisations(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _normalisations(layer)
        elif isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            yield layer


def normalised(network: Network, layers: Sequence[Running], x: tf.Tensor) -> Network:
    """The network with every running statistic replaced by the batch's own.

    The mean and the variance (over n, not n - 1) of a layer's input over all axes but the last, the
    layers before it being normalised in the same way: what Keras computes with `training=True`.

    Args:
      network: with its running statistics.
      layers: those to normalise, from `running`.
      x: images [n, *shape].
    """
    weights, values = list(network.weights), [x]
    learning = {layer.node: layer for layer in layers}
    last = max(learning, default=0)
    for index, node in enumerate(network.structure.nodes[1 : last + 1], start=1):
        if index in learning:
            entering = values[node.inputs[0]]
            axes = list(range(entering.shape.rank - 1))
            mean, variance = tf.nn.moments(entering, axes)
            weights[learning[index].mean], weights[learning[index].variance] = mean, variance
        values.append(node.compute(values, weights))
    return network.with_weights(weights)


def moved(layers: Sequence[Running], before: Network, batch: Network) -> dict[int, tf.Tensor]:
    """The running statistics after a batch, by their places: `m old + (1 - m) batch`."""
    return {
        place: layer.momentum * before.weights[place]
        + (1.0 - layer.momentum) * batch.weights[place]
        for layer in layers
        for place in (layer.mean, layer.variance)
    }


class TrainingGradient(NamedTuple):
    """The gradient of a batch with batch normalisation in training.

    Attributes:
      weights: in every weight of the network.
      measured: the mean of every measurement.
      statistics: the new running statistics by their places among the weights.
    """

    weights: list[tf.Tensor]
    measured: dict[str, tf.Tensor]
    statistics: dict[int, tf.Tensor]


def gradients_in_training(
    problem: Problem,
    layers: Sequence[Running],
    network: Network,
    reference: Network | None,
    batch: Batch,
    together: int,
    devices: Sequence[str] = (),
) -> TrainingGradient:
    """`microbatches.gradients` with batch normalisation in training.

    The statistics are those of the whole batch, in however many pieces and on however many devices
    it is worked on: they are computed where this is called.

    Args:
      problem, network, reference, batch, together, devices: as `gradients` takes them.
      layers: the batch normalisations that train.
    """
    if not layers:
        found = gradients(problem, network, reference, batch, together, devices)
        return TrainingGradient(*found, {})
    weights = list(network.weights)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        # Copies: what a tape gives for a tensor that is source and target at once is left open.
        there = normalised(network.with_weights(weights), layers, batch.x)
        there = there.with_weights([tf.identity(w) for w in there.weights])
    found: BatchGradient = gradients(problem, there, reference, batch, together, devices)
    pulled = tape.gradient(there.weights, weights, found.weights, unconnected_gradients="zero")
    return TrainingGradient(pulled, found.measured, moved(layers, network, there))
