"""Nodes that work on images: convolutions, pooling, padding, batch normalisation."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from keras import layers

from robustra_tf.onnx.layout import Shape, positions
from robustra_tf.onnx.node import Node, handles
from robustra_tf.onnx.values import Linear, Source, Value, arranged, check_size, emitted

Sides = tuple[tuple[int, int], ...]


class Window(NamedTuple):
    """How a node moves over an image of rows and columns; a row of pixels is an image of one row.

    Attributes:
      size, strides, dilation: of rows and columns.
      pads: of both sides of each.
      outputs: rows and columns of the output.
      line: whether the node knows no rows.
    """

    size: Shape
    strides: Shape
    dilation: Shape
    pads: Sides
    outputs: Shape
    line: bool

    @property
    def reach(self) -> Shape:
        """The pixels from the first to the last tap."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True))

    @property
    def plain(self) -> bool:
        """Whether there is no padding."""
        return not any(map(any, self.pads))


def _image(node: Node) -> tuple[Source, Shape]:
    """The first input as a source [h, w, c], and that shape."""
    value = node.value()
    if value.index.ndim not in (3, 4) or value.index.shape[0] != 1:
        raise node.refused(f"expected an image [1, c, h, w] or [1, c, w], got {value.index.shape}")
    table = np.moveaxis(value.index[0], 0, -1)
    table = table[None] if table.ndim == 2 else table
    return arranged(value.source, table), table.shape


def _channels_first(node: Node, shape: Shape) -> np.ndarray:
    """The table of an output [h, w, c]: [1, c, h, w], without rows where the input has none."""
    table = np.moveaxis(positions(shape), -1, 0)[None]
    return table[:, :, 0] if node.value().index.ndim == 3 else table


def _window(node: Node, image: Shape, kernel: Shape) -> Window:
    """The window that a node's attributes describe.

    Raises:
      RefusedError: it does not fit the image.
    """
    rank = node.value().index.ndim - 2
    if len(kernel) != rank:
        raise node.refused(f"expected a window of {rank} axes, got {list(kernel)}")
    given = {
        name: list(node.attributes.get(name) or [1] * rank) for name in ("strides", "dilations")
    }
    pads = list(node.attributes.get("pads") or [0] * 2 * rank)
    if any(len(each) != rank for each in given.values()) or len(pads) != 2 * rank:
        raise node.refused(f"expected strides, dilations and pads of {rank} axes")
    sides = list(zip(pads[:rank], pads[rank:], strict=True))
    one = [1] * (2 - rank)
    size, strides, dilation = (
        tuple(one + list(each)) for each in (kernel, given["strides"], given["dilations"])
    )
    if min(*size, *strides, *dilation) < 1 or min(pads) < 0:
        raise node.refused("expected windows, strides and dilations from 1, pads from 0")
    window = Window(size, strides, dilation, tuple([(0, 0)] * (2 - rank) + sides), (), rank == 1)
    return _fitted(node, window, image)


def _fitted(node: Node, window: Window, image: Shape) -> Window:
    """With the pads that `auto_pad` and `ceil_mode` mean, and the size of the output."""
    same = _same(window, image)
    kind = node.attributes.get("auto_pad", "NOTSET")
    if kind == "SAME_UPPER":
        window = window._replace(pads=same)
    elif kind == "SAME_LOWER":
        window = window._replace(pads=tuple(pair[::-1] for pair in same))
    elif kind == "VALID":
        window = window._replace(pads=((0, 0), (0, 0)))
    elif kind != "NOTSET":
        raise node.refused(f"expected a known auto_pad, got {kind!r}")
    outputs = []
    for n, k, s, pad in zip(image[:2], window.reach, window.strides, window.pads, strict=True):
        free = n + sum(pad) - k
        if free < 0:
            raise node.refused(f"its window of {k} does not fit {n + sum(pad)} pixels")
        if node.attributes.get("ceil_mode", 0) and free % s:
            raise node.refused("expected windows that fit, got ceil_mode with ones that do not")
        outputs.append(free // s + 1)
    check_size((image[0] + sum(window.pads[0]), image[1] + sum(window.pads[1]), image[2]))
    return window._replace(outputs=tuple(outputs))


def _same(window: Window, image: Shape) -> Sides:
    """What Keras and ONNX call the same padding, the odd zero at the end."""
    totals = [
        max((-(-n // s) - 1) * s + k - n, 0)
        for n, k, s in zip(image[:2], window.reach, window.strides, strict=True)
    ]
    return tuple((total // 2, total - total // 2) for total in totals)


def _padded(source: Source, window: Window, image: Shape):
    """The tensor that a layer reads, and its `padding=`."""
    if window.plain:
        return emitted(source), "valid"
    if window.pads == _same(window, image):
        return emitted(source), "same"
    return layers.ZeroPadding2D(window.pads)(emitted(source)), "valid"


@handles("Conv")
def _convolution(node: Node) -> Value:
    source, image = _image(node)
    weight, bias = node.weight(1), node.constant(2)
    if weight.ndim != node.value().index.ndim:
        raise node.refused(f"expected a kernel of its input's axes, got {weight.shape}")
    kernel = weight if weight.ndim == 4 else weight[:, :, None]
    groups, filters = node.attributes.get("group", 1), len(kernel)
    if groups < 1 or filters % groups or kernel.shape[1] * groups != image[2]:
        raise node.refused(
            f"a kernel of {weight.shape} in {groups} groups does not fit {image[2]} channels"
        )
    window = _window(node, image, weight.shape[2:])
    check_size((*window.outputs, filters))
    if max(window.strides) > 1 and max(window.dilation) > 1:  # Keras knows one of them at a time
        kernel = _spread(kernel, window.dilation)
        window = window._replace(size=kernel.shape[2:], dilation=(1, 1))
    entry, padding = _padded(source, window, image)
    shape = (*window.outputs, filters)
    linear = _linear(entry, kernel, window, groups, padding)
    value = Value(_channels_first(node, shape), linear)
    if bias is None:
        return value
    return value.scaled(np.ones(()), bias.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 2)))


def _linear(entry, kernel: np.ndarray, window: Window, groups: int, padding: str) -> Linear:
    """A convolution by a kernel [filters, channels of a group, kh, kw]."""
    filters = len(kernel)
    shape = (*window.outputs, filters)
    common = {
        "kernel_size": window.size,
        "strides": window.strides,
        "padding": padding,
        "dilation_rate": window.dilation,
    }
    if groups > 1 and kernel.shape[1] == 1 and window.strides[0] == window.strides[1]:
        make = functools.partial(_depthwise, depth_multiplier=filters // groups, **common)
        taps = kernel.reshape(groups, -1, *window.size).transpose(2, 3, 0, 1)
        return Linear(entry, make, taps, None, shape, (groups, filters // groups))
    make = functools.partial(layers.Conv2D, filters, groups=groups, **common)
    return Linear(entry, make, kernel.transpose(2, 3, 1, 0), None, shape, (filters,))


def _depthwise(kernel_initializer: str, **options) -> layers.Layer:
    return layers.DepthwiseConv2D(depthwise_initializer=kernel_initializer, **options)


def _spread(kernel: np.ndarray, dilation: Shape) -> np.ndarray:
    """Zeros between the taps."""
    (filters, channels, kh, kw), (dy, dx) = kernel.shape, dilation
    found = np.zeros((filters, channels, (kh - 1) * dy + 1, (kw - 1) * dx + 1))
    found[:, :, ::dy, ::dx] = kernel
    return found


@handles("MaxPool")
def _max_pool(node: Node) -> Value:
    node.expect("storage_order", 0)
    if node.outputs > 1:
        raise node.refused("expected one output, got the indices too")
    source, image = _image(node)
    window = _window(node, image, tuple(node.attributes["kernel_shape"]))
    if max(window.dilation) > 1:
        raise node.refused(f"expected no dilation, got {list(window.dilation)}")
    entry, padding = _padded(source, window, image)
    if padding == "valid" and not window.plain and not node.value().nonnegative:
        entry = _edged(node, source, window, image)
    pooled = layers.MaxPooling2D(window.size, window.strides, padding)(entry)
    index = _channels_first(node, tuple(pooled.shape[1:]))
    return Value(index, pooled, node.value().nonnegative)


def _edged(node: Node, source: Source, window: Window, image: Shape):
    """The image with its edges repeated for pads.

    A window that reaches beyond an edge holds that edge: its maximum is the same.
    """
    if not (_inside(window, image) > 0).all():
        raise node.refused("expected windows that hold a pixel each, got some of pads alone")
    table = np.pad(positions(image), (*window.pads, (0, 0)), "edge")
    check_size((math.prod(image), table.size))
    return emitted(arranged(source, table))


@handles("AveragePool")
def _average_pool(node: Node) -> Value:
    source, image = _image(node)
    window = _window(node, image, tuple(node.attributes["kernel_shape"]))
    if max(window.dilation) > 1:
        raise node.refused(f"expected no dilation, got {list(window.dilation)}")
    counted = bool(node.attributes.get("count_include_pad", 0))
    entry, padding = _padded(source, window, image)
    if counted and padding == "same":
        entry, padding = layers.ZeroPadding2D(window.pads)(emitted(source)), "valid"
    pooled = layers.AveragePooling2D(window.size, window.strides, padding)(entry)
    value = Value(_channels_first(node, tuple(pooled.shape[1:])), pooled, node.value().nonnegative)
    if counted or padding == "same" or window.plain:
        return value
    ratio = math.prod(window.size) / _inside(window, image)
    return value.scaled(ratio[0] if window.line else ratio, np.zeros(()))


def _inside(window: Window, image: Shape) -> np.ndarray:
    """How many pixels of the image each window holds, [rows, columns]."""
    counts = []
    for n, k, s, pad, outputs in zip(
        image[:2], window.size, window.strides, window.pads, window.outputs, strict=True
    ):
        first = np.arange(outputs) * s - pad[0]
        counts.append(np.minimum(first + k, n) - np.maximum(first, 0))
    return np.outer(*counts)


@handles("GlobalAveragePool")
def _global_average(node: Node) -> Value:
    source, image = _image(node)
    pooled = layers.GlobalAveragePooling2D()(emitted(source))
    shape = (1, image[2], *[1] * (node.value().index.ndim - 2))
    return Value(positions(shape), pooled, node.value().nonnegative)


@handles("BatchNormalization")
def _batch_normalization(node: Node) -> Value:
    node.expect("training_mode", 0)
    node.expect("spatial", 1)
    value = node.value().narrowed()
    weights = [node.weight(place) for place in range(1, 5)]
    channels = value.index.shape[1]
    if value.index.ndim < 2 or any(each.shape != (channels,) for each in weights):
        raise node.refused(f"expected {channels} numbers of each kind")
    epsilon = node.attributes.get("epsilon", 1e-5)
    if not (weights[3] + epsilon > 0).all():
        raise node.refused("expected variances above -epsilon")
    axes = [-1 if axis == 1 else 1 for axis in range(value.index.ndim)]
    channel = np.broadcast_to(np.arange(channels).reshape(axes), value.index.shape)
    places = value.spread(channel)
    rows = None if places is None else places.reshape(-1, places.shape[-1]).astype(int)
    if rows is None or not (rows == rows[0]).all():
        gamma, beta, mean, variance = (each.reshape(axes[1:]) for each in weights)
        scale = gamma / np.sqrt(variance + epsilon)
        return value.scaled(scale, beta - mean * scale)
    layer = layers.BatchNormalization(epsilon=epsilon)
    tensor = layer(value.tensor)
    layer.set_weights([each[rows[0]] for each in weights])
    return Value(value.index, tensor)
