"""Layers that work on images and rows: convolutions, pooling, padding, cropping, upsampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from keras import layers

from robustra_tf.graph.activations import activated
from robustra_tf.graph.convolutions import Conv2D, Convolution, DepthwiseConv2D, TurnedConv2D
from robustra_tf.graph.lowering import Draft, Value, check_plain_kernel, converts, on_images, pair
from robustra_tf.graph.maxima import pooled
from robustra_tf.graph.spatial import Pad2D, Pool2D
from robustra_tf.graph.spread import NO_PADDING, Padding, Pair, as_pair

_Kind = TypeVar("_Kind", bound=Convolution)


def _padding(layer: Any, size: Sequence[int], window: Pair, strides: Pair) -> Padding:
    """What a layer's `padding=` is in pixels, of images of a size."""
    if layer.padding == "valid":
        return NO_PADDING
    if layer.padding == "causal":
        return ((0, 0), (window[1] - 1, 0))
    # TensorFlow's `same`: ceil(size / stride) outputs, the odd zero at the bottom and right.
    totals = [
        max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, window, strides, strict=True)
    ]
    return as_pair((total // 2, total - total // 2) for total in totals)


def _spread(taps: Pair, dilation: Pair) -> Pair:
    return as_pair((k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True))


def _convolution(
    draft: Draft, image: Value, kind: Callable[..., _Kind], outputs: int, **options: Any
) -> _Kind:
    """The convolution that a layer's settings describe, without its weights."""
    layer, shape = draft.layer, draft.shape(image)
    dilation, strides = pair(layer.dilation_rate), pair(layer.strides)
    size = _spread(pair(layer.kernel_size), dilation)
    padding = _padding(layer, shape[:2], size, strides)
    if any(n + sum(p) < k for n, p, k in zip(shape[:2], padding, size, strict=True)):
        raise draft.refused(f"its window of {size} does not fit an image of {shape[:2]}")
    line = len(layer.kernel_size) == 1
    common = {"use_bias": layer.use_bias, "line": line, "dilation": dilation}
    return kind(shape, outputs, size, strides, padding, **common | options)


@converts(layers.Conv1D, layers.Conv2D)
def _conv(draft: Draft, value: Value) -> Value:
    check_plain_kernel(draft)
    _check_bias(draft, value)
    layer = draft.layer

    def convolved(image: Value) -> Value:
        op = _convolution(draft, image, Conv2D, layer.filters, groups=layer.groups)
        return draft.add(op, image, variables=[layer.kernel, layer.bias])

    return activated(draft, on_images(draft, value, convolved))


def _check_bias(draft: Draft, value: Value) -> None:
    """Refuses biases that Keras adds along another axis than that of the channels.

    Its sum takes a vector for a bias of the last axis wherever that is as long.
    """
    layer = draft.layer
    if layer.data_format == "channels_first" and layer.use_bias:
        channels, *places = layer.compute_output_shape((1, *draft.shape(value)))[1:]
        if channels > 1 and places[-1] == channels:
            raise draft.refused(
                f"with channels first and {channels} places along the last axis Keras adds its "
                f"bias of {channels} channels to the places: expected channels last, or no bias"
            )


@converts(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(draft: Draft, value: Value) -> Value:
    check_plain_kernel(draft)
    _check_bias(draft, value)
    layer = draft.layer

    def convolved(image: Value) -> Value:
        op = _convolution(draft, image, DepthwiseConv2D, layer.depth_multiplier)
        return draft.add(op, image, variables=[layer.kernel, layer.bias])

    return activated(draft, on_images(draft, value, convolved))


@converts(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(draft: Draft, value: Value) -> Value:
    check_plain_kernel(draft)
    _check_bias(draft, value)
    layer = draft.layer

    def convolved(image: Value) -> Value:
        depth = _convolution(draft, image, DepthwiseConv2D, layer.depth_multiplier, use_bias=False)
        image = draft.add(depth, image, variables=[layer.depthwise_kernel])
        point = Conv2D(
            draft.shape(image), layer.filters, (1, 1), use_bias=layer.use_bias, line=depth.line
        )
        return draft.add(point, image, variables=[layer.pointwise_kernel, layer.bias])

    return activated(draft, on_images(draft, value, convolved))


@converts(layers.Conv1DTranspose, layers.Conv2DTranspose)
def _transposed(draft: Draft, value: Value) -> Value:
    """Zeros between the pixels, and a convolution with the kernel turned around."""
    check_plain_kernel(draft)
    _check_bias(draft, value)
    layer = draft.layer
    dilation, strides = pair(layer.dilation_rate), pair(layer.strides)
    size = _spread(pair(layer.kernel_size), dilation)
    whole = layer.compute_output_shape((1, *draft.shape(value)))[1:]
    places = whole[1:] if layer.data_format == "channels_first" else whole[:-1]
    if min(places) < 1:
        raise draft.refused(f"it leaves nothing of an input of shape {draft.shape(value)}")

    def convolved(image: Value) -> Value:
        padding = []
        for axis, (k, s, outputs) in enumerate(zip(size, strides, pair(places), strict=True)):
            length = draft.shape(image)[axis]
            full = (length - 1) * s + k
            # As a convolution of that stride, of the output, is padded.
            cut = max(full - outputs, 0) // 2 if layer.padding == "same" else 0
            padding.append((k - 1 - cut, outputs - full + k - 1 + cut))
            indices = [i // s if i % s == 0 else -1 for i in range((length - 1) * s + 1)]
            image = draft.take(image, axis, indices)
        line = len(layer.kernel_size) == 1
        shape, bias = draft.shape(image), layer.use_bias
        amid = as_pair(padding)
        op = TurnedConv2D(shape, layer.filters, size, (1, 1), amid, bias, line, dilation)
        return draft.add(op, image, variables=[layer.kernel, layer.bias])

    return activated(draft, on_images(draft, value, convolved))


@converts(layers.AveragePooling1D, layers.AveragePooling2D)
def _average_pooling(draft: Draft, value: Value) -> Value:
    layer = draft.layer
    window, strides = pair(layer.pool_size), pair(layer.strides)

    def averaged(image: Value) -> Value:
        shape = draft.shape(image)
        padding = _padding(layer, shape[:2], window, strides)
        op = Pool2D(shape, window, strides, padding)
        means = draft.add(op, image)
        if padding == NO_PADDING:
            return means
        # Keras divides by the pixels that lie inside the image, Pool2D by the whole window.
        inside = []
        for size, k, s, (before, _), outputs in zip(
            shape[:2], window, strides, padding, op.out_shape[:2], strict=True
        ):
            first = np.arange(outputs) * s - before
            inside.append(np.minimum(first + k, size) - np.maximum(first, 0))
        return draft.scale(means, math.prod(window) / np.outer(*inside)[..., None])

    return on_images(draft, value, averaged)


@converts(layers.MaxPooling1D, layers.MaxPooling2D)
def _max_pooling(draft: Draft, value: Value) -> Value:
    layer = draft.layer
    window, strides = pair(layer.pool_size), pair(layer.strides)

    def largest(image: Value) -> Value:
        padding = _padding(layer, draft.shape(image)[:2], window, strides)
        return pooled(draft, image, window, strides, padding)

    return on_images(draft, value, largest)


def _globally(draft: Draft, value: Value, function: Callable[[Value, Pair], Value]) -> Value:
    """What pools a whole image, in the shape that the layer gives it."""
    found = on_images(draft, value, lambda image: function(image, as_pair(draft.shape(image)[:2])))
    after = draft.layer.compute_output_shape((1, *draft.shape(value)))[1:]
    return draft.reshape(found, tuple(after))


@converts(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D)
def _global_average(draft: Draft, value: Value) -> Value:
    def averaged(image: Value, size: Pair) -> Value:
        return draft.add(Pool2D(draft.shape(image), size, (1, 1)), image)

    return _globally(draft, value, averaged)


@converts(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D)
def _global_largest(draft: Draft, value: Value) -> Value:
    def largest(image: Value, size: Pair) -> Value:
        return pooled(draft, image, size, (1, 1), NO_PADDING)

    return _globally(draft, value, largest)


@converts(layers.ZeroPadding1D, layers.ZeroPadding2D)
def _zero_padding(draft: Draft, value: Value) -> Value:
    given = draft.layer.padding
    sides = ((0, 0), given) if isinstance(given[0], int) else given
    padding = as_pair(as_pair(side) for side in sides)
    return on_images(
        draft, value, lambda image: draft.add(Pad2D(draft.shape(image), padding), image)
    )


@converts(layers.Cropping1D, layers.Cropping2D)
def _cropping(draft: Draft, value: Value) -> Value:
    given = draft.layer.cropping
    sides = ((0, 0), given) if isinstance(given[0], int) else given

    def cropped(image: Value) -> Value:
        for axis, (before, after) in enumerate(sides):
            image = draft.take(image, axis, range(before, draft.shape(image)[axis] - after))
        return image

    return on_images(draft, value, cropped)


@converts(layers.UpSampling1D, layers.UpSampling2D, condition="nearest")
def _upsampling(draft: Draft, value: Value) -> Value:
    layer = draft.layer
    kind = getattr(layer, "interpolation", "nearest")
    if kind != "nearest":
        raise draft.refused(f"interpolation is {kind!r}, expected 'nearest'")

    def enlarged(image: Value) -> Value:
        for axis, times in enumerate(pair(layer.size)):
            image = draft.take(image, axis, np.repeat(range(draft.shape(image)[axis]), times))
        return image

    return on_images(draft, value, enlarged)
