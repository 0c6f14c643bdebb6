"""A softmax or sigmoid at the end of a model: taken off, for margins are of the logits before it.

Neither changes which of several classes is the greatest, and neither is made of ReLUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import activations, layers

from robustra_tf.graph.lowering import Draft, Value, converts

_FUNCTIONS = (activations.softmax, activations.sigmoid)


class Head(NamedTuple):
    """What ends a model.

    Attributes:
      layer: the last layer.
      call: where the model calls it, as Keras has it.
      function: softmax or sigmoid.
      fused: whether it is the activation of a layer that does something else as well.
    """

    layer: keras.layers.Layer
    call: Any
    function: Callable[[tf.Tensor], tf.Tensor]
    fused: bool

    @property
    def bare(self) -> keras.layers.Layer:
        """The layer without its activation: the same variables, another function."""
        found = object.__new__(type(self.layer))
        found.__dict__.update(self.layer.__dict__, activation=activations.linear)
        return found


def head(functional: Any, functional_of: Callable[[Any], Any]) -> Head | None:
    """The head of a functional model, of the last model in it where it ends in one; None of none.

    Args:
      functional: the model.
      functional_of: the functional form of a model inside it.
    """
    history = functional.outputs[0]._keras_history
    layer = history.operation
    if isinstance(layer, keras.Model):
        return head(functional_of(layer), functional_of)
    call = layer._inbound_nodes[history.node_index]
    if type(layer) is layers.Softmax:
        last = len(functional.outputs[0].shape) - 1
        return Head(layer, call, activations.softmax, False) if layer.axis in (-1, last) else None
    activation = getattr(layer, "activation", None)
    for function in _FUNCTIONS:
        if activation is function:
            return Head(layer, call, function, type(layer) is not layers.Activation)
    return None


@converts(layers.Softmax, condition="at the end, where it is taken off")
def _softmax(draft: Draft, value: Value) -> Value:
    raise draft.refused("it is not the model's last layer, where it would be taken off")
