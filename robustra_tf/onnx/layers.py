"""Keras layers as nodes of ONNX: one small function per kind of layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from robustra_tf.onnx.draft import Draft, Placed, channels_first, image, plain
from robustra_tf.onnx.layout import Shape, positions

Writer = Callable[[Draft, Any, list[Placed]], Placed]
#: Keyed by the exact type: a subclass may compute something else.
WRITERS: dict[type, Writer] = {}
#: What works on images: inputs that it reads are written with channels first.
IMAGES = (
    *(layers.Conv1D, layers.Conv2D, layers.DepthwiseConv2D, layers.ZeroPadding2D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.AveragePooling1D, layers.AveragePooling2D),
    *(layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D),
)
#: What keeps every number in its place.
ELEMENTWISE = (layers.ReLU, layers.LeakyReLU, layers.Activation, layers.Rescaling)
ELEMENTWISE += (layers.Normalization, layers.BatchNormalization)
_IDENTITIES = (layers.ActivityRegularization, layers.AlphaDropout, layers.Dropout)
_IDENTITIES += (layers.GaussianDropout, layers.GaussianNoise, layers.Identity)
_IDENTITIES += (layers.SpatialDropout1D, layers.SpatialDropout2D)
_RELUS = (keras.activations.relu, keras.ops.relu, tf.nn.relu)


def writes(*kinds: type) -> Callable[[Writer], Writer]:
    """Registers a writer of kinds of layers."""

    def register(function: Writer) -> Writer:
        WRITERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def refused(layer: Any, reason: str) -> ValueError:
    """The error for a layer that is not written."""
    name = getattr(layer, "name", layer)
    return ValueError(f"layer {name!r} of type {type(layer).__name__}: {reason}")


def write(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    """The nodes of a layer.

    Raises:
      ValueError: it is not written, by name and type.
    """
    if type(layer) not in WRITERS:
        names = ", ".join(sorted(kind.__name__ for kind in WRITERS))
        raise refused(layer, f"it is not written. Written are {names}")
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise refused(layer, "expected channels last")
    return WRITERS[type(layer)](draft, layer, inputs)


@writes(layers.InputLayer, *_IDENTITIES)
def _identity(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    return inputs[0]


def _moved(value: Placed, index: np.ndarray) -> Placed:
    return dataclasses.replace(value, index=index)


@writes(layers.Flatten)
def _flatten(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    scale = value.scale and tuple(each.ravel() for each in value.scale)
    return dataclasses.replace(_moved(value, value.index.ravel()), scale=scale)


@writes(layers.Reshape)
def _reshape(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    shape = layer.compute_output_shape((1, *value.index.shape))[1:]
    return _moved(value, value.index.reshape(shape))


@writes(layers.Permute)
def _permute(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    return _moved(value, value.index.transpose([axis - 1 for axis in layer.dims]))


@writes(layers.Cropping1D, layers.Cropping2D)
def _cropping(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    given = layer.cropping
    sides = (tuple(given),) if isinstance(given[0], int) else given
    cuts = [slice(a, n - b) for (a, b), n in zip(sides, value.index.shape[:-1], strict=True)]
    table = positions(value.index.shape)[tuple(cuts)]
    return image(draft.arranged(value, np.moveaxis(table, -1, 0)), table.shape)


@writes(layers.ZeroPadding2D)
def _zero_padding(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    name = draft.arranged(value, channels_first(value.index.shape))
    return dataclasses.replace(image(name, value.index.shape), pads=layer.padding)


@writes(layers.Dense)
def _dense(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    kernel, bias = weights(layer, value)
    shape = (*value.index.shape[:-1], layer.units)
    if len(shape) > 1:
        entry = draft.arranged(value, positions(value.index.shape))
        weight = draft.constant(f"{layer.name}_kernel", kernel)
        name = draft.node("MatMul", [entry, weight], layer.name)
        if bias is not None:
            name = draft.node("Add", [name, draft.constant(f"{layer.name}_bias", bias)], layer.name)
        return activated(draft, layer, plain(name, shape))
    rows = np.empty_like(kernel)
    rows[value.index] = kernel
    entry = draft.reshaped(value.name, value.shape, (len(rows),))
    given = [entry, draft.constant(f"{layer.name}_kernel", rows.T)]
    if bias is not None:
        given.append(draft.constant(f"{layer.name}_bias", bias))
    return activated(
        draft, layer, plain(draft.node("Gemm", given, layer.name, {"transB": 1}), shape)
    )


def weights(layer: Any, value: Placed) -> tuple[np.ndarray, np.ndarray | None]:
    """Kernel and bias of a layer, the scale of what it reads taken in."""
    kernel = np.asarray(layer.kernel)
    bias = np.asarray(layer.bias) if layer.use_bias else None
    if value.scale is None:
        return kernel, bias
    scale, shift = (each.reshape(-1, each.shape[-1])[0] for each in value.scale)
    moved = (kernel * shift[:, None]).sum(tuple(range(kernel.ndim - 1)))
    moved = moved if bias is None else moved + bias
    return (kernel * scale[:, None]).astype(np.float32), moved.astype(np.float32)


def folds(layer: Any, scale: np.ndarray, shift: np.ndarray) -> bool:
    """Whether the weights of a layer can take in the scale of what it reads, exactly."""
    alike = all(
        (e.reshape(-1, e.shape[-1]) == e.reshape(-1, e.shape[-1])[0]).all() for e in (scale, shift)
    )
    if type(layer) is layers.Dense:
        return alike
    image = type(layer) in (layers.Conv1D, layers.Conv2D) and layer.groups == 1
    # Zeros around the image stand for what is 0 behind the scale.
    return image and alike and (layer.padding == "valid" or not shift.any())


def normalisation(layer: Any, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """`s` and `t` [*shape] of a Rescaling or Normalization, `s x + t`."""
    if isinstance(layer, layers.Rescaling):
        found = layer.scale, layer.offset
    else:
        if layer.invert:
            raise refused(layer, "expected invert False, got True")
        mean, variance = (np.asarray(v, np.float64)[0] for v in (layer.mean, layer.variance))
        scale = 1.0 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        found = scale, -mean * scale
    scale, shift = (np.broadcast_to(np.asarray(each, np.float64), shape) for each in found)
    return scale, shift


def activated(draft: Draft, layer: Any, value: Placed) -> Placed:
    """Followed by the layer's `activation=`."""
    activation = layer.activation
    if isinstance(activation, layers.ReLU | layers.LeakyReLU):
        return write(draft, activation, [value])
    if any(activation is relu for relu in _RELUS):
        return dataclasses.replace(
            value, name=draft.node("Relu", [value.name], f"{layer.name}_relu")
        )
    if activation in (None, keras.activations.linear):
        return value
    name = getattr(activation, "__name__", type(activation).__name__)
    raise refused(layer, f"its activation is {name!r}, expected 'relu' or 'linear'")


@writes(layers.Activation)
def _activation(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    return activated(draft, layer, draft.padded(inputs[0]))


@writes(layers.ReLU)
def _relu(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    slope, most = layer.negative_slope, layer.max_value
    if layer.threshold or (slope and most is not None):
        raise refused(layer, "expected threshold 0, and max_value or negative_slope alone")
    if slope:
        return _leaky(draft, layer, inputs)
    if most is None:
        return dataclasses.replace(value, name=draft.node("Relu", [value.name], layer.name))
    ends = [
        draft.constant(f"{layer.name}_{w}", np.array(v, np.float32))
        for w, v in (("min", 0), ("max", most))
    ]
    return dataclasses.replace(value, name=draft.node("Clip", [value.name, *ends], layer.name))


@writes(layers.LeakyReLU)
def _leaky(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    slope = {"alpha": float(layer.negative_slope)}
    return dataclasses.replace(value, name=draft.node("LeakyRelu", [value.name], layer.name, slope))


@writes(layers.BatchNormalization)
def _batch_normalization(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    shape = value.index.shape
    if layer.axis % (len(shape) + 1) != len(shape):
        raise refused(layer, f"expected axis -1, got {layer.axis}")
    one = np.ones(shape[-1], np.float32)
    own = {
        "gamma": layer.gamma if layer.scale else one,
        "beta": layer.beta if layer.center else 0 * one,
        "mean": layer.moving_mean,
        "variance": layer.moving_variance,
    }
    entry = draft.arranged(value, channels_first(shape))
    given = [draft.constant(f"{layer.name}_{w}", np.asarray(v)) for w, v in own.items()]
    name = draft.node("BatchNormalization", [entry, *given], layer.name, {"epsilon": layer.epsilon})
    return image(name, shape)


@writes(layers.Add, layers.Subtract)
def _sum(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    first, *others = map(draft.padded, inputs)
    kind = "Add" if isinstance(layer, layers.Add) else "Sub"
    table = np.empty(first.index.size, np.int64)
    table[first.index.ravel()] = np.arange(first.index.size)
    name = first.name
    for other in others:
        if other.index.shape != first.index.shape:
            raise refused(layer, "expected inputs of equal shapes")
        name = draft.node(
            kind, [name, draft.arranged(other, table.reshape(first.shape))], layer.name
        )
    return dataclasses.replace(first, name=name)


@writes(layers.Concatenate)
def _concatenate(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    values = [draft.padded(value) for value in inputs]
    rank = values[0].index.ndim
    axis = layer.axis % (rank + 1)
    place = 1 if axis == rank else axis + 1
    names = [draft.arranged(value, channels_first(value.index.shape)) for value in values]
    shape = layer.compute_output_shape([(1, *value.index.shape) for value in values])[1:]
    return image(draft.node("Concat", names, layer.name, {"axis": place}), shape)
