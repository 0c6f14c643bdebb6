"""Rows of the dual network: the coefficients of some neurons on an earlier layer.

Two kinds hold them. `WindowRows` keeps, for a neuron of a convolutional layer, only the window that
it depends on; `WholeRows` keeps a coefficient for every entry of the layer. Leading axes say whose
rows they are; a `Frame` gives those axes their meaning:

* `Every`: all neurons (of a slice of the channels) of every example. Windows: [n, positions, rows];
  whole: [n, rows]. An axis of length 1 stands for rows that are the same for all of it.
* `Chosen`: one axis of (example, position) pairs that were picked one by one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from robustra_tf.bounds import tiled
from robustra_tf.bounds.window import Window
from robustra_tf.graph.ops import Add, AffineOp, Reshape, Scale
from robustra_tf.graph.spatial import Pad2D, Windowed
from robustra_tf.graph.spread import Tiling, spread


@dataclasses.dataclass(frozen=True)
class WholeRows:
    """Coefficients on all of a layer: `values` [*lead, *shape], `shape` the layer's.

    On an image they may be laid out in tiles, [*lead, *tiling.count, pixels * channels]; `clean`
    says that coefficients of tiles beyond the image are known to be zero.
    """

    values: tf.Tensor
    shape: tuple[int, ...]
    tiling: Tiling | None = None
    clean: bool = True

    def with_values(self, values: tf.Tensor, clean: bool | None = None) -> WholeRows:
        """The same kind of rows with other coefficients."""
        return dataclasses.replace(
            self, values=values, clean=self.clean if clean is None else clean
        )

    @property
    def trailing(self) -> tuple[int, ...]:
        """The axes that hold one row."""
        if self.tiling is None:
            return self.shape
        return (*self.tiling.count, math.prod(self.tiling.tile) * self.shape[-1])

    @property
    def flat(self) -> tf.Tensor:
        """[*lead, prod(trailing)]."""
        return _regroup(self.values, len(self.trailing), (math.prod(self.trailing),))

    @property
    def joined(self) -> WholeRows:
        """The same rows, not in tiles."""
        if self.tiling is None:
            return self
        values = _split(self.tiling.join(_merged(self.values, 3)), self.values, 3)
        return WholeRows(values, self.shape)


@dataclasses.dataclass(frozen=True)
class WindowRows:
    """Coefficients on one window per row: `values` [*lead, kh, kw, channels].

    `clean` says that coefficients outside the image are known to be zero.
    """

    values: tf.Tensor
    window: Window
    clean: bool = True

    def with_values(self, values: tf.Tensor, clean: bool | None = None) -> WindowRows:
        """The same windows with other coefficients."""
        return dataclasses.replace(
            self, values=values, clean=self.clean if clean is None else clean
        )

    @property
    def flat(self) -> tf.Tensor:
        """[*lead, kh * kw * channels]."""
        return _regroup(self.values, 3, (math.prod(self.values.shape[-3:]),))


Rows = WholeRows | WindowRows


def _regroup(values: tf.Tensor, trailing: int, shape: tuple[int, ...]) -> tf.Tensor:
    """Reshape the last `trailing` axes to `shape`, whatever stands before them."""
    lead = tf.shape(values)[: values.shape.rank - trailing]
    result = tf.reshape(values, tf.concat([lead, shape], 0))
    result.set_shape((*values.shape[: values.shape.rank - trailing], *shape))
    return result


def _merged(values: tf.Tensor, trailing: int) -> tf.Tensor:
    """All leading axes in one: [prod(lead), *the last `trailing` axes]."""
    return tf.reshape(values, (-1, *values.shape[values.shape.rank - trailing :]))


def _split(values: tf.Tensor, like: tf.Tensor, trailing: int) -> tf.Tensor:
    """Undo `_merged`: the leading axes of `like` (whose last `trailing` axes are dropped)."""
    rank = like.shape.rank - trailing
    result = tf.reshape(values, tf.concat([tf.shape(like)[:rank], tf.shape(values)[1:]], 0))
    result.set_shape((*like.shape[:rank], *values.shape[1:]))
    return result


class Frame:
    """How images of the batch line up with rows, and how windows become whole layers."""

    def whole(self, images: tf.Tensor) -> tf.Tensor:
        """`images` [n, *shape], broadcastable to the values of `WholeRows`."""
        raise NotImplementedError

    def windows(self, images: tf.Tensor, window: Window) -> tf.Tensor:
        """The windows of `images` [n, h, w, c], broadcastable to the values of `WindowRows`."""
        raise NotImplementedError

    def fill(self, rows: WindowRows) -> tf.Tensor:
        """The values [*lead, h, w, c] of `WholeRows` that equal window rows."""
        raise NotImplementedError

    def listed(self, sums: tf.Tensor, rows: Rows) -> tf.Tensor:
        """One number per row, with the leading axes that these rows would have as `WholeRows`."""
        raise NotImplementedError

    def constant(self, windows: tf.Tensor) -> tf.Tensor:
        """`windows` [positions, kh, kw, c] of every example, broadcastable to `WindowRows`."""
        raise NotImplementedError

    def align(self, images: tf.Tensor, rows: Rows) -> tf.Tensor:
        """`images`, broadcastable to the values of `rows`."""
        if isinstance(rows, WholeRows):
            return self.whole(images if rows.tiling is None else rows.tiling.cut(images))
        return self.windows(images, rows.window)


@dataclasses.dataclass(frozen=True)
class Every(Frame):
    """All neurons of every example, in order."""

    def whole(self, images: tf.Tensor) -> tf.Tensor:
        """[n, 1, *shape]."""
        return images[:, None]

    def windows(self, images: tf.Tensor, window: Window) -> tf.Tensor:
        """[n, positions, 1, kh, kw, c]."""
        return window.extract(images)[:, :, None]

    def constant(self, windows: tf.Tensor) -> tf.Tensor:
        """[1, positions, 1, kh, kw, c]."""
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
            _regroup(rows.values, 3, (rows.window.area, rows.values.shape[-1])), (1, 0, 2, 3, 4)
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

    def windows(self, images: tf.Tensor, window: Window) -> tf.Tensor:
        """[rows, kh, kw, c]."""
        cut = window.extract(images)
        flat = tf.reshape(cut, (-1, *cut.shape[2:]))
        return _picked(flat, self.example * window.positions + self.position)

    def constant(self, windows: tf.Tensor) -> tf.Tensor:
        """[rows, kh, kw, c]."""
        return tf.gather(windows, self.position)

    def fill(self, rows: WindowRows) -> tf.Tensor:
        """[rows, h, w, c]."""
        values = _regroup(rows.values, 3, (rows.window.area, rows.values.shape[-1]))
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
    def run(values: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            sums = tf.math.segment_sum(upstream, index)
            missing = tf.shape(values)[0] - tf.shape(sums)[0]
            rest = tf.zeros(tf.concat([[missing], tf.shape(sums)[1:]], 0), sums.dtype)
            return tf.ensure_shape(tf.concat([sums, rest], 0), values.shape)

        return tf.gather(values, index), gradient

    return run(values)


def _gathered(values: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
    """Read `values` [k, ..., area, c] at `slots` [k, pixels]; slot `area` reads zero."""
    padding = [(0, 0)] * (values.shape.rank - 2) + [(0, 1), (0, 0)]
    return tf.gather(tf.pad(values, padding), slots, axis=values.shape.rank - 2, batch_dims=1)


def cleaned(rows: Rows, frame: Frame) -> Rows:
    """The same rows, zero outside the image."""
    if rows.clean:
        return rows
    if isinstance(rows, WholeRows):
        return rows.joined
    if rows.window.inside.all():
        return rows
    return rows.with_values(rows.values * inside(rows, frame), clean=True)


def inside(rows: WindowRows, frame: Frame) -> tf.Tensor:
    """1 where a window's pixel lies in the image, 0 elsewhere, broadcastable to the values."""
    mask = tf.constant(rows.window.inside[..., None], rows.values.dtype)
    return frame.constant(mask)


def as_whole(rows: Rows, frame: Frame) -> WholeRows:
    """Windows and tiles written out over the layer."""
    if isinstance(rows, WholeRows):
        return rows.joined
    return WholeRows(frame.fill(rows), (*rows.window.image, rows.values.shape[-1]))


def settled(rows: Rows, frame: Frame) -> Rows:
    """Whole rows where the window has outgrown the image, else the rows as they are."""
    if isinstance(rows, WindowRows) and rows.window.area >= math.prod(rows.window.image):
        return as_whole(rows, frame)
    return rows


def added(first: Rows | None, second: Rows, frame: Frame) -> Rows:
    """The sum of two rows on the same layer, windows widened to hold both."""
    if first is None:
        return second
    if isinstance(first, WholeRows) or isinstance(second, WholeRows):
        if type(first) is type(second) and first.tiling == second.tiling:
            return first.with_values(first.values + second.values, first.clean and second.clean)
        first, second = as_whole(first, frame), as_whole(second, frame)
        return first.with_values(first.values + second.values)
    window = first.window.union(second.window)
    total = _widened(first, window) + _widened(second, window)
    return WindowRows(total, window, first.clean and second.clean)


def _widened(rows: WindowRows, window: Window) -> tf.Tensor:
    lead = [(0, 0)] * (rows.values.shape.rank - 3)
    return tf.pad(rows.values, (*lead, *rows.window.margins_in(window), (0, 0)))


def pays_as_matrix(window: Window, op: Windowed) -> bool:
    """Whether a transposed convolution of windows is faster as one dense matrix product.

    It multiplies by the zeros of the matrix, some `area of the reached window / kernel` times as
    many operations, but thousands of convolutions of a few pixels to a channel or three run at a
    tenth of a matrix product's speed.
    """
    reached = window.through(op)
    return op.shape[2] <= 4 and reached.area <= 16 * math.prod(op.size)


def window_matrix(
    window: Window, op: Windowed, weights: tuple[tf.Tensor, ...], dtype: tf.DType
) -> tf.Tensor:
    """The transposed convolution on one window: [kh * kw * filters, reached pixels * channels]."""
    taps = window.area * op.filters
    units = tf.reshape(tf.eye(taps, dtype=dtype), (taps, *window.size, op.filters))
    kernel = op.kernel(weights, dtype)
    return tf.reshape(
        spread(units, kernel, op.strides, (0, 0), window.through(op).size), (taps, -1)
    )


def through(op: AffineOp, weights: tuple[tf.Tensor, ...], rows: Rows, frame: Frame) -> Rows:
    """The coefficients on the input of an affine op from those on its output."""
    if isinstance(op, Add):
        return rows
    if isinstance(rows, WholeRows):
        return _whole_through(op, weights, cleaned(rows, frame))
    if isinstance(op, Windowed):
        rows = cleaned(rows, frame)
        window = rows.window.through(op)
        merged = _merged(rows.values, 3)
        if pays_as_matrix(rows.window, op):
            flat = tf.reshape(merged, (-1, math.prod(merged.shape[1:])))
            values = flat @ window_matrix(rows.window, op, weights, flat.dtype)
            values = tf.reshape(values, (-1, *window.size, op.shape[2]))
        else:
            kernel = op.kernel(weights, rows.values.dtype)
            values = spread(merged, kernel, op.strides, (0, 0), window.size)
        return WindowRows(_split(values, rows.values, 3), window, clean=False)
    if isinstance(op, Pad2D):
        return dataclasses.replace(
            rows, window=rows.window.before(op.padding, op.shape[:2]), clean=False
        )
    if isinstance(op, Scale):
        scale = op.coefficients(weights, rows.values.dtype)[0]
        per_channel = scale.shape.rank == 0 or math.prod(scale.shape[:-1]) == 1
        if per_channel:
            return rows.with_values(rows.values * tf.reshape(scale, (-1,)))
        image = tf.broadcast_to(scale, op.shape)[None]
        scale = frame.constant(rows.window.extract(image)[0])
        return rows.with_values(rows.values * scale, clean=True)
    if isinstance(op, Reshape):
        return through(op, weights, as_whole(rows, frame), frame)
    raise TypeError(f"op must be one that rows can pass, got {type(op).__name__}")


def _whole_through(op: AffineOp, weights: tuple[tf.Tensor, ...], rows: WholeRows) -> WholeRows:
    if isinstance(op, Windowed):
        plain = Tiling(rows.shape[:2], (1, 1), (0, 0), rows.shape[:2])
        merged = _merged(rows.values, 3)
        tiles, tiling = tiled.transpose(op, weights, merged, rows.tiling or plain)
        values = _split(tiles, rows.values, 3)
        return WholeRows(values, op.in_shape, None if tiling.plain else tiling, tiling.fits)
    if isinstance(op, Scale) and rows.tiling is not None:
        scale = op.coefficients(weights, rows.values.dtype)[0]
        return rows.with_values(
            rows.values * rows.tiling.cut(tf.broadcast_to(scale, op.shape)[None])
        )
    rows = rows.joined
    values = op.transpose(_merged(rows.values, len(rows.shape)), *weights)
    return WholeRows(_split(values, rows.values, len(rows.shape)), op.in_shape)


def absolute_sum(rows: Rows, frame: Frame, weights: tf.Tensor) -> tf.Tensor:
    """`sum_j |row_j| weight_j` for every row, one number per row, as `Frame.listed` has them.

    `weights` are broadcastable to the values of the rows. Rows that a whole batch shares are summed
    by one matrix product.
    """
    absolute = tf.abs(rows.flat)
    size = absolute.shape[-1]
    if isinstance(frame, Chosen):
        sums = tf.reduce_sum(absolute * tf.reshape(weights, (-1, size)), -1)
    elif isinstance(rows, WholeRows):
        weights = tf.reshape(weights, (-1, size))
        if absolute.shape[0] == 1:
            sums = tf.matmul(weights, absolute[0], transpose_b=True)
        else:
            sums = tf.linalg.matvec(absolute, weights)
    elif absolute.shape[:2] == (1, 1):
        sums = tf.matmul(tf.reshape(weights, (-1, size)), absolute[0, 0], transpose_b=True)
        sums = tf.reshape(sums, (-1, rows.window.positions, absolute.shape[2]))
    else:
        weights = tf.reshape(weights, (-1, rows.window.positions, 1, size))
        sums = tf.reduce_sum(absolute * weights, -1)
    return frame.listed(sums, rows)
