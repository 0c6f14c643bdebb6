"""Operations on windows of [h, w, c] images, average pooling and zero padding; transposes too."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from robustra_tf.graph.ops import AffineOp, Shape
from robustra_tf.graph.spread import (
    NO_PADDING,
    Padding,
    Pair,
    as_pair,
    cropped,
    padded,
    spread,
    standing_here,
)


class Windowed(AffineOp):
    """An operation whose outputs each read one window of the image: `kernel` moved by `strides`.

    Output `i` reads the padded inputs `strides * i + a`, `a` in the window.
    """

    shape: Shape
    size: Pair
    strides: Pair
    padding: Padding

    def kernel(self, weights: tuple[tf.Tensor, ...], dtype: tf.DType) -> tf.Tensor:
        """The taps, [kh, kw, channels, filters]."""
        raise NotImplementedError

    @property
    def filters(self) -> int:
        """The channels of the output."""
        raise NotImplementedError

    @property
    def in_shape(self) -> Shape:
        """The shape of the image, before padding."""
        return self.shape

    @property
    def out_shape(self) -> Shape:
        """[rows, columns, filters]."""
        rows, columns = (
            (n + sum(p) - k) // s + 1
            for n, p, k, s in zip(
                self.shape[:2], self.padding, self.size, self.strides, strict=True
            )
        )
        return (rows, columns, self.filters)

    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """The convolution without bias."""
        return self.convolved(x, self.kernel(weights, x.dtype))

    def convolved(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The convolution of these windows with other taps.

        Its gradient in `x` is `transpose`, where that pays: TensorFlow's own takes up to three
        times as long on a CPU.
        """
        if not self._transpose_pays:
            image, strides = self._read(x)
            return tf.nn.conv2d(image, kernel, strides, "VALID")

        @tf.custom_gradient
        def run(x: tf.Tensor, kernel: tf.Tensor) -> Any:
            x, kernel = standing_here(x, kernel)
            image, strides = self._read(x)

            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                taps = tf.raw_ops.Conv2DBackpropFilter(
                    input=image,
                    filter_sizes=kernel.shape,
                    out_backprop=upstream,
                    strides=[1, *strides, 1],
                    padding="VALID",
                )
                return tf.ensure_shape(self._transposed(upstream, kernel), x.shape), taps

            return tf.nn.conv2d(image, kernel, strides, "VALID"), gradient

        return run(x, kernel)

    def _read(self, x: tf.Tensor) -> tuple[tf.Tensor, Pair]:
        """The image amid zeros, and the strides to read it with."""
        x, strides = padded(x, self.padding), self.strides
        single = [s > 1 and n == 1 for s, n in zip(strides, self.out_shape[:2], strict=True)]
        if any(single):
            # One output along an axis: no stride is taken. oneDNN's convolution (TensorFlow 2.21)
            # of one channel returns memory that it never wrote where the columns' stride is not 1.
            strides = as_pair(1 if one else s for one, s in zip(single, strides, strict=True))
            ends = zip(single, self.size, x.shape[1:3], strict=True)
            x = cropped(x, (0, 0), as_pair(k if one else n for one, k, n in ends))
        return x, strides

    @property
    def _transpose_pays(self) -> bool:
        """Whether few of the taps that a transposed convolution multiplies by are zeros of its own.

        It fills the kernel up to whole strides.
        """
        filled = (-(-k // s) * s for k, s in zip(self.size, self.strides, strict=True))
        return math.prod(filled) <= 1.5 * math.prod(self.size)

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """The transposed convolution."""
        return self._transposed(y, self.kernel(weights, y.dtype))

    def _transposed(self, y: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        origin = (self.padding[0][0], self.padding[1][0])
        return spread(y, kernel, self.strides, origin, as_pair(self.shape[:2]))


@dataclasses.dataclass(frozen=True)
class Pool2D(Windowed):
    """Average pooling in which padding counts as zeros: each channel's mean over the window."""

    shape: Shape
    size: Pair
    strides: Pair
    padding: Padding = NO_PADDING

    @property
    def filters(self) -> int:
        """As many channels as come in."""
        return self.shape[2]

    def kernel(self, weights: tuple[tf.Tensor, ...], dtype: tf.DType) -> tf.Tensor:
        """The constant taps `1 / (kh kw)` from each channel to itself."""
        taps = tf.eye(self.shape[2], dtype=dtype) / (self.size[0] * self.size[1])
        return tf.broadcast_to(taps, (*self.size, *taps.shape))


@dataclasses.dataclass(frozen=True)
class Pad2D(AffineOp):
    """Zeros around the image."""

    shape: Shape
    padding: Padding
    diagonal = True

    @property
    def in_shape(self) -> Shape:
        """The shape before padding."""
        return self.shape

    @property
    def out_shape(self) -> Shape:
        """The shape with the padding."""
        rows, columns = (n + sum(p) for n, p in zip(self.shape[:2], self.padding, strict=True))
        return (rows, columns, self.shape[2])

    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`x` amid zeros."""
        return padded(x, self.padding)

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`y` without its border."""
        return cropped(y, (self.padding[0][0], self.padding[1][0]), as_pair(self.shape[:2]))
