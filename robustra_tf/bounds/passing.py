"""How rows pass an affine operation, meet, and are summed up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, overload

import numpy as np
import tensorflow as tf

from robustra_tf.bounds import tiled
from robustra_tf.bounds.frames import Chosen, Frame
from robustra_tf.bounds.relu import Relaxation
from robustra_tf.bounds.rows import Rows, WholeRows, WindowRows, merged, regroup, split
from robustra_tf.bounds.window import Window
from robustra_tf.graph.ops import Add, AffineOp, Reshape, Scale
from robustra_tf.graph.registry import PerOperation
from robustra_tf.graph.selection import Permute, Take
from robustra_tf.graph.spatial import Pad2D, Windowed
from robustra_tf.graph.spread import Tiling, as_pair, spread


@overload
def cleaned(rows: WholeRows, frame: Frame) -> WholeRows: ...
@overload
def cleaned(rows: WindowRows, frame: Frame) -> WindowRows: ...
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
    match first, second:
        case WholeRows(), WholeRows() if first.tiling == second.tiling:
            return first.with_values(first.values + second.values, first.clean and second.clean)
        case WindowRows(), WindowRows():
            window = first.window.union(second.window)
            total = _widened(first, window) + _widened(second, window)
            return WindowRows(total, window, first.clean and second.clean)
    first, second = as_whole(first, frame), as_whole(second, frame)
    return first.with_values(first.values + second.values)


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
    return windows_through(op, weights, rows, frame)


#: `(op, weights, rows, frame) -> Rows`: as `through`, of windows.
windows_through = PerOperation("that rows can pass")


@windows_through.of(Windowed)
def _(op: Windowed, weights, rows: WindowRows, frame: Frame) -> WindowRows:
    rows = cleaned(rows, frame)
    window = rows.window.through(op)
    joint = merged(rows.values, 3)
    if pays_as_matrix(rows.window, op):
        flat = tf.reshape(joint, (-1, math.prod(joint.shape[1:])))
        values = flat @ window_matrix(rows.window, op, weights, flat.dtype)
        values = tf.reshape(values, (-1, *window.size, op.shape[2]))
    else:
        kernel = op.kernel(weights, rows.values.dtype)
        values = spread(joint, kernel, op.strides, (0, 0), window.size)
    return WindowRows(split(values, rows.values, 3), window, clean=False)


@windows_through.of(Pad2D)
def _(op: Pad2D, weights, rows: WindowRows, frame: Frame) -> WindowRows:
    window = rows.window.before(op.padding, as_pair(op.shape[:2]))
    return dataclasses.replace(rows, window=window, clean=False)


@windows_through.of(Take)
def _(op: Take, weights, rows: WindowRows, frame: Frame) -> Rows:
    if op.axis == 2:
        return rows.with_values(op.returned(rows.values, rows.values.shape.rank - 1))
    if op.start is None:
        return through(op, weights, as_whole(rows, frame), frame)
    # What is cut away has no coefficients, whatever the windows reach of it.
    rows = cleaned(rows, frame)
    window = rows.window.before(op.cut, as_pair(op.shape[:2]))
    return dataclasses.replace(rows, window=window, clean=True)


@windows_through.of(Scale)
def _(op: Scale, weights, rows: WindowRows, frame: Frame) -> WindowRows:
    scale = op.coefficients(weights, rows.values.dtype)[0]
    per_channel = scale.shape.rank == 0 or math.prod(scale.shape[:-1]) == 1
    if per_channel:
        return rows.with_values(rows.values * tf.reshape(scale, (-1,)))
    image = tf.broadcast_to(scale, op.shape)[None]
    scale = frame.constant(rows.window.extract(image)[0])
    return rows.with_values(rows.values * scale, clean=True)


@windows_through.of(Reshape, Permute)
def _(op: Reshape | Permute, weights, rows: WindowRows, frame: Frame) -> Rows:
    return through(op, weights, as_whole(rows, frame), frame)


@windows_through.of(Add)
def _(op: Add, weights, rows: WindowRows, frame: Frame) -> WindowRows:
    return rows


def _whole_through(op: AffineOp, weights: tuple[tf.Tensor, ...], rows: WholeRows) -> WholeRows:
    if isinstance(op, Windowed):
        image = as_pair(rows.shape[:2])
        plain = Tiling(image, (1, 1), (0, 0), image)
        joint = merged(rows.values, 3)
        tiles, tiling = tiled.transpose(op, weights, joint, rows.tiling or plain)
        values = split(tiles, rows.values, 3)
        return WholeRows(values, op.in_shape, None if tiling.plain else tiling, tiling.fits)
    if isinstance(op, Scale) and rows.tiling is not None:
        scale = op.coefficients(weights, rows.values.dtype)[0]
        return rows.with_values(
            rows.values * rows.tiling.cut(tf.broadcast_to(scale, op.shape)[None])
        )
    rows = rows.joined
    values = op.transpose(merged(rows.values, len(rows.shape)), *weights)
    return WholeRows(split(values, rows.values, len(rows.shape)), op.in_shape)


def shared(rows: Rows, frame: Frame) -> bool:
    """Whether examples or positions have the same rows, of which one is held."""
    if isinstance(frame, Chosen):
        return False
    positions = 1 if isinstance(rows, WholeRows) else rows.window.positions
    return rows.values.shape[0] == 1 or 1 == rows.values.shape[1] != positions


def past_relu(
    rows: Rows, frame: Frame, relaxation: Relaxation, visit: Callable[[Rows], Rows]
) -> tuple[Rows, tf.Tensor]:
    """`nu = d nuhat` from the rows `nuhat`, and the charge `sum_i |nuhat_i| . error_i`.

    Where `error = d drop`, the charge is `sum_i |nu_i| . drop_i`, and both gradients need `nu`
    alone: `nuhat` need not be kept, nor computed where `visit` knows `nu`.
    """
    if relaxation.drop is None or shared(rows, frame):
        slope, error = frame.align(rows, relaxation.slope, relaxation.error)
        charge = absolute_sum(rows, frame, error)
        return visit(rows.with_values(rows.values * slope, clean=True)), charge
    slope = tf.stop_gradient(relaxation.slope)
    # 1 in value, 0 for a dead ReLU; with `nu = gain slope nuhat`, its gradient needs no nuhat.
    gain = relaxation.slope / tf.where(slope > 0, slope, tf.ones_like(slope))
    slope, drop, gain = frame.align(rows, slope, relaxation.drop, gain)
    trailing = 3 if isinstance(rows, WindowRows) else len(rows.trailing)
    lead = rows.values.shape.rank - trailing

    def reduced(parts: tf.Tensor) -> tf.Tensor:
        return parts if isinstance(frame, Chosen) else tf.reduce_sum(parts, lead - 1, keepdims=True)

    @tf.custom_gradient
    def run(values: tf.Tensor, drop: tf.Tensor, gain: tf.Tensor) -> Any:
        nu = visit(rows.with_values(values * slope, clean=True)).values

        def gradient(upstream: tf.Tensor, per_charge: tf.Tensor) -> tuple[tf.Tensor, ...]:
            column = tf.concat([tf.shape(nu)[:lead], [1] * trailing], 0)
            signs = tf.sign(nu) * tf.reshape(per_charge, column)
            total = upstream + signs * drop
            return total * slope, reduced(signs * nu), reduced(total * nu)

        return (nu, absolute_sum(rows.with_values(nu), frame, drop)), gradient

    nu, charge = run(rows.values, drop, gain)
    return rows.with_values(nu, clean=True), charge


def summed(rows: Rows, frame: Frame) -> tf.Tensor:
    """`sum_j row_j` for every row, one number per row, as `Frame.listed` has them."""
    return frame.listed(tf.reduce_sum(rows.flat, -1), rows)


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


def absolute_sum_inside(rows: WindowRows, frame: Frame) -> tf.Tensor:
    """`sum_j |row_j|` over the pixels in the image, one number per row, as `Frame.listed` has them.

    Windows reach over the border in a few ways only: the sums for each way are one thin matrix
    product, of which every position takes its own.
    """
    channels, total, top = rows.values.shape[-1], 0.0, 0
    for strip in rows.strips or (rows.values,):
        height = strip.shape[-3]
        pixels = rows.window.inside[:, top : top + height].reshape(rows.window.positions, -1)
        top += height
        kinds, which = np.unique(pixels, axis=0, return_inverse=True)
        masks = tf.constant(np.repeat(kinds, channels, -1).T, strip.dtype)
        absolute = regroup(tf.abs(strip), 3, (masks.shape[0],))
        sums = tf.matmul(merged(absolute, 1), masks)
        own = tf.one_hot(which.reshape(-1), len(kinds), dtype=strip.dtype)
        total += tf.reduce_sum(split(sums, absolute, 1) * frame.constant(own), -1)
    return frame.listed(total, rows)
