"""Keras layers with windows as nodes of ONNX: convolutions and pooling."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import layers

from robustra_tf.onnx.draft import Draft, Placed, Sides, channels_first, image
from robustra_tf.onnx.layers import activated, weights, writes
from robustra_tf.onnx.layout import Shape, positions


def _columns(value: Any, rank: int) -> Shape:
    return tuple(value) if np.ndim(value) else (int(value),) * rank


def _same(size: Shape, window: Shape, strides: Shape) -> Sides:
    """What Keras calls same padding, the odd zero at the end."""
    totals = [
        max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, window, strides, strict=True)
    ]
    return tuple((total // 2, total - total // 2) for total in totals)


class _Windowed:
    """What a layer with windows reads, and the attributes of its node.

    Attributes:
      entry: the name of the image, channels first.
      attributes: window, strides and pads; dilation where the layer has one.
      size: the output's, without channels.
      padded: whether zeros are added.
    """

    def __init__(self, draft: Draft, layer: Any, value: Placed, window: Any):
        rank = value.index.ndim - 1
        self.entry = draft.arranged(
            dataclasses.replace(value, pads=((0, 0), (0, 0))), channels_first(value.index.shape)
        )
        size, strides = value.index.shape[:-1], _columns(layer.strides, rank)
        dilation = _columns(getattr(layer, "dilation_rate", 1), rank)
        window = _columns(window, rank)
        reach = tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))
        before = value.pads[:rank]
        whole = tuple(n + sum(pair) for n, pair in zip(size, before, strict=True))
        own: Sides = ((0, 0),) * rank
        if layer.padding == "same":
            own = _same(whole, reach, strides)
        elif layer.padding == "causal":
            own = ((reach[0] - 1, 0),)
        pads = [(a + c, b + d) for (a, b), (c, d) in zip(before, own, strict=True)]
        self.size = tuple(
            (n + sum(pair) - k) // s + 1
            for n, pair, k, s in zip(size, pads, reach, strides, strict=True)
        )
        self.padded = any(map(any, pads))
        self.attributes = {
            "kernel_shape": list(window),
            "strides": list(strides),
            "pads": [a for a, _ in pads] + [b for _, b in pads],
        }
        if max(dilation) > 1:
            self.attributes["dilations"] = list(dilation)


@writes(layers.Conv1D, layers.Conv2D)
def _convolution(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    kernel, bias = weights(layer, inputs[0])
    kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
    return _convolved(draft, layer, inputs[0], (kernel, bias), layer.groups)


@writes(layers.DepthwiseConv2D)
def _depthwise(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    kernel = np.asarray(layer.kernel).transpose(2, 3, 0, 1)
    bias = np.asarray(layer.bias) if layer.use_bias else None
    taps = kernel.reshape(-1, 1, *kernel.shape[2:]), bias
    return _convolved(draft, layer, inputs[0], taps, len(kernel))


def _convolved(draft: Draft, layer: Any, value: Placed, taps: tuple, groups: int) -> Placed:
    """By a kernel [filters, channels of a group, *window], and a bias or None."""
    kernel, bias = taps
    window = _Windowed(draft, layer, value, kernel.shape[2:])
    given = [window.entry, draft.constant(f"{layer.name}_kernel", kernel)]
    if bias is not None:
        given.append(draft.constant(f"{layer.name}_bias", bias))
    name = draft.node("Conv", given, layer.name, window.attributes | {"group": groups})
    return activated(draft, layer, image(name, (*window.size, len(kernel))))


@writes(layers.MaxPooling1D, layers.MaxPooling2D)
def _max_pooling(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    # Zeros around are numbers to a maximum.
    value = draft.padded(inputs[0])
    window = _Windowed(draft, layer, value, layer.pool_size)
    name = draft.node("MaxPool", [window.entry], layer.name, window.attributes)
    return image(name, (*window.size, value.index.shape[-1]))


@writes(layers.AveragePooling1D, layers.AveragePooling2D)
def _average_pooling(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    # Zeros around count, those of the layer's own padding do not; and ONNX takes fewer than a
    # window has.
    value, rank = inputs[0], inputs[0].index.ndim - 1
    sizes = zip(value.pads, _columns(layer.pool_size, rank), strict=False)
    if layer.padding == "same" or any(max(pair) >= size for pair, size in sizes):
        value = draft.padded(value)
    window = _Windowed(draft, layer, value, layer.pool_size)
    counted = {"count_include_pad": int(layer.padding != "same")} if window.padded else {}
    name = draft.node("AveragePool", [window.entry], layer.name, window.attributes | counted)
    return image(name, (*window.size, value.index.shape[-1]))


@writes(layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
def _global(draft: Draft, layer: Any, inputs: list[Placed]) -> Placed:
    value = draft.padded(inputs[0])
    entry = draft.arranged(value, channels_first(value.index.shape))
    average = isinstance(layer, layers.GlobalAveragePooling2D)
    kind = "GlobalAveragePool" if average else "GlobalMaxPool"
    channels = value.index.shape[-1]
    shape = (1, 1, channels) if layer.keepdims else (channels,)
    table = positions((channels,)).reshape(shape)
    return Placed(draft.node(kind, [entry], layer.name), (channels, 1, 1), table)
