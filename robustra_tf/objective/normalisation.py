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
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from robustra_tf.graph.graph import Graph, Structure
from robustra_tf.objective.pieces import gradients
from robustra_tf.objective.problem import Problem, Weights


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


def normalised(
    structure: Structure, layers: Sequence[Running], weights: Weights, x: tf.Tensor
) -> list[tf.Tensor]:
    """The weights with every running statistic replaced by the batch's own.

    The mean and the variance (over n, not n - 1) of a layer's input over all axes but the last, the
    layers before it being normalised in the same way: what Keras computes with `training=True`.

    Args:
      structure, weights: the network.
      layers: those to normalise, from `running`.
      x: images [n, *shape].
    """
    weights, values = list(weights), [x]
    learning = {layer.node: layer for layer in layers}
    last = max(learning, default=0)
    for index, node in enumerate(structure.nodes[1 : last + 1], start=1):
        if index in learning:
            entering = values[node.inputs[0]]
            axes = list(range(entering.shape.rank - 1))
            mean, variance = tf.nn.moments(entering, axes)
            weights[learning[index].mean], weights[learning[index].variance] = mean, variance
        values.append(node.compute(values, weights))
    return weights


def moved(layers: Sequence[Running], weights: Weights, batch: Weights) -> dict[int, tf.Tensor]:
    """The running statistics after a batch, by their places: `m old + (1 - m) batch`."""
    return {
        place: layer.momentum * weights[place] + (1.0 - layer.momentum) * batch[place]
        for layer in layers
        for place in (layer.mean, layer.variance)
    }


def gradients_in_training(
    problem: Problem,
    layers: Sequence[Running],
    weights: Weights,
    reference: Weights | None,
    x: tf.Tensor,
    *arguments: Any,
) -> tuple[list[tf.Tensor], dict[str, tf.Tensor], dict[int, tf.Tensor]]:
    """`pieces.gradients` with batch normalisation in training.

    The statistics are those of the whole batch, in however many pieces it is worked on.

    Args:
      layers: the batch normalisations that train.
      Others: as `gradients` takes them.

    Returns:
      The gradients and measurements of `gradients`, and the new running statistics by their places
      among the weights.
    """
    if not layers:
        return *gradients(problem, weights, reference, x, *arguments), {}
    weights = list(weights)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        # Copies: what a tape gives for a tensor that is source and target at once is left open.
        batch = [tf.identity(w) for w in normalised(problem.structure, layers, weights, x)]
    found, measured = gradients(problem, batch, reference, x, *arguments)
    found = tape.gradient(batch, weights, found, unconnected_gradients="zero")
    return found, measured, moved(layers, weights, batch)
