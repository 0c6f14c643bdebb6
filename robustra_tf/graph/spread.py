"""Transposed convolutions, and images laid out in tiles as these leave them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, TypeVar

import tensorflow as tf

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
NO_PADDING: Padding = ((0, 0), (0, 0))
_Each = TypeVar("_Each")


def as_pair(each: Iterable[_Each]) -> tuple[_Each, _Each]:
    """What there is of rows and of columns: exactly two."""
    rows, columns = each
    return rows, columns


@dataclasses.dataclass(frozen=True)
class Tiling:
    """An image [h, w, c] as tiles [rows, columns, ty * tx * c]: the pixels of a tile are channels.

    Pixel `r` of tile `m`, in either direction, is pixel `tile * m + r - origin` of the image. Tiles
    may reach beyond it.

    Attributes:
      image: (h, w).
      tile: (ty, tx).
      origin: how far the first tile begins before the image.
      count: (rows, columns) of tiles.
    """

    image: Pair
    tile: Pair
    origin: Pair
    count: Pair

    @property
    def fits(self) -> bool:
        """Whether no tile reaches beyond the image."""
        covered = tuple(t * m for t, m in zip(self.tile, self.count, strict=True))
        return self.origin == (0, 0) and covered == self.image

    @property
    def plain(self) -> bool:
        """Whether the tiles are the image itself."""
        return self.tile == (1, 1) and self.fits

    def cut(self, images: tf.Tensor) -> tf.Tensor:
        """Images [n, h, w, c] in tiles [n, *count, ty * tx * c], zero beyond the image."""
        if self.plain:
            return images
        channels = images.shape[-1]
        (my, mx), (ty, tx) = self.count, self.tile
        after = [
            t * m - o - n
            for t, m, o, n in zip(self.tile, self.count, self.origin, self.image, strict=True)
        ]
        images = padded(images, as_pair(zip(self.origin, after, strict=True)))
        images = tf.reshape(images, (-1, my, ty, mx, tx, channels))
        return tf.reshape(
            tf.transpose(images, (0, 1, 3, 2, 4, 5)), (-1, my, mx, ty * tx * channels)
        )

    def join(self, tiles: tf.Tensor) -> tf.Tensor:
        """The images [n, h, w, c] of tiles [n, *count, ty * tx * c]."""
        return cropped(_interleaved(tiles, self.tile), self.origin, self.image)


def padded(x: tf.Tensor, padding: Padding) -> tf.Tensor:
    """`x` [n, h, w, c] amid zeros."""
    return x if padding == NO_PADDING else tf.pad(x, ((0, 0), *padding, (0, 0)))


def cropped(x: tf.Tensor, start: Pair, size: Pair) -> tf.Tensor:
    """Rows and columns from `start`; `tf.slice`, whose gradient is a plain padding."""
    if start == (0, 0) and size == tuple(x.shape[1:3]):
        return x
    return tf.slice(x, (0, *start, 0), (-1, *size, -1))


def _interleaved(y: tf.Tensor, tile: Pair) -> tf.Tensor:
    """Pixels of tiles into place: [n, h, w, ty * tx * c] to [n, h * ty, w * tx, c]."""
    if tile == (1, 1):
        return y
    if tile[0] == tile[1] and y.dtype == tf.float32:
        return tf.nn.depth_to_space(y, tile[0])
    h, w, channels = y.shape[1], y.shape[2], y.shape[3] // math.prod(tile)
    y = tf.reshape(y, (-1, h, w, *tile, channels))
    return tf.reshape(tf.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, h * tile[0], w * tile[1], channels))


def spread(y: tf.Tensor, kernel: tf.Tensor, strides: Pair, origin: Pair, size: Pair) -> tf.Tensor:
    """The transpose of a convolution: `out[s i + a - origin] += kernel[a] y[i]`, cut to `size`.

    Args:
      y: [n, h, w, filters].
      kernel: [kh, kw, channels, filters].
      strides: (sy, sx).
      origin: the coordinates, in the full spread image, of the first row and column to keep.
      size: rows and columns to keep; beyond the full spread image they are zero.

    Returns:
      [n, *size, channels].
    """
    tiles, tiling = spread_tiles(y, kernel, strides, origin, size)
    return tiling.join(tiles)


def spread_tiles(
    y: tf.Tensor, kernel: tf.Tensor, strides: Pair, origin: Pair, size: Pair
) -> tuple[tf.Tensor, Tiling]:
    """`spread`, left in tiles of the size of the stride; what lies beyond the image is arbitrary.

    Written as a sub-pixel convolution: outputs of one residue modulo the stride read the same
    inputs, so one stride-1 convolution with `sy sx` times as many filters computes all residues
    with no multiplication by the zeros that a dilated input would hold. TensorFlow's own transposed
    convolution takes up to twice as long on a CPU.
    """
    shape, window = y.shape, kernel.shape
    taps = [-(-k // s) for k, s in zip(window[:2], strides, strict=True)]
    first = [o // s for o, s in zip(origin, strides, strict=True)]
    last = [(o + n - 1) // s for o, n, s in zip(origin, size, strides, strict=True)]
    # Output cell m reads inputs m - taps + 1 .. m: pad or crop the input to exactly those.
    before = [t - 1 - f for t, f in zip(taps, first, strict=True)]
    after = [e - (n - 1) for e, n in zip(last, shape[1:3], strict=True)]
    start = as_pair(max(0, -b) for b in before)
    y = cropped(
        y,
        start,
        as_pair(n - s - max(0, -a) for n, s, a in zip(shape[1:3], start, after, strict=True)),
    )
    amid = as_pair((max(0, b), max(0, a)) for b, a in zip(before, after, strict=True))
    y = correlated(y, phases(kernel, strides), amid)
    kept = as_pair(o - f * s for o, f, s in zip(origin, first, strides, strict=True))
    return y, Tiling(as_pair(size), as_pair(strides), kept, as_pair(y.shape[1:3]))


def correlated(y: tf.Tensor, kernel: tf.Tensor, padding: Padding) -> tf.Tensor:
    """The convolution, stride 1, of `y` [n, h, w, c] amid zeros with `kernel` [kh, kw, c, filters].

    Its gradient in `y` is written as such a convolution too. TensorFlow's own takes twice as long
    on a CPU, and would compute that of the zeros as well.
    """

    @tf.custom_gradient
    def run(y: tf.Tensor, kernel: tf.Tensor) -> Any:
        y, kernel = standing_here(y, kernel)
        image = padded(y, padding)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            reach = [k - 1 for k in kernel.shape[:2]]
            start = as_pair(max(0, b - r) for (b, _), r in zip(padding, reach, strict=True))
            after = [max(0, a - r) for (_, a), r in zip(padding, reach, strict=True)]
            size = as_pair(
                n - s - a for n, s, a in zip(upstream.shape[1:3], start, after, strict=True)
            )
            amid = as_pair(
                (max(0, r - b), max(0, r - a)) for (b, a), r in zip(padding, reach, strict=True)
            )
            turned = tf.transpose(tf.reverse(kernel, (0, 1)), (0, 1, 3, 2))
            back = tf.nn.conv2d(padded(cropped(upstream, start, size), amid), turned, 1, "VALID")
            taps = tf.raw_ops.Conv2DBackpropFilter(
                input=image,
                filter_sizes=kernel.shape,
                out_backprop=upstream,
                strides=[1, 1, 1, 1],
                padding="VALID",
            )
            return tf.ensure_shape(back, y.shape), taps

        return tf.nn.conv2d(image, kernel, 1, "VALID"), gradient

    return run(y, kernel)


def standing_here(*tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Copies for a gradient of ours to close over: a branch's cannot reach beyond the branch."""
    return tuple(map(tf.identity, tensors))


def tiled_kernel(kernel: tf.Tensor, strides: Pair, tile: Pair) -> tf.Tensor:
    """The kernel that spreads whole tiles of `y`: [(ty - 1) sy + kh, ..., channels, ty tx filters].

    Pixel `r` of a tile, spread by `strides`, is the kernel moved by `strides r`; tiles themselves
    move by `strides tile`.
    """
    kh, kw, channels, filters = kernel.shape
    pixels = math.prod(tile) * filters
    units = tf.reshape(tf.eye(pixels, dtype=kernel.dtype), (pixels, *tile, filters))
    reach = as_pair((t - 1) * s + k for t, s, k in zip(tile, strides, (kh, kw), strict=True))
    moved = spread(units, kernel, strides, (0, 0), reach)
    return tf.transpose(tf.ensure_shape(moved, (pixels, *reach, channels)), (1, 2, 3, 0))


def phases(kernel: tf.Tensor, strides: Pair) -> tf.Tensor:
    """The sub-pixel kernel of `spread`: [taps_y, taps_x, filters, sy * sx * channels].

    Entry `[t, ..., r]` is `kernel[s (taps - 1 - t) + r]`: the tap that carries the input `t` cells
    into the window to residue `r` of its output cell.
    """
    kh, kw, channels, filters = kernel.shape
    (sy, sx), ty, tx = strides, -(-kh // strides[0]), -(-kw // strides[1])
    kernel = tf.pad(kernel, ((0, ty * sy - kh), (0, tx * sx - kw), (0, 0), (0, 0)))
    kernel = tf.reshape(kernel, (ty, sy, tx, sx, channels, filters))
    # Slices of step -1 take five times as long.
    kernel = tf.transpose(tf.reverse(kernel, (0, 2)), (0, 2, 5, 1, 3, 4))
    return tf.reshape(kernel, (ty, tx, filters, sy * sx * channels))
