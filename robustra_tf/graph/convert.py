"""Keras layers to affine operations and ReLUs: one small function per kind of layer.

To support another layer, write a function `draft, value -> value` here or beside and register it
with `@converts`: it adds operations to the draft (`lowering.Draft`) and returns the value of the
layer's output. What a layer refuses, it refuses by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

# Each of them registers its layers.
from robustra_tf.graph import activations, heads, merging, windowing
from robustra_tf.graph.activations import activated
from robustra_tf.graph.lowering import (
    KNOWN,
    Draft,
    Piece,
    UnsupportedLayerError,
    Value,
    check_plain_kernel,
    converts,
    flat_size,
    supported,
    unsupported,
)
from robustra_tf.graph.ops import Dense, Scale, Shape

__all__ = ["Lowered", "UnsupportedLayerError", "convert", "supported", "unsupported"]
_REGISTERED = (activations, heads, merging, windowing)


class Lowered(NamedTuple):
    """A layer as operations, and which of their values is its output (`lowering.Draft`)."""

    pieces: list[Piece]
    output: Value


def convert(layer: Any, shapes: Sequence[Shape], operands: Sequence[Any] = ()) -> Lowered:
    """The operations that compute a layer at inference.

    Args:
      layer: a built Keras layer (or whatever else stands in a Keras graph, to be refused).
      shapes: the shapes of its inputs, without the batch.
      operands: of a layer that takes several, their numbers from 0 on, and constants; inputs alone
        by default.

    Raises:
      UnsupportedLayerError: where the layer is not made of affine maps and ReLUs.
    """
    if not isinstance(layer, layers.Layer):
        raise unsupported(layer, "it is an operation on tensors, not a layer (Add, ReLU, ...)")
    known = KNOWN.get(type(layer))
    if known is None:
        raise unsupported(layer)
    if layer.compute_dtype not in ("float32", "float64"):
        raise unsupported(layer, f"it computes in {layer.compute_dtype}, not float32 or float64")
    if len(shapes) != 1 and not known.several:
        raise unsupported(layer, f"expected one input, got {len(shapes)}")
    draft = Draft(layer, shapes, operands)
    output = known.converter(draft, *range(len(shapes)))
    return Lowered(draft.pieces, output)


#: What does something in training alone.
_TRAINING_ONLY = (
    *("ActivityRegularization", "AlphaDropout", "AugMix", "CutMix", "Dropout", "GaussianDropout"),
    *("GaussianNoise", "Identity", "MixUp", "RandAugment", "RandomBrightness"),
    *("RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform"),
    *("RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue"),
    *("RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation"),
    *("RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom"),
    *("SpatialDropout1D", "SpatialDropout2D"),
)


@converts(layers.InputLayer)
def _identity(draft: Draft, value: Value) -> Value:
    return value


for _name in _TRAINING_ONLY:
    converts(getattr(layers, _name), condition="as the identity")(_identity)


@converts(layers.Dense, condition="on flat inputs")
def _dense(draft: Draft, value: Value) -> Value:
    check_plain_kernel(draft)
    layer, shape = draft.layer, draft.shape(value)
    if len(shape) != 1:
        raise draft.refused(f"its input has shape {shape}, expected one axis: Flatten first")
    op = Dense(shape[0], layer.units, layer.use_bias)
    return activated(draft, draft.add(op, value, variables=[layer.kernel, layer.bias]))


@converts(layers.BatchNormalization, condition="at inference, over one axis")
def _batch_normalization(draft: Draft, value: Value) -> Value:
    layer, last = draft.layer, len(draft.shape(value)) - 1
    axis = layer.axis % (last + 2) - 1
    if axis < 0:
        raise draft.refused(f"axis is {layer.axis}, the batch's, expected another one")
    order = (*(i for i in range(last + 1) if i != axis), axis)
    value = draft.permute(value, order)
    shape = draft.shape(value)
    op = Scale(
        shape,
        kind="batch_norm",
        weight_shape=shape[-1:],
        epsilon=layer.epsilon,
        use_scale=layer.scale,
        use_centre=layer.center,
    )
    variables = [layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance]
    value = draft.add(op, value, variables=variables)
    return draft.permute(value, [order.index(i) for i in range(last + 1)])


@converts(layers.Rescaling)
def _rescaling(draft: Draft, value: Value) -> Value:
    return draft.scale(value, draft.layer.scale, draft.layer.offset)


@converts(layers.Normalization, condition="not inverted, over trailing axes")
def _normalization(draft: Draft, value: Value) -> Value:
    layer, shape = draft.layer, draft.shape(value)
    if layer.invert:
        raise draft.refused("invert is True, expected False")
    # Sorted axes of the batched input; a mean over trailing ones broadcasts as it stands.
    rank = len(shape) + 1
    axes = sorted(axis % rank for axis in layer.axis)
    if axes != list(range(rank - len(axes), rank)) or 0 in axes:
        raise draft.refused(f"axis is {layer.axis}, expected the last axes, or None")
    floor = keras.config.epsilon()
    if layer.input_mean is None:
        weight_shape = shape[len(shape) - len(axes) :]
        op = Scale(shape, kind="standardise", weight_shape=weight_shape, epsilon=floor)
        return draft.add(op, value, variables=[layer.adapt_mean, layer.adapt_variance])
    mean, variance = (np.asarray(v, np.float64) for v in (layer.input_mean, layer.input_variance))
    scale = 1.0 / np.maximum(np.sqrt(variance), floor)
    return draft.scale(value, scale, -mean * scale)


@converts(layers.Flatten)
def _flatten(draft: Draft, value: Value) -> Value:
    shape = draft.shape(value)
    if draft.layer.data_format == "channels_first" and len(shape) > 1:
        value = draft.permute(value, (*range(1, len(shape)), 0))
    return draft.reshape(value, (flat_size(shape),))


@converts(layers.Reshape)
def _reshape(draft: Draft, value: Value) -> Value:
    after = draft.layer.compute_output_shape((1, *draft.shape(value)))
    return draft.reshape(value, tuple(after[1:]))


@converts(layers.Permute)
def _permute(draft: Draft, value: Value) -> Value:
    return draft.permute(value, [axis - 1 for axis in draft.layer.dims])


@converts(layers.RepeatVector)
def _repeated(draft: Draft, value: Value) -> Value:
    row = draft.reshape(value, (1, *draft.shape(value)))
    return draft.take(row, 0, (0,) * draft.layer.n)
