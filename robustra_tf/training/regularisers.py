"""The regularisers of a model's layers, as Keras adds them to the loss.

Of a weight (a layer's `kernel_regularizer=...`, `bias_regularizer=...` and so on) the
regulariser's value at it; of a layer's output (`activity_regularizer`) that at the images
themselves over their number. Weights that do not train have none. A penalty on all weights is one
more regulariser of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from robustra_tf.graph.build import Call, read
from robustra_tf.graph.graph import Graph, Network


class Regularisers(NamedTuple):
    """What Keras adds to the loss of a model.

    Attributes:
      weights: (place among the graph's variables, regulariser) each.
      activities: (number of the node, regulariser of its output) each.
    """

    weights: tuple[tuple[int, Callable], ...]
    activities: tuple[tuple[int, Callable], ...]

    def __bool__(self) -> bool:
        return bool(self.weights or self.activities)

    def penalty(self, network: Network, x: tf.Tensor) -> tf.Tensor:
        """The sum of all of them for the images `x` [n, *shape]: a scalar."""
        parts = [regulariser(network.weights[place]) for place, regulariser in self.weights]
        if self.activities:
            values = [x]
            for node in network.structure.nodes[1:]:
                values.append(node.compute(values, network.weights))
            count = tf.cast(tf.shape(x)[0], x.dtype)
            parts += [regulariser(values[at]) / count for at, regulariser in self.activities]
        return tf.add_n([tf.cast(part, x.dtype) for part in parts])


def regularisers(model: keras.Model, graph: Graph, l1: float = 0.0) -> Regularisers:
    """The regularisers of a model at present: what is frozen has none.

    Args:
      model: a Keras model.
      graph: made of it.
      l1: the factor of the sum of the sizes of its weights of two axes and more; 0 for none.

    Raises:
      ValueError: an activity regulariser of a layer whose output is not told apart in the graph.
    """
    places = {id(variable): place for place, variable in enumerate(graph.variables)}
    everywhere = keras.regularizers.L1(l1) if l1 else None
    weights = tuple(
        (places[id(variable.value)], one)
        for variable in model.trainable_variables
        for one in (variable.regularizer, everywhere if len(variable.shape) > 1 else None)
        if one is not None and id(variable.value) in places
    )
    layers = model._flatten_layers(include_self=False)
    active = [layer for layer in layers if getattr(layer, "activity_regularizer", None)]
    calls = read(model)[1] if active else ()
    return Regularisers(
        weights, tuple((_output(layer, calls), layer.activity_regularizer) for layer in active)
    )


def _output(layer: keras.layers.Layer, calls: Sequence[Call]) -> int:
    """The node of a layer's output; `ValueError` where it has none of its own, or several."""
    found = [call.node for call in calls if call.layer is layer]
    if len(found) == 1 and found[0] is not None:
        return found[0]
    raise ValueError(
        f"model: the activity_regularizer of {layer.name!r} must be of a layer that is called once "
        "and has an output of its own"
    )
