"""Every affine operation against its dense matrix, which NumPy builds entry by entry."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.graph.convolutions import Conv2D, Convolution, DepthwiseConv2D, TurnedConv2D
from robustra_tf.graph.ops import Add, Dense, Input, Relu, Reshape, Scale
from robustra_tf.graph.selection import Permute, Pick, Take
from robustra_tf.graph.spatial import Pad2D, Pool2D
from robustra_tf.graph.spread import spread

BATCH = 3
CONSTANTS = (((2.0, -3.0), (0.5, 1.5)), (0.25, -1.0))


def conv_matrix(op, kernel):
    """[outputs, inputs] of the convolution with taps `kernel` [kh, kw, c, f]."""
    matrix = np.zeros((*op.out_shape, *op.in_shape))
    rows, columns, _ = op.out_shape
    for y, x, a, b in itertools.product(
        range(rows), range(columns), range(op.size[0]), range(op.size[1])
    ):
        i = y * op.strides[0] + a - op.padding[0][0]
        j = x * op.strides[1] + b - op.padding[1][0]
        if 0 <= i < op.in_shape[0] and 0 <= j < op.in_shape[1]:
            matrix[y, x, :, i, j, :] += kernel[a, b].T
    return matrix


def pad_matrix(op):
    matrix = np.zeros((*op.out_shape, *op.in_shape))
    for i, j, c in np.ndindex(op.in_shape):
        matrix[i + op.padding[0][0], j + op.padding[1][0], c, i, j, c] = 1.0
    return matrix


def dense_kernel(op, kernel):
    """The taps [kh, kw, channels, filters] of a kernel as Keras keeps it, tap by tap."""
    kernel = kernel[None] if op.line else kernel
    channels, filters = op.in_shape[2], op.out_shape[2]
    found = np.zeros((*op.size, channels, filters))
    for a, b, c, f in np.ndindex(*kernel.shape[:2], channels, filters):
        if isinstance(op, DepthwiseConv2D):
            tap = kernel[a, b, c, f % op.multiplier] * (f // op.multiplier == c)
        elif isinstance(op, TurnedConv2D):
            tap = kernel[-1 - a, -1 - b, f, c]
        else:
            share = channels // op.groups
            tap = kernel[a, b, c % share, f] * (c // share == f // (filters // op.groups))
        found[a * op.dilation[0], b * op.dilation[1], c, f] = tap
    return found


def take_matrix(op):
    matrix = np.zeros((*op.out_shape, *op.in_shape))
    for place in np.ndindex(op.out_shape):
        index = op.indices[place[op.axis]]
        if index >= 0:
            matrix[(*place, *place[: op.axis], index, *place[op.axis + 1 :])] = 1.0
    return matrix


def pick_matrix(op):
    """Of each window, entry by entry."""
    channels = op.in_shape[2] // op.slots
    taps = np.zeros((*op.size, op.in_shape[2], op.out_shape[2]))
    for (place, c), (sign, entries) in itertools.product(
        np.ndindex(len(op.plus), channels), ((1, op.plus), (-1, op.minus))
    ):
        if entries:
            a, b, slot = np.unravel_index(entries[place], (*op.size, op.slots))
            taps[a, b, slot * channels + c, place * channels + c] += sign
    return conv_matrix(op, taps)


def scale_and_shift(op, weights):
    if op.kind == "constant":
        return map(np.array, op.constants)
    if op.kind in ("slope", "complement"):
        return (weights[0] if op.kind == "slope" else 1 - weights[0]), np.zeros(())
    mean, variance = weights[-2:]
    if op.kind == "standardise":
        deviation = np.maximum(np.sqrt(variance), op.epsilon)
        return 1 / deviation, -mean / deviation
    gamma = weights[0] if op.use_scale else np.ones_like(mean)
    beta = weights[op.use_scale] if op.use_centre else np.zeros_like(mean)
    return gamma / np.sqrt(variance + op.epsilon), beta - gamma * mean / np.sqrt(
        variance + op.epsilon
    )


def oracle(op, weights):
    """(A [outputs, inputs], b [outputs]) in float64."""
    size = math.prod(op.out_shape)
    bias = np.zeros(op.out_shape)
    match op:
        case Dense():
            matrix = weights[0].T
        case Conv2D() | DepthwiseConv2D() | TurnedConv2D():
            matrix = conv_matrix(op, dense_kernel(op, weights[0]))
        case Take():
            matrix = take_matrix(op)
        case Permute():
            matrix = np.transpose(np.eye(size).reshape(*op.shape, size), (*op.order, len(op.order)))
        case Pick():
            matrix = pick_matrix(op)
        case Pool2D():
            taps = np.eye(op.in_shape[2]) / math.prod(op.size)
            matrix = conv_matrix(op, np.broadcast_to(taps, (*op.size, *taps.shape)))
        case Pad2D():
            matrix = pad_matrix(op)
        case Reshape() | Add():
            matrix = np.eye(size)
        case Scale():
            scale, shift = scale_and_shift(op, weights)
            matrix = np.diag(np.broadcast_to(scale, op.shape).ravel())
            bias = np.broadcast_to(shift, op.shape)
    if isinstance(op, Dense | Convolution) and op.use_bias:
        bias = bias + weights[1]
    return matrix.reshape(size, -1), bias.ravel()


CONVOLUTIONS = [
    Conv2D((5, 5, 2), 3, (3, 3)),
    Conv2D((5, 4, 1), 2, (2, 3), (1, 1), ((1, 0), (0, 2)), use_bias=False),
    Conv2D((6, 6, 2), 3, (4, 4), (2, 2), ((1, 1), (1, 1))),
    # Not every input is read: the transpose has zero rows at the border.
    Conv2D((7, 7, 1), 2, (2, 2), (3, 3)),
    Conv2D((6, 5, 2), 2, (3, 2), (1, 3), ((0, 1), (1, 1))),
    # Strides wider than the window leave gaps.
    Conv2D((6, 6, 2), 3, (1, 1), (2, 2)),
    Conv2D((5, 7, 1), 2, (1, 2), (2, 3)),
    # Padding wider than the window.
    Conv2D((3, 3, 1), 2, (2, 2), (1, 1), ((3, 2), (2, 4))),
    Conv2D((2, 3, 2), 4, (2, 3)),
]
POOLS = [
    Pool2D((4, 6, 2), (2, 2), (2, 2)),
    Pool2D((5, 5, 3), (3, 2), (2, 1), ((1, 1), (0, 1))),
]
SCALES = [
    Scale((2, 2), constants=(CONSTANTS[0], 0.5)),
    Scale((3, 2, 2), constants=CONSTANTS),
    Scale((3, 2), constants=(-2.0, 1.0)),
    Scale((3, 3, 2), "standardise", weight_shape=(2,), epsilon=1e-7),
    Scale((4,), "standardise", weight_shape=(), epsilon=1e-7),
    *(
        Scale((2, 3, 4), "batch_norm", (), (4,), 1e-3, use_scale, use_centre)
        for use_scale in (False, True)
        for use_centre in (False, True)
    ),
]
MOVES = [
    Take((4, 2), 0, (1, 2)),
    Take((3, 2, 2), 1, (-1, 0, -1, 1, -1)),
    # Entries that are taken several times, or never.
    Take((3, 3, 2), 0, (0, 0, 2, 2, -1, 2)),
    Take((2, 3, 4), 2, (3, 1)),
    Permute((2, 3, 4), (2, 0, 1)),
    Permute((3, 2), (1, 0)),
    Pick((5, 4, 2), (3, 1), (2, 1), (0, 2), (1, 2)),
    Pick((4, 5, 6), (1, 1), (1, 1), (0, 1), slots=3),
    Pick((4, 5, 4), (2, 2), (1, 2), (7, 0, 3), (2, 5, 3), 2, ((1, 0), (0, 2))),
]
OTHER_CONVOLUTIONS = [
    Conv2D((5, 6, 4), 6, (3, 3), (1, 2), ((1, 0), (0, 1)), dilation=(2, 1), groups=2),
    Conv2D((1, 6, 2), 3, (1, 5), (1, 1), ((0, 0), (4, 0)), line=True, dilation=(1, 2)),
    DepthwiseConv2D((4, 5, 3), 2, (2, 3), (1, 2), dilation=(1, 2), use_bias=False),
    DepthwiseConv2D((1, 5, 2), 1, (1, 2), line=True),
    TurnedConv2D((4, 5, 2), 3, (2, 3), (1, 1), ((1, 1), (2, 2))),
]
OPS = [
    Dense(4, 3),
    Dense(3, 5, use_bias=False),
    *CONVOLUTIONS,
    *OTHER_CONVOLUTIONS,
    *MOVES,
    *POOLS,
    Pad2D((3, 2, 2), ((1, 2), (0, 3))),
    Reshape((2, 3, 2), (12,)),
    Reshape((12,), (3, 4)),
    *SCALES,
    Scale((2, 3), "slope", weight_shape=(1, 3)),
    Scale((2, 3), "complement", weight_shape=(2, 3)),
]


@pytest.fixture(scope="module", params=OPS, ids=lambda op: str(op).replace("\n", ""))
def case(request):
    """(op, weights, A, b), the weights positive where they are variances."""
    op = request.param
    rng = np.random.default_rng(7)
    weights = [rng.normal(size=shape) for shape in op.weight_shapes]
    if isinstance(op, Scale) and weights:
        weights[-1] = np.abs(weights[-1]) + 0.1
    return op, weights, *oracle(op, weights)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_methods_equal_the_dense_matrix(case, dtype, tolerances):
    op, weights, matrix, bias = case
    rng = np.random.default_rng(8)
    x = rng.normal(size=(BATCH, *op.in_shape))
    y = rng.normal(size=(BATCH, *op.out_shape))
    tensors = [tf.constant(w, dtype) for w in weights]

    def check(method, argument, expected):
        value = method(tf.constant(argument, dtype), *tensors)
        assert value.dtype == dtype
        actual = value.numpy().reshape(BATCH, -1)
        np.testing.assert_allclose(actual, expected, **tolerances[dtype])

    flat_x, flat_y = x.reshape(BATCH, -1), y.reshape(BATCH, -1)
    check(op.linear, x, flat_x @ matrix.T)
    check(op.forward, x, flat_x @ matrix.T + bias)
    check(op.absolute, x, flat_x @ np.abs(matrix).T)
    check(op.transpose, y, flat_y @ matrix)
    dense = op.as_matrix(*tensors, dtype=tf.as_dtype(dtype))
    np.testing.assert_allclose(dense, matrix, **tolerances[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_equal_those_of_the_dense_matrix(case, dtype, tolerances):
    """In the input `A^T y`; in the kernel what it adds to `y . A x`, which is linear in it."""
    op, weights, matrix, _ = case
    rng = np.random.default_rng(10)
    x = rng.normal(size=(BATCH, *op.in_shape))
    y = rng.normal(size=(BATCH, *op.out_shape))
    tensors = [tf.constant(x, dtype), *(tf.constant(w, dtype) for w in weights)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        value = op.linear(*tensors)
    for _ in range(2):  # a persistent tape asks again
        slopes = tape.gradient(value, tensors, tf.constant(y, dtype))
    expected = (y.reshape(BATCH, -1) @ matrix).reshape(x.shape)
    np.testing.assert_allclose(slopes[0], expected, **tolerances[dtype])
    if not isinstance(op, Dense | Convolution):
        return
    expected = np.zeros_like(weights[0])
    for place in np.ndindex(expected.shape):
        unit = np.zeros_like(expected)
        unit[place] = 1.0
        part, _ = oracle(op, [unit, *weights[1:]])
        expected[place] = np.sum(y.reshape(BATCH, -1) * (x.reshape(BATCH, -1) @ part.T))
    np.testing.assert_allclose(slopes[1], expected, **tolerances[dtype])


def test_transpose_is_the_adjoint(case, tolerances):
    op, weights, _, _ = case
    rng = np.random.default_rng(9)
    x = tf.constant(rng.normal(size=(BATCH, *op.in_shape)))
    y = tf.constant(rng.normal(size=(BATCH, *op.out_shape)))
    weights = [tf.constant(w) for w in weights]
    left = tf.reduce_sum(op.linear(x, *weights) * y)
    right = tf.reduce_sum(x * op.transpose(y, *weights))
    np.testing.assert_allclose(left, right, **tolerances["float64"])


def test_diagonal_operations_have_one_entry_a_row_and_column(case):
    op, _, matrix, _ = case
    if op.diagonal:
        assert (np.count_nonzero(matrix, axis=1) <= 1).all()
        assert (np.count_nonzero(matrix, axis=0) <= 1).all()


@pytest.mark.parametrize(
    "op",
    [
        Conv2D((4, 4, 1), 3, (2, 3), (1, 2), use_bias=False),
        Conv2D((5, 2, 1), 1, (1, 2), (1, 3), ((0, 1), (1, 0)), use_bias=False),
        Conv2D((3, 5, 1), 2, (2, 2), (2, 1), use_bias=False),
        Pool2D((6, 4, 1), (1, 3), (1, 2)),
    ],
    ids=str,
)
def test_windows_with_one_output_along_an_axis_take_no_stride(op, tolerances):
    """oneDNN's float32 convolution is wrong for strides (1, 2) where they leave one column."""
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in op.weight_shapes]
    x = rng.normal(size=(BATCH, *op.in_shape)).astype(np.float32)
    expected = x.reshape(BATCH, -1) @ oracle(op, weights)[0].T
    for _ in range(5):  # memory that is not written is now and then right by chance
        actual = tf.reshape(op.linear(tf.constant(x), *map(tf.constant, weights)), (BATCH, -1))
        np.testing.assert_allclose(actual, expected, **tolerances["float32"])


def test_operations_are_values():
    for op in OPS:
        assert hash(op) == hash(type(op)(**vars(op)))
        assert op == type(op)(**vars(op))
    assert len(set(OPS)) == len(OPS)
    assert Input((3,)) != Relu((3,))


def test_add_sums_its_branches_and_hands_back_to_each():
    op = Add((2, 2), 3)
    branches = [tf.fill((1, 2, 2), value) for value in (1.0, 2.0, 4.0)]
    np.testing.assert_array_equal(op.forward(*branches), np.full((1, 2, 2), 7.0))
    np.testing.assert_array_equal(op.transpose(branches[1]), branches[1])


def test_unknown_batch_size_in_a_traced_function(tolerances):
    op = CONVOLUTIONS[2]
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=op.weight_shapes[0]).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec((None, *op.out_shape))])
    def transpose(y):
        return op.transpose(y, tf.constant(kernel))

    y = rng.normal(size=(2, *op.out_shape)).astype(np.float32)
    expected = y.reshape(2, -1) @ conv_matrix(op, kernel).reshape(math.prod(op.out_shape), -1)
    actual = transpose(y)
    assert actual.shape == (2, *op.in_shape)
    np.testing.assert_allclose(tf.reshape(actual, (2, -1)), expected, **tolerances["float32"])


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("origin", [(0, 0), (2, 1), (5, 4)])
def test_spread_cuts_any_window_of_the_spread_image(strides, origin, tolerances):
    """Also windows that begin or end outside what the convolution reads: they hold zeros."""
    rng = np.random.default_rng(4)
    y = rng.normal(size=(2, 3, 4, 2))
    kernel = rng.normal(size=(3, 2, 1, 2))
    size = (4, 9)
    full = np.zeros((2, 40, 40, 1))
    for i, j in np.ndindex(3, 4):
        rows = slice(i * strides[0], i * strides[0] + 3)
        columns = slice(j * strides[1], j * strides[1] + 2)
        full[:, rows, columns] += np.einsum("nf,abcf->nabc", y[:, i, j], kernel)
    expected = full[:, origin[0] : origin[0] + size[0], origin[1] : origin[1] + size[1]]
    actual = spread(tf.constant(y), tf.constant(kernel), strides, origin, size)
    np.testing.assert_allclose(actual, expected, **tolerances["float64"])
