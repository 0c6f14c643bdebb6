"""Activations that are made of ReLUs, exactly: what bends once, twice, or is cut off."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import activations, layers

from robustra_tf.graph.lowering import Draft, Value, converts
from robustra_tf.graph.ops import Scale

#: Slopes and ends up to which what cancels in the shorter forms below is no larger than the usual
#: rounding of float32. Beyond it digits of `z` itself would be lost.
LARGEST = 64.0


def sloped(draft: Draft, z: Value, slope: float) -> Value:
    """`z` where it is positive, `slope z` elsewhere.

    As `slope z + (1 - slope) relu(z)`; of large slopes `relu(z) - slope relu(-z)`.
    """
    slope = float(np.float32(slope))
    if slope == 0.0:
        return draft.relu(z)
    if abs(slope) > LARGEST:
        return draft.sum(draft.relu(z), draft.scale(draft.relu(draft.scale(z, -1.0)), -slope))
    return draft.sum(draft.scale(z, slope), draft.scale(draft.relu(z), 1.0 - slope))


def clipped(draft: Draft, z: Value, low: float, high: float) -> Value:
    """`min(max(z, low), high)`.

    As `high - relu(high - low - relu(z - low))`, which intervals bound exactly; of large ends
    `v - relu(v - high)` of `v = z + relu(low - z)`.
    """
    if max(abs(low), abs(high)) <= LARGEST:
        above = draft.relu(draft.scale(z, 1.0, -low) if low else z)
        return draft.scale(draft.relu(draft.scale(above, -1.0, high - low)), -1.0, high)
    above = draft.relu(z) if low == 0.0 else draft.sum(z, draft.relu(draft.scale(z, -1.0, low)))
    over = draft.relu(draft.scale(above, 1.0, -high))
    return draft.sum(above, draft.scale(over, -1.0))


def _rectified(draft: Draft, z: Value, layer: layers.ReLU) -> Value:
    slope, most, threshold = (
        0.0 if value is None else float(value)
        for value in (layer.negative_slope, layer.max_value, layer.threshold)
    )
    if threshold:
        raise draft.refused(f"threshold is {threshold:g}, where the function jumps; expected 0")
    if layer.max_value is None:
        return sloped(draft, z, slope)
    cut = clipped(draft, z, 0.0, float(np.float32(most)))
    if not slope:
        return cut
    # `slope min(z, 0)`, as a ReLU of its own: intervals of the sum are exact.
    below = draft.relu(draft.scale(z, -1.0))
    return draft.sum(cut, draft.scale(below, -float(np.float32(slope))))


#: Functions that are not one ReLU, by what `activation=` gives.
_FUNCTIONS = {
    activations.linear: lambda draft, z: z,
    activations.relu6: lambda draft, z: clipped(draft, z, 0.0, 6.0),
    activations.leaky_relu: lambda draft, z: sloped(draft, z, 0.2),
    activations.hard_tanh: lambda draft, z: clipped(draft, z, -1.0, 1.0),
    activations.hard_sigmoid: lambda draft, z: clipped(draft, draft.scale(z, 1 / 6, 0.5), 0.0, 1.0),
    activations.sparse_sigmoid: lambda draft, z: clipped(draft, draft.scale(z, 0.5, 0.5), 0.0, 1.0),
    **dict.fromkeys((activations.relu, keras.ops.relu, tf.nn.relu), lambda draft, z: draft.relu(z)),
    keras.ops.relu6: lambda draft, z: clipped(draft, z, 0.0, 6.0),
    tf.nn.relu6: lambda draft, z: clipped(draft, z, 0.0, 6.0),
}
NAMES = ("linear", "relu", "relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "sparse_sigmoid")


def activated(draft: Draft, z: Value) -> Value:
    """`z` after the layer's `activation=`."""
    activation: Any = draft.layer.activation
    if activation is None:
        return z
    if type(activation) is layers.ReLU:
        return _rectified(draft, z, activation)
    if type(activation) is layers.LeakyReLU:
        return sloped(draft, z, activation.negative_slope)
    for function, lowered in _FUNCTIONS.items():
        if activation is function:
            return lowered(draft, z)
    name = getattr(activation, "__name__", type(activation).__name__)
    raise draft.refused(f"its activation is {name!r}, expected one of {', '.join(NAMES)}")


@converts(layers.ReLU, condition="threshold 0")
def _relu(draft: Draft, z: Value) -> Value:
    return _rectified(draft, z, draft.layer)


@converts(layers.LeakyReLU)
def _leaky(draft: Draft, z: Value) -> Value:
    return sloped(draft, z, draft.layer.negative_slope)


@converts(layers.PReLU)
def _prelu(draft: Draft, z: Value) -> Value:
    """As `sloped`, with the slopes a weight."""
    alpha, shape = draft.layer.alpha, draft.shape(z)
    parts = ((z, "slope"), (draft.relu(z), "complement"))
    return draft.sum(
        *(
            draft.add(Scale(shape, kind, weight_shape=tuple(alpha.shape)), value, variables=[alpha])
            for value, kind in parts
        )
    )


@converts(layers.Activation, condition=f"one of {', '.join(NAMES)}")
def _activation(draft: Draft, z: Value) -> Value:
    return activated(draft, z)
