"""Keras layers to affine operations and ReLUs: one small function per kind of layer.

To support another layer, write a function `layer, shape -> pieces` and register it below with
`@_converts`; `shape` is what enters the layer, without the batch (`Add` alone takes several). The
operations that a layer becomes form a chain: a fused activation is one more piece, an identity is
none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from robustra_tf.graph.ops import Add, Dense, Op, Relu, Reshape, Scale, Shape
from robustra_tf.graph.spatial import NO_PADDING, Conv2D, Pad2D, Padding, Pool2D


class UnsupportedLayerError(ValueError):
    """A model holds something that is not an affine layer or a ReLU."""


class Piece(NamedTuple):
    """An operation and the variables that it takes, in the order of its `weight_shapes`."""

    op: Op
    variables: tuple[tf.Variable, ...] = ()


Converter = Callable[..., list[Piece]]

# Keyed by the exact type: a subclass may compute something else.
_CONVERTERS: dict[type, Converter] = {}
_CONDITIONS: dict[type, str] = {}

_RELUS = (keras.activations.relu, keras.ops.relu, tf.nn.relu)


def _converts(kind: type, condition: str = "") -> Callable[[Converter], Converter]:
    def register(function: Converter) -> Converter:
        _CONVERTERS[kind] = function
        _CONDITIONS[kind] = condition
        return function

    return register


def supported() -> str:
    """The layers that can be converted, with their conditions, as one line."""
    return ", ".join(
        f"{kind.__name__} ({condition})" if condition else kind.__name__
        for kind, condition in sorted(_CONDITIONS.items(), key=lambda item: item[0].__name__)
    )


def unsupported(layer: Any, reason: str = "its type is not supported") -> UnsupportedLayerError:
    """The error for `layer`: its name, its type, why, and what is supported instead."""
    return UnsupportedLayerError(
        f"layer {layer.name!r} of type {type(layer).__name__}: {reason}. Supported: {supported()}; "
        "Sequential and functional models of these, nested too."
    )


def convert(layer: Any, shapes: Sequence[Shape]) -> list[Piece]:
    """The chain of operations that computes the layer at inference.

    Args:
      layer: a built Keras layer (or whatever else stands in a Keras graph, to be refused).
      shapes: the shapes of its inputs, without the batch.

    Returns:
      The pieces in order; the first one reads all inputs, an identity has none.

    Raises:
      UnsupportedLayerError: where the layer is not an affine map and ReLU that can be expressed.
    """
    if not isinstance(layer, layers.Layer):
        raise unsupported(layer, "it is an operation on tensors, not a layer (Add, ReLU, ...)")
    if type(layer) not in _CONVERTERS:
        raise unsupported(layer)
    if layer.compute_dtype not in ("float32", "float64"):
        raise unsupported(layer, f"it computes in {layer.compute_dtype}, not float32 or float64")
    if len(shapes) != 1 and type(layer) is not layers.Add:
        raise unsupported(layer, f"expected one input, got {len(shapes)}")
    return _CONVERTERS[type(layer)](layer, *shapes)


def _variables(*variables: keras.Variable | None) -> tuple[tf.Variable, ...]:
    return tuple(variable.value for variable in variables if variable is not None)


def _activated(layer: Any, pieces: list[Piece], shape: Shape) -> list[Piece]:
    """`pieces`, whose output has `shape`, followed by the layer's `activation=`."""
    activation = layer.activation
    if isinstance(activation, layers.ReLU):
        return pieces + _relu(activation, shape)
    if any(activation is relu for relu in _RELUS):
        return [*pieces, Piece(Relu(shape))]
    if activation in (None, keras.activations.linear):
        return pieces
    name = getattr(activation, "__name__", type(activation).__name__)
    raise unsupported(layer, f"its activation is {name!r}, expected 'relu' or 'linear'")


def _check_channels_last(layer: Any) -> None:
    if layer.data_format != "channels_last":
        raise unsupported(layer, f"data_format is {layer.data_format!r}, expected 'channels_last'")


def _check_plain_kernel(layer: Any) -> None:
    if getattr(layer, "lora_enabled", False) or layer.quantization_mode is not None:
        raise unsupported(layer, "its kernel is quantised or adapted by LoRA, not one variable")


def _same_padding(size: Sequence[int], window: Sequence[int], strides: Sequence[int]) -> Padding:
    """TensorFlow's `same`: ceil(size / stride) outputs, the odd zero at the bottom and right."""
    totals = [
        max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, window, strides, strict=True)
    ]
    return tuple((total // 2, total - total // 2) for total in totals)


def _constants(values: np.ndarray) -> Any:
    """Nested tuples of floats: an array that can be hashed."""
    if values.ndim == 0:
        return float(values)
    return tuple(_constants(value) for value in values)


def _constant_scale(layer: Any, shape: Shape, scale: Any, shift: Any) -> list[Piece]:
    scale, shift = np.asarray(scale, np.float64), np.asarray(shift, np.float64)
    for name, values in (("scale", scale), ("shift", shift)):
        try:
            fits = np.broadcast_shapes(values.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise unsupported(layer, f"its {name} of shape {values.shape} does not fit {shape}")
    return [Piece(Scale(shape, constants=(_constants(scale), _constants(shift))))]


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


@_converts(layers.InputLayer)
def _identity(layer: Any, shape: Shape) -> list[Piece]:
    del layer, shape
    return []


for _name in _TRAINING_ONLY:
    _converts(getattr(layers, _name), "as the identity")(_identity)


@_converts(layers.Dense, "on flat inputs; activation relu or linear")
def _dense(layer: layers.Dense, shape: Shape) -> list[Piece]:
    _check_plain_kernel(layer)
    if len(shape) != 1:
        raise unsupported(layer, f"its input has shape {shape}, expected one axis: Flatten first")
    op = Dense(shape[0], layer.units, layer.use_bias)
    return _activated(layer, [Piece(op, _variables(layer.kernel, layer.bias))], op.out_shape)


@_converts(
    layers.Conv2D,
    "any stride, same or valid padding, channels last, no dilation, no groups; "
    "activation relu or linear",
)
def _conv2d(layer: layers.Conv2D, shape: Shape) -> list[Piece]:
    _check_plain_kernel(layer)
    _check_channels_last(layer)
    if any(d != 1 for d in layer.dilation_rate):
        raise unsupported(layer, f"dilation_rate is {tuple(layer.dilation_rate)}, expected (1, 1)")
    if layer.groups != 1:
        raise unsupported(layer, f"groups is {layer.groups}, expected 1")
    window, strides = tuple(layer.kernel_size), tuple(layer.strides)
    same = layer.padding == "same"
    padding = _same_padding(shape[:2], window, strides) if same else NO_PADDING
    op = Conv2D(shape, layer.filters, window, strides, padding, layer.use_bias)
    return _activated(layer, [Piece(op, _variables(layer.kernel, layer.bias))], op.out_shape)


@_converts(layers.ZeroPadding2D, "channels last")
def _zero_padding(layer: layers.ZeroPadding2D, shape: Shape) -> list[Piece]:
    _check_channels_last(layer)
    padding = tuple(tuple(pair) for pair in layer.padding)
    return [Piece(Pad2D(shape, padding))]


@_converts(layers.AveragePooling2D, "channels last")
def _average_pooling(layer: layers.AveragePooling2D, shape: Shape) -> list[Piece]:
    _check_channels_last(layer)
    window, strides = tuple(layer.pool_size), tuple(layer.strides)
    same = layer.padding == "same"
    padding = _same_padding(shape[:2], window, strides) if same else NO_PADDING
    op = Pool2D(shape, window, strides, padding)
    if padding == NO_PADDING:
        return [Piece(op)]
    # Keras divides by the pixels that lie inside the image, Pool2D by the whole window.
    inside = []
    for size, k, s, (before, _), outputs in zip(
        shape[:2], window, strides, padding, op.out_shape[:2], strict=True
    ):
        first = np.arange(outputs) * s - before
        inside.append(np.minimum(first + k, size) - np.maximum(first, 0))
    ratio = math.prod(window) / np.outer(*inside)[..., None]
    return [Piece(op), *_constant_scale(layer, op.out_shape, ratio, 0.0)]


@_converts(layers.BatchNormalization, "at inference, over the last axis")
def _batch_normalization(layer: layers.BatchNormalization, shape: Shape) -> list[Piece]:
    if layer.axis % (len(shape) + 1) != len(shape):
        raise unsupported(layer, f"axis is {layer.axis}, expected the last one (-1)")
    variables = _variables(layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    op = Scale(
        shape,
        kind="batch_norm",
        weight_shape=shape[-1:],
        epsilon=layer.epsilon,
        use_scale=layer.scale,
        use_centre=layer.center,
    )
    return [Piece(op, variables)]


@_converts(layers.Rescaling)
def _rescaling(layer: layers.Rescaling, shape: Shape) -> list[Piece]:
    return _constant_scale(layer, shape, layer.scale, layer.offset)


@_converts(layers.Normalization, "not inverted, over trailing axes")
def _normalization(layer: layers.Normalization, shape: Shape) -> list[Piece]:
    if layer.invert:
        raise unsupported(layer, "invert is True, expected False")
    # Sorted axes of the batched input; a mean over trailing ones broadcasts as it stands.
    rank = len(shape) + 1
    axes = sorted(axis % rank for axis in layer.axis)
    if axes != list(range(rank - len(axes), rank)) or 0 in axes:
        raise unsupported(layer, f"axis is {layer.axis}, expected the last axes, or None")
    floor = keras.config.epsilon()
    if layer.input_mean is None:
        weight_shape = shape[len(shape) - len(axes) :]
        op = Scale(shape, kind="standardise", weight_shape=weight_shape, epsilon=floor)
        return [Piece(op, _variables(layer.adapt_mean, layer.adapt_variance))]
    mean, variance = (np.asarray(v, np.float64) for v in (layer.input_mean, layer.input_variance))
    scale = 1.0 / np.maximum(np.sqrt(variance), floor)
    return _constant_scale(layer, shape, scale, -mean * scale)


@_converts(layers.Flatten, "channels last")
def _flatten(layer: layers.Flatten, shape: Shape) -> list[Piece]:
    _check_channels_last(layer)
    return _reshaped(shape, (math.prod(shape),))


@_converts(layers.Reshape)
def _reshape(layer: layers.Reshape, shape: Shape) -> list[Piece]:
    return _reshaped(shape, tuple(layer.compute_output_shape((1, *shape))[1:]))


def _reshaped(before: Shape, after: Shape) -> list[Piece]:
    return [] if before == after else [Piece(Reshape(before, after))]


@_converts(layers.ReLU, "no max_value, negative_slope or threshold")
def _relu(layer: layers.ReLU, shape: Shape) -> list[Piece]:
    for name, plain in (("max_value", None), ("negative_slope", 0.0), ("threshold", 0.0)):
        if getattr(layer, name) != plain:
            raise unsupported(layer, f"{name} is {getattr(layer, name)}, expected {plain}")
    return [Piece(Relu(shape))]


@_converts(layers.Activation, "relu or linear")
def _activation(layer: layers.Activation, shape: Shape) -> list[Piece]:
    return _activated(layer, [], shape)


@_converts(layers.Add, "inputs of equal shapes")
def _add(layer: layers.Add, *shapes: Shape) -> list[Piece]:
    if len(set(shapes)) != 1:
        raise unsupported(layer, f"its inputs have shapes {list(shapes)}, expected equal ones")
    return [Piece(Add(shapes[0], len(shapes)))]
