"""Where the rows of a convolutional layer are not zero: one window of the image per position.

A neuron of a convolutional layer depends on a window of every earlier layer. Followed backward,
the window at grid position `p` begins at `step * p + offset` and has a fixed size that grows with
every convolution; parts of it may lie outside the image.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from robustra_tf.graph.spatial import Windowed
from robustra_tf.graph.spread import Padding, Pair, as_pair


@dataclasses.dataclass(frozen=True)
class Window:
    """Windows of `size` at `step * p + offset`, for every `p` of `grid`, in an image of `image`.

    Attributes:
      grid: rows and columns of the layer whose neurons the rows belong to.
      image: rows and columns of the layer that the windows lie in.
      step, offset, size: in pixels of that layer.
    """

    grid: Pair
    image: Pair
    step: Pair = (1, 1)
    offset: Pair = (0, 0)
    size: Pair = (1, 1)

    @property
    def positions(self) -> int:
        """How many windows there are."""
        return self.grid[0] * self.grid[1]

    @property
    def area(self) -> int:
        """Pixels in a window."""
        return self.size[0] * self.size[1]

    def through(self, op: Windowed) -> Window:
        """The windows that these reach backward through a convolution or pooling."""
        return Window(
            self.grid,
            as_pair(op.shape[:2]),
            as_pair(a * s for a, s in zip(self.step, op.strides, strict=True)),
            as_pair(
                o * s - p[0] for o, s, p in zip(self.offset, op.strides, op.padding, strict=True)
            ),
            as_pair(
                (n - 1) * s + k for n, s, k in zip(self.size, op.strides, op.size, strict=True)
            ),
        )

    def before(self, padding: Padding, image: Pair) -> Window:
        """The same windows in the coordinates of the image before it was padded."""
        offset = tuple(o - p[0] for o, p in zip(self.offset, padding, strict=True))
        return dataclasses.replace(self, offset=offset, image=image)

    def union(self, other: Window) -> Window:
        """The smallest windows that contain these and `other`."""
        offset = tuple(map(min, self.offset, other.offset))
        size = tuple(
            max(a.offset[i] + a.size[i] for a in (self, other)) - offset[i] for i in range(2)
        )
        return dataclasses.replace(self, offset=offset, size=size)

    def margins_in(self, outer: Window) -> Padding:
        """How much `outer` exceeds this window on each side."""
        before = [a - b for a, b in zip(self.offset, outer.offset, strict=True)]
        after = [o - b - s for o, b, s in zip(outer.size, before, self.size, strict=True)]
        return as_pair(zip(before, after, strict=True))

    def _axis(self, axis: int) -> np.ndarray:
        """The coordinates that the windows read along one axis: [grid, size]."""
        starts = self.step[axis] * np.arange(self.grid[axis]) + self.offset[axis]
        return starts[:, None] + np.arange(self.size[axis])

    @functools.cached_property
    def inside(self) -> np.ndarray:
        """Which pixels of each window lie in the image: boolean [positions, *size]."""
        rows, columns = (
            (c >= 0) & (c < n) for c, n in zip(map(self._axis, range(2)), self.image, strict=True)
        )
        both = rows[:, None, :, None] & columns[None, :, None, :]
        return both.reshape(self.positions, *self.size)

    @functools.cached_property
    def slots(self) -> np.ndarray:
        """Which pixel of the window covers each pixel of the image, `area` where none does.

        Integers [positions, image pixels].
        """
        slot = []
        for axis in range(2):
            starts = self._axis(axis)[:, :1]
            slot.append(np.arange(self.image[axis])[None, :] - starts)
        rows, columns = slot[0][:, None, :, None], slot[1][None, :, None, :]
        covered = (rows >= 0) & (rows < self.size[0]) & (columns >= 0) & (columns < self.size[1])
        flat = np.where(covered, rows * self.size[1] + columns, self.area)
        return flat.reshape(self.positions, -1).astype(np.int32)

    def extract(self, images: tf.Tensor) -> tf.Tensor:
        """Cut the windows out of `images` [n, h, w, c]: [n, positions, *size, c], zero outside.

        Each axis is seen as cells of `step` pixels; window `p` is made of the cells `p`, `p + 1`,
        ..., so that a few contiguous slices hold all windows. Their gradient is as cheap, where
        that of `tf.image.extract_patches` is a sparse product.
        """
        channels = images.shape[-1]
        (ny, nx), (kh, kw), (sy, sx) = self.grid, self.size, self.step
        ty, tx = -(-kh // sy), -(-kw // sx)
        images = self._framed(images, ((ny - 1 + ty) * sy, (nx - 1 + tx) * sx))
        width = images.shape[2]
        rows = tf.reshape(images, (-1, ny - 1 + ty, sy * width * channels))
        rows = tf.stack([tf.slice(rows, (0, t, 0), (-1, ny, -1)) for t in range(ty)], 2)
        rows = tf.reshape(rows, (-1, ny, ty * sy, width * channels))
        rows = tf.slice(rows, (0, 0, 0, 0), (-1, -1, kh, -1))
        cells = tf.reshape(rows, (-1, ny * kh, nx - 1 + tx, sx * channels))
        cells = tf.stack([tf.slice(cells, (0, 0, t, 0), (-1, -1, nx, -1)) for t in range(tx)], 3)
        cells = tf.reshape(cells, (-1, ny, kh, nx, tx * sx, channels))
        cells = tf.slice(cells, (0, 0, 0, 0, 0, 0), (-1, -1, -1, -1, kw, -1))
        cells = tf.transpose(cells, (0, 1, 3, 2, 4, 5))
        return tf.reshape(cells, (-1, self.positions, kh, kw, channels))

    def _framed(self, images: tf.Tensor, lengths: Pair) -> tf.Tensor:
        """The part of the zero-extended images that begins at `offset` and has these lengths."""
        pads = [
            (max(0, -first), max(0, first + length - n))
            for first, length, n in zip(self.offset, lengths, self.image, strict=True)
        ]
        images = tf.pad(images, ((0, 0), *pads, (0, 0)))
        top, left = (max(0, first) for first in self.offset)
        return tf.slice(images, (0, top, left, 0), (-1, *lengths, -1))
