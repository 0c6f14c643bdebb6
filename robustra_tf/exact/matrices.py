"""The affine operations of a graph as sparse float64 matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import tensorflow as tf

from robustra_tf.graph.graph import Graph, Node
from robustra_tf.graph.ops import Add, AffineOp, Dense, Reshape, Scale
from robustra_tf.graph.selection import Permute, Take
from robustra_tf.graph.spatial import Pad2D, Windowed

# Points at which a map is compared with its operation, and how far they may be apart: a share of
# the sum of absolute values.
_POINTS, _ROUNDING = 4, 1e-12


class AffineMap(NamedTuple):
    """`y = A x + b` on flattened tensors, row-major.

    Attributes:
      matrix: `A`, CSR [outputs, inputs], without stored zeros.
      offset: `b` [outputs].
    """

    matrix: sp.csr_array
    offset: np.ndarray


def affine_maps(graph: Graph) -> dict[int, AffineMap]:
    """The map of every affine node of a graph, by the node's index; float64.

    The map of an `Add` is what one branch contributes: the identity. Each map is compared with its
    operation at random points.

    Raises:
      ValueError: a weight that is not a finite number, or a map that differs from its operation.
    """
    weights = [value.numpy() for value in graph.weights(tf.float64)]
    for value, variable in zip(weights, graph.variables, strict=True):
        if not np.isfinite(value).all():
            raise ValueError(
                f"model: expected finite weights, got NaN or infinity in {variable.name}"
            )
    maps = {}
    for index, node in enumerate(graph.structure.nodes):
        if isinstance(node.op, AffineOp):
            own = [weights[i] for i in node.weights]
            maps[index] = affine_map(node.op, own)
            _compare(maps[index], node, own)
    return maps


def _compare(found: AffineMap, node: Node, weights: Sequence[np.ndarray]) -> None:
    """Refuses a map that is not what the node's operation computes at random points."""
    rng = np.random.default_rng(0)
    branches = node.op.count if isinstance(node.op, Add) else 1
    points = [rng.normal(size=(_POINTS, *node.op.in_shape)) for _ in range(branches)]
    tensors = [tf.constant(weight, tf.float64) for weight in weights]
    computed = node.affine.forward(*map(tf.constant, points), *tensors)
    expected = computed.numpy().reshape(_POINTS, -1)
    flat = np.sum(points, 0).reshape(_POINTS, -1)
    reach = np.sum(np.abs(points), 0).reshape(_POINTS, -1)
    value = (found.matrix @ flat.T).T + found.offset
    size = (abs(found.matrix) @ reach.T).T + np.abs(found.offset)
    if not (np.abs(value - expected) <= _ROUNDING * size).all():
        raise ValueError(
            f"matrices: expected what layer {node.name!r} ({type(node.op).__name__}) computes at "
            f"random points, got a difference of {np.abs(value - expected).max():.3g}"
        )


def affine_map(op: AffineOp, weights: Sequence[np.ndarray]) -> AffineMap:
    """The sparse matrix and the offset of one operation with its weights, in float64.

    Raises:
      TypeError: an operation that is none of `robustra_tf.graph`'s.
    """
    tensors = [tf.constant(weight, tf.float64) for weight in weights]
    size = int(np.prod(op.out_shape))
    match op:
        case Dense():
            matrix = sp.csr_array(np.asarray(weights[0], np.float64).T)
        case Windowed():
            matrix = _windowed(op, op.kernel(tuple(tensors), tf.float64).numpy())
        case Pad2D():
            matrix = _padding(op)
        case Scale():
            scale = op.coefficients(tensors, tf.float64)[0].numpy()
            matrix = sp.diags_array(np.broadcast_to(scale, op.shape).ravel()).tocsr()
        case Take():
            matrix = _moved(op)
        case Permute():
            places = np.arange(size).reshape(op.shape).transpose(op.order).ravel()
            matrix = sp.eye_array(size, format="csr")[places]
        case Reshape() | Add():
            matrix = sp.eye_array(size, format="csr")
        case _:
            raise TypeError(f"op: expected an operation of the graph, got {type(op).__name__}")
    matrix.eliminate_zeros()
    if isinstance(op, Add):
        return AffineMap(matrix, np.zeros(size))
    nothing = tf.zeros((1, *op.in_shape), tf.float64)
    return AffineMap(matrix, op.forward(nothing, *tensors).numpy().ravel())


def _windowed(op: Windowed, kernel: np.ndarray) -> sp.csr_array:
    """Output `i` of filter `f` reads pixel `strides * i + a - padding` by `kernel[a, :, f]`."""
    axes = zip(op.out_shape[:2], op.strides, op.size, op.padding, op.shape[:2], strict=True)
    # Along each axis, which pixel [outputs, taps] is read, and whether there is one.
    pixels, inside = [], []
    for outputs, stride, taps, (before, _), size in axes:
        pixel = np.arange(outputs)[:, None] * stride + np.arange(taps) - before
        pixels.append(pixel)
        inside.append((pixel >= 0) & (pixel < size))
    # Every pair of an output position and a tap that falls on the image.
    valid = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    row, column, tap_row, tap_column = np.nonzero(valid)
    position = row * op.out_shape[1] + column
    pixel = pixels[0][row, tap_row] * op.shape[1] + pixels[1][column, tap_column]
    channels, filters = kernel.shape[2:]
    values = kernel[tap_row, tap_column]
    rows = position[:, None, None] * filters + np.arange(filters)
    columns = pixel[:, None, None] * channels + np.arange(channels)[:, None]
    rows, columns = np.broadcast_to(rows, values.shape), np.broadcast_to(columns, values.shape)
    shape = (int(np.prod(op.out_shape)), int(np.prod(op.in_shape)))
    return sp.coo_array((values.ravel(), (rows.ravel(), columns.ravel())), shape).tocsr()


def _moved(op: Take) -> sp.csr_array:
    """The entries of one axis, of the others as they are; a row of zeros stands for -1."""
    size = op.shape[op.axis]
    along = sp.csr_array(sp.vstack([sp.eye_array(size), sp.csr_array((1, size))]))
    along = along[np.array(op.indices) % (size + 1)]
    before = sp.eye_array(int(np.prod(op.shape[: op.axis])))
    after = sp.eye_array(int(np.prod(op.shape[op.axis + 1 :])))
    return sp.csr_array(sp.kron(sp.kron(before, along), after))


def _padding(op: Pad2D) -> sp.csr_array:
    """Each output's pixel, or none for the border."""
    size = int(np.prod(op.in_shape))
    source = np.pad(
        np.arange(size).reshape(op.in_shape), (*op.padding, (0, 0)), constant_values=-1
    ).ravel()
    rows = np.flatnonzero(source >= 0)
    entries = (np.ones(len(rows)), (rows, source[rows]))
    return sp.coo_array(entries, (len(source), size)).tocsr()
