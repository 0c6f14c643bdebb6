"""Whose rows are worked on: what the leading axes of rows stand for.

* `Every`: all neurons (of a slice of the channels) of every example. Windows: [n, positions, rows];
  whole: [n, rows]. An axis of length 1 stands for rows that are the same for all of it.
* `Chosen`: one axis of (example, position) pairs that were picked one by one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from robustra_tf.bounds.rows import Rows, WholeRows, WindowRows, regroup


class Frame:
    """How images of the batch line up with rows, and how windows become whole layers."""

    def whole(self, images: tf.Tensor) -> tf.Tensor:
        """`images` [n, *shape], broadcastable to the values of `WholeRows`."""
        raise NotImplementedError

    def windows(self, cut: tf.Tensor) -> tf.Tensor:
        """`cut` [n, positions, kh, kw, c], broadcastable to the values of `WindowRows`."""
        raise NotImplementedError

    def fill(self, rows: WindowRows) -> tf.Tensor:
        """The values [*lead, h, w, c] of `WholeRows` that equal window rows."""
        raise NotImplementedError

    def listed(self, sums: tf.Tensor, rows: Rows) -> tf.Tensor:
        """One number per row, with the leading axes that these rows would have as `WholeRows`."""
        raise NotImplementedError

    def constant(self, windows: tf.Tensor) -> tf.Tensor:
        """What belongs to each position, [positions, ...], beside the leading axes of windows."""
        raise NotImplementedError

    def align(self, rows: Rows, *images: tf.Tensor) -> list[tf.Tensor]:
        """Each of `images` [n, *shape], broadcastable to the values of `rows`."""
        if isinstance(rows, WholeRows):
            return [self.whole(i if rows.tiling is None else rows.tiling.cut(i)) for i in images]
        # Cut once for all of them, and parted while there is one window per position.
        cut = rows.window.extract(images[0] if len(images) == 1 else tf.concat(images, -1))
        parts = tf.split(cut, len(images), -1) if len(images) > 1 else [cut]
        return [self.windows(part) for part in parts]


@dataclasses.dataclass(frozen=True)
class Every(Frame):
    """All neurons of every example, in order."""

    def whole(self, images: tf.Tensor) -> tf.Tensor:
        """[n, 1, *shape]."""
        return tf.expand_dims(images, 1)

    def windows(self, cut: tf.Tensor) -> tf.Tensor:
        """[n, positions, 1, kh, kw, c]."""
        return tf.expand_dims(cut, 2)

    def constant(self, windows: tf.Tensor) -> tf.Tensor:
        """[1, positions, 1, ...]."""
        return windows[None, :, None]

    def fill(self, rows: WindowRows) -> tf.Tensor:
        """[n, positions * rows, h, w, c]."""
        positions = rows.window.positions
        if rows.values.shape[1] != positions:
            shape = tf.tensor_scatter_nd_update(tf.shape(rows.values), [[1]], [positions])
            values = tf.broadcast_to(rows.values, shape)
            rows = rows.with_values(
                tf.ensure_shape(values, (values.shape[0], positions, *rows.values.shape[2:]))
            )
        # [positions, n, rows, kh * kw, c] beside slots [positions, h * w].
        values = tf.transpose(
            regroup(rows.values, 3, (rows.window.area, rows.values.shape[-1])), (1, 0, 2, 3, 4)
        )
        values = _gathered(values, rows.window.slots)
        values = tf.transpose(values, (1, 0, 2, 3, 4))
        count = positions * rows.values.shape[2]
        return tf.reshape(values, (-1, count, *rows.window.image, rows.values.shape[-1]))

    def listed(self, sums: tf.Tensor, rows: Rows) -> tf.Tensor:
        """[n, positions * rows]; an axis of positions that share their rows is written out."""
        if isinstance(rows, WholeRows):
            return sums
        positions, count = rows.window.positions, sums.shape[2]
        sums = tf.broadcast_to(sums, (tf.shape(sums)[0], positions, count))
        return tf.reshape(sums, (-1, positions * count))


@dataclasses.dataclass(frozen=True)
class Chosen(Frame):
    """Rows picked one by one: row `i` belongs to `example[i]` and grid position `position[i]`.

    They stand in order: first by example, then by position.
    """

    example: tf.Tensor
    position: tf.Tensor

    def whole(self, images: tf.Tensor) -> tf.Tensor:
        """[rows, *shape]."""
        return _picked(images, self.example)

    def windows(self, cut: tf.Tensor) -> tf.Tensor:
        """[rows, kh, kw, c]."""
        flat = tf.reshape(cut, (-1, *cut.shape[2:]))
        return _picked(flat, self.example * cut.shape[1] + self.position)

    def constant(self, windows: tf.Tensor) -> tf.Tensor:
        """[rows, ...]."""
        return tf.gather(windows, self.position)

    def fill(self, rows: WindowRows) -> tf.Tensor:
        """[rows, h, w, c]."""
        values = regroup(rows.values, 3, (rows.window.area, rows.values.shape[-1]))
        values = _gathered(values, tf.gather(tf.constant(rows.window.slots), self.position))
        return tf.reshape(values, (-1, *rows.window.image, rows.values.shape[-1]))

    def listed(self, sums: tf.Tensor, rows: Rows) -> tf.Tensor:
        """[rows], as they are."""
        return sums


def _picked(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """`values[index]` for an ascending `index`; its gradient adds runs of equal entries.

    The gradient of `tf.gather` knows no order and takes three times as long.
    """

    @tf.custom_gradient
    def run(values: tf.Tensor, index: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
            sums = tf.math.segment_sum(upstream, index)
            missing = tf.shape(values)[0] - tf.shape(sums)[0]
            rest = tf.zeros(tf.concat([[missing], tf.shape(sums)[1:]], 0), sums.dtype)
            return tf.ensure_shape(tf.concat([sums, rest], 0), values.shape), None

        return tf.gather(values, index), gradient

    return run(values, index)


def _gathered(values: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
    """Read `values` [k, ..., area, c] at `slots` [k, pixels]; slot `area` reads zero."""
    padding = [(0, 0)] * (values.shape.rank - 2) + [(0, 1), (0, 0)]
    return tf.gather(tf.pad(values, padding), slots, axis=values.shape.rank - 2, batch_dims=1)
