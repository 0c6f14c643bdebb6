"""Convolution, average pooling and zero padding on [h, w, c] images, with their transposes."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from robustra_tf.graph.ops import AffineOp, Shape

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
NO_PADDING: Padding = ((0, 0), (0, 0))


def _padded(x: tf.Tensor, padding: Padding) -> tf.Tensor:
    return x if padding == NO_PADDING else tf.pad(x, ((0, 0), *padding, (0, 0)))


def _cropped(x: tf.Tensor, start: Pair, size: Pair) -> tf.Tensor:
    """Rows and columns from `start`; `tf.slice`, whose gradient is a plain padding."""
    if start == (0, 0) and size == tuple(x.shape[1:3]):
        return x
    return tf.slice(x, (0, *start, 0), (-1, *size, -1))


def spread(y: tf.Tensor, kernel: tf.Tensor, strides: Pair, origin: Pair, size: Pair) -> tf.Tensor:
    """The transpose of a convolution: `out[s i + a - origin] += kernel[a] y[i]`, cut to `size`.

    Written as a sub-pixel convolution: outputs of one residue modulo the stride read the same
    inputs, so one stride-1 convolution with `sy sx` times as many filters computes all residues
    with no multiplication by the zeros that a dilated input would hold. TensorFlow's own transposed
    convolution takes up to twice as long on a CPU.

    Args:
      y: [n, h, w, filters].
      kernel: [kh, kw, channels, filters].
      strides: (sy, sx).
      origin: the coordinates, in the full spread image, of the first row and column to keep.
      size: rows and columns to keep; beyond the full spread image they are zero.

    Returns:
      [n, *size, channels].
    """
    shape, window = y.shape, kernel.shape
    taps = [-(-k // s) for k, s in zip(window[:2], strides, strict=True)]
    first = [o // s for o, s in zip(origin, strides, strict=True)]
    last = [(o + n - 1) // s for o, n, s in zip(origin, size, strides, strict=True)]
    # Output cell m reads inputs m - taps + 1 .. m: pad or crop the input to exactly those.
    before = [t - 1 - f for t, f in zip(taps, first, strict=True)]
    after = [e - (n - 1) for e, n in zip(last, shape[1:3], strict=True)]
    start = tuple(max(0, -b) for b in before)
    y = _cropped(
        y,
        start,
        tuple(n - s - max(0, -a) for n, s, a in zip(shape[1:3], start, after, strict=True)),
    )
    y = _padded(y, tuple((max(0, b), max(0, a)) for b, a in zip(before, after, strict=True)))
    y = tf.nn.conv2d(y, phases(kernel, strides), 1, "VALID")
    y = _interleaved(y, strides, window[2])
    return _cropped(
        y, tuple(o - f * s for o, f, s in zip(origin, first, strides, strict=True)), size
    )


def phases(kernel: tf.Tensor, strides: Pair) -> tf.Tensor:
    """The sub-pixel kernel of `spread`: [taps_y, taps_x, filters, sy * sx * channels].

    Entry `[t, ..., r]` is `kernel[s (taps - 1 - t) + r]`: the tap that carries the input `t` cells
    into the window to residue `r` of its output cell.
    """
    kh, kw, channels, filters = kernel.shape
    (sy, sx), ty, tx = strides, -(-kh // strides[0]), -(-kw // strides[1])
    kernel = tf.pad(kernel, ((0, ty * sy - kh), (0, tx * sx - kw), (0, 0), (0, 0)))
    kernel = tf.reshape(kernel, (ty, sy, tx, sx, channels, filters))
    kernel = tf.transpose(kernel[::-1, :, ::-1], (0, 2, 5, 1, 3, 4))
    return tf.reshape(kernel, (ty, tx, filters, sy * sx * channels))


def _interleaved(y: tf.Tensor, strides: Pair, channels: int) -> tf.Tensor:
    """Residues back into place: [n, h, w, sy * sx * c] to [n, h * sy, w * sx, c]."""
    if strides == (1, 1):
        return y
    if strides[0] == strides[1] and y.dtype == tf.float32:
        return tf.nn.depth_to_space(y, strides[0])
    h, w = y.shape[1:3]
    y = tf.reshape(y, (-1, h, w, *strides, channels))
    return tf.reshape(
        tf.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, h * strides[0], w * strides[1], channels)
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
        kernel = self.kernel(weights, x.dtype)
        return tf.nn.conv2d(_padded(x, self.padding), kernel, self.strides, "VALID")

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """The transposed convolution."""
        origin = (self.padding[0][0], self.padding[1][0])
        kernel = self.kernel(weights, y.dtype)
        return spread(y, kernel, self.strides, origin, self.shape[:2])


@dataclasses.dataclass(frozen=True)
class Conv2D(Windowed):
    """A convolution with weights kernel [kh, kw, channels, filters] and maybe bias [filters]."""

    shape: Shape
    out_channels: int
    size: Pair
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    use_bias: bool = True

    @property
    def filters(self) -> int:
        """The channels of the output."""
        return self.out_channels

    @property
    def weight_shapes(self) -> tuple[Shape, ...]:
        """Kernel [kh, kw, channels, filters] and bias [filters]."""
        kernel = (*self.size, self.shape[2], self.out_channels)
        return (kernel,) + ((self.out_channels,),) * self.use_bias

    def kernel(self, weights: tuple[tf.Tensor, ...], dtype: tf.DType) -> tf.Tensor:
        """The first weight."""
        return weights[0]

    def forward(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """The convolution with its bias."""
        y = self.linear(x, *weights)
        return y + weights[1] if self.use_bias else y


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
        return _padded(x, self.padding)

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`y` without its border."""
        return _cropped(y, (self.padding[0][0], self.padding[1][0]), self.shape[:2])
