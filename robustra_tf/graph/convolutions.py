"""Convolutions of [h, w, c] images: dense, in groups, dilated, depthwise, transposed."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from robustra_tf.graph.ops import Shape
from robustra_tf.graph.spatial import Windowed
from robustra_tf.graph.spread import NO_PADDING, Padding, Pair, as_pair


class Convolution(Windowed):
    """A convolution with a kernel as Keras keeps it and, where `use_bias`, a bias [filters].

    `size` is that of the window, which `dilation` spreads: of a kernel's `k` taps, so many pixels
    apart, `(k - 1) dilation + 1`. With `line`, the kernel has no axis of rows.
    """

    size: Pair
    use_bias: bool
    line: bool
    dilation: Pair

    @property
    def coefficients_count(self) -> int:
        """The kernel alone."""
        return 1

    @property
    def kernel_shape(self) -> Shape:
        """Of the variable, with rows."""
        raise NotImplementedError

    @property
    def taps(self) -> Pair:
        """Rows and columns of the kernel before it is spread."""
        return as_pair((n - 1) // d + 1 for n, d in zip(self.size, self.dilation, strict=True))

    @property
    def weight_shapes(self) -> tuple[Shape, ...]:
        """The kernel and the bias."""
        kernel = self.kernel_shape[1:] if self.line else self.kernel_shape
        return (kernel,) + ((self.filters,),) * self.use_bias

    def dense(self, kernel: tf.Tensor) -> tf.Tensor:
        """The kernel [*taps, channels, filters] of its variable, with rows."""
        raise NotImplementedError

    def kernel(self, weights: tuple[tf.Tensor, ...], dtype: tf.DType) -> tf.Tensor:
        """The taps, [kh, kw, channels, filters], zeros between those that are apart."""
        kernel = weights[0][None] if self.line else weights[0]
        return dilated(self.dense(kernel), self.dilation)

    def forward(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """The convolution with its bias."""
        y = self.linear(x, *weights)
        return y + weights[1] if self.use_bias else y


def dilated(kernel: tf.Tensor, dilation: Pair) -> tf.Tensor:
    """A kernel [kh, kw, c, f] with its taps `dilation` apart."""
    if dilation == (1, 1):
        return kernel
    (kh, kw, channels, filters), (dy, dx) = kernel.shape, dilation
    kernel = tf.reshape(kernel, (kh, 1, kw, 1, channels, filters))
    kernel = tf.pad(kernel, ((0, 0), (0, dy - 1), (0, 0), (0, dx - 1), (0, 0), (0, 0)))
    kernel = tf.reshape(kernel, (kh * dy, kw * dx, channels, filters))
    return kernel[: (kh - 1) * dy + 1, : (kw - 1) * dx + 1]


def ungrouped(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """A kernel [kh, kw, c / groups, f] of groups of channels, as one of all channels."""
    if groups == 1:
        return kernel
    channels, filters = kernel.shape[2:]
    own = np.kron(np.eye(groups), np.ones((channels, filters // groups)))
    return tf.tile(kernel, (1, 1, groups, 1)) * tf.constant(own, kernel.dtype)


@dataclasses.dataclass(frozen=True)
class Conv2D(Convolution):
    """A convolution with kernel [kh, kw, channels / groups, filters]."""

    shape: Shape
    out_channels: int
    size: Pair
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    use_bias: bool = True
    line: bool = False
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def filters(self) -> int:
        """The channels of the output."""
        return self.out_channels

    @property
    def kernel_shape(self) -> Shape:
        """[kh, kw, channels / groups, filters]."""
        return (*self.taps, self.shape[2] // self.groups, self.out_channels)

    def dense(self, kernel: tf.Tensor) -> tf.Tensor:
        """Zeros from a group to another one."""
        return ungrouped(kernel, self.groups)


@dataclasses.dataclass(frozen=True)
class DepthwiseConv2D(Convolution):
    """Of every channel some convolutions: kernel [kh, kw, channels, multiplier]."""

    shape: Shape
    multiplier: int
    size: Pair
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    use_bias: bool = True
    line: bool = False
    dilation: Pair = (1, 1)

    @property
    def filters(self) -> int:
        """So many of every channel, side by side."""
        return self.shape[2] * self.multiplier

    @property
    def kernel_shape(self) -> Shape:
        """[kh, kw, channels, multiplier]."""
        return (*self.taps, self.shape[2], self.multiplier)

    def dense(self, kernel: tf.Tensor) -> tf.Tensor:
        """Zeros from a channel to another one's."""
        return ungrouped(tf.reshape(kernel, (*self.taps, 1, self.filters)), self.shape[2])


@dataclasses.dataclass(frozen=True)
class TurnedConv2D(Convolution):
    """A convolution with a transposed one's kernel [kh, kw, filters, channels], turned around.

    Of an image with zeros between its pixels it is the transposed convolution with strides.
    """

    shape: Shape
    out_channels: int
    size: Pair
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    use_bias: bool = True
    line: bool = False
    dilation: Pair = (1, 1)

    @property
    def filters(self) -> int:
        """The channels of the output."""
        return self.out_channels

    @property
    def kernel_shape(self) -> Shape:
        """[kh, kw, filters, channels]."""
        return (*self.taps, self.out_channels, self.shape[2])

    def dense(self, kernel: tf.Tensor) -> tf.Tensor:
        """Turned by half a turn, channels first."""
        return tf.transpose(tf.reverse(kernel, (0, 1)), (0, 1, 3, 2))
