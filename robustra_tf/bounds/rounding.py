"""How far rounding can move what an affine operation computes: a bound for every entry.

Two computations are off the real numbers. The model itself, when it runs, in float32: an entry
`sum_i w_i v_i + b` of `n` terms comes out within

    gamma_{n + c} (sum_i |w_i| |v_i| + |b|) + underflow,    gamma_m = m u / (1 - m u), u = 2^-24

whatever the order of the sum, and with or without fused multiply-add (Higham 2002, section 3.1 and
lemma 8.2); `c` counts the roundings of a term beside those of the sum. Terms that are zero for
sure, those of dead ReLUs, take no part in `n`: adding zero rounds nothing. And the bound, in
float64: its centres, rows and charges obey the same formula with `u = 2^-53`, and all of them are
charged against the same sum of absolute values, so that both take one number, the `deviation`.

Not covered: arithmetic that is no sum of products rounded to float32, such as TensorFloat-32,
bfloat16, and convolutions by Winograd's or Fourier transforms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.graph.convolutions import Convolution, DepthwiseConv2D
from robustra_tf.graph.graph import Node
from robustra_tf.graph.ops import Add, AffineOp, Dense, Reshape, Scale
from robustra_tf.graph.registry import PerOperation
from robustra_tf.graph.selection import Permute, Pick, Take
from robustra_tf.graph.spatial import Pad2D, Pool2D, Windowed

#: Unit roundoffs.
UNIT32, UNIT64 = 2.0**-24, 2.0**-53
#: The smallest normal float32: what flushing to zero loses at most, per operation.
SMALLEST = 2.0**-126
#: A quarter of float32's range: no sum of terms that keep below it overflows.
LARGEST = 2.0**126
#: What underflow in float64, flushed or not, can add up to in a whole bound, many times over.
TINY = 1e-100
#: Bounds are widened by this share of their deviation, for a checker to find them wide enough
#: that rounds otherwise.
SLACK = 2.0**-20
#: Float64 roundings are counted this many times: for a centre, its row, its width and their sum.
_TIMES = 8
#: Roundings of a term beside those of its sum: the bias's addition and a cast.
_DENSE = 2
#: The sum's division, by a rounded reciprocal, and a cast.
_POOL = 4
#: A square root within 4 ulp, a quotient, products and sums of a normalisation: ten, and to spare.
_SCALE = 16
#: Roundings of float64 coefficients and of what surrounds an operation.
_AROUND = 32
#: What may be computed in one with the sum that follows.
_SUMS = (Dense, Windowed)
#: Below this, flushing the numbers under a square root could be felt.
_ROOM = 2.0**-100


class Deviation(NamedTuple):
    """How far an operation's outputs can be off `A v + b` for inputs `|v| <= magnitude`.

    Attributes:
      each: [n, *shape].
      safe: boolean [n]: nothing overflows in float32. Elsewhere `each` means nothing.
    """

    each: tf.Tensor
    safe: tf.Tensor


def gamma(count: int, unit: float) -> float:
    """Higham's `gamma_count`; infinite where it says nothing."""
    product = count * unit
    return product / (1 - product) if product < 0.5 else math.inf


def deviation(
    node: Node,
    weights: Sequence[tf.Tensor],
    consumers: int,
    *magnitudes: tf.Tensor,
    before: Sequence[Node] = (),
) -> Deviation:
    """The deviation of an affine node's outputs, in float32 and of a bound in float64 together.

    Args:
      node: an affine node.
      weights: all of the graph's, float64.
      consumers: how many nodes read it, and how many at most one of its inputs.
      magnitudes: for each input, at least its absolute value, [n, *shape], float64.
      before: of an `Add`, the nodes that it reads: where a library computes a convolution and the
        sum in one, what is added may round as often as the convolution's terms.
    """
    op, own = node.affine, tuple(weights[i] for i in node.weights)
    largest = tf.add_n([_largest(m) for m in magnitudes])
    safe = functools.reduce(tf.logical_and, map(bounded, magnitudes))
    counted = counts(op)
    if counted is None:
        shape = (tf.shape(magnitudes[0])[0], *op.out_shape)
        return Deviation(tf.zeros(shape, tf.float64), safe)
    reach, coefficients, sane = _terms(op, own, *magnitudes)
    terms, rows, extra = counted
    if isinstance(op, Add):
        terms += max((counts(n.op).terms for n in before if isinstance(n.op, _SUMS)), default=0)
    product = UNIT32 * (_present(op, own, terms, *magnitudes) + extra)
    rate = tf.where(product < 0.5, product / (1 - product), math.inf) * (1 + SLACK)
    rate += gamma(_TIMES * (terms + rows + consumers + _AROUND), UNIT64)
    flushed = 4 * SMALLEST * (terms + 1) * (largest + coefficients + 4)
    safe = safe & bounded(reach) & (coefficients <= LARGEST) & sane
    return Deviation(rate * reach + tf.reshape(flushed, (-1,) + (1,) * len(op.out_shape)), safe)


def bounded(x: tf.Tensor) -> tf.Tensor:
    """Whether no entry of an example is above `LARGEST` or not a number, [n]."""
    return tf.reduce_all(tf.reshape(x, (tf.shape(x)[0], -1)) <= LARGEST, 1)


def _largest(x: tf.Tensor) -> tf.Tensor:
    """The largest entry of each example, [n]."""
    return tf.reduce_max(tf.reshape(x, (tf.shape(x)[0], -1)), 1)


def _present(
    op: AffineOp, weights: tuple[tf.Tensor, ...], terms: int, *magnitudes: tf.Tensor
) -> tf.Tensor:
    """How many terms of each output may be other than zero; `terms` where nobody counts."""
    if not isinstance(op, Dense | Windowed) or isinstance(op, Pool2D | Pick):
        return tf.constant(float(terms), tf.float64)
    there = tf.cast(magnitudes[0] != 0, tf.float64)
    return op.linear(there, *(tf.cast(w != 0, tf.float64) for w in weights))


class Counts(NamedTuple):
    """Numbers that rounding errors of an operation grow with.

    Attributes:
      terms: summed up for an output.
      rows: summed up for a coefficient that is carried backward.
      extra: roundings of a term beside those of the sum.
    """

    terms: int
    rows: int
    extra: int


#: `(op) -> Counts | None`: what rounding grows with; None where arithmetic is exact.
counts = PerOperation("whose rounding is known")


@counts.of(Dense)
def _(op: Dense) -> Counts:
    return Counts(op.inputs, op.units, _DENSE)


@counts.of(Pool2D)
def _(op: Pool2D) -> Counts:
    return Counts(math.prod(op.size), math.prod(op.size), _POOL)


@counts.of(Convolution)
def _(op: Convolution) -> Counts:
    window = math.prod(op.size)
    return Counts(window * op.shape[2], window * op.filters, _DENSE)


@counts.of(DepthwiseConv2D)
def _(op: DepthwiseConv2D) -> Counts:
    window = math.prod(op.size)
    return Counts(window, window * op.multiplier, _DENSE)


@counts.of(Pick)
def _(op: Pick) -> Counts:
    # An entry less another one; coefficients come from every place of every window over an entry.
    return Counts(2, math.prod(op.size) * len(op.plus), 0)


@counts.of(Take)
def _(op: Take) -> Counts | None:
    # Moved forward, nothing is rounded; backward, the coefficients of what repeats are added up.
    return None if op.diagonal else Counts(0, op.repeats, 0)


@counts.of(Add)
def _(op: Add) -> Counts:
    return Counts(op.count, 1, 0)


@counts.of(Scale)
def _(op: Scale) -> Counts:
    return Counts(1, 1, _SCALE)


@counts.of(Reshape, Pad2D, Permute)
def _(op: AffineOp) -> None:
    return None


class _Terms(NamedTuple):
    """What is added up for the outputs of an operation.

    Attributes:
      reach: the sum of the absolute values, [n, *shape].
      largest: the largest coefficient.
      sane: whether every coefficient can be trusted to its last digits.
    """

    reach: tf.Tensor
    largest: tf.Tensor
    sane: tf.Tensor


def _terms(op: AffineOp, weights: tuple[tf.Tensor, ...], *inputs: tf.Tensor) -> _Terms:
    sane = tf.constant(True)
    if isinstance(op, Add):
        return _Terms(tf.add_n(inputs), tf.ones((), tf.float64), sane)
    if not isinstance(op, Scale):
        absolute = tuple(map(tf.abs, weights))
        largest = [tf.reduce_max(w) for w in absolute] or [tf.ones((), tf.float64)]
        # The signs of a Pick's taps are its own, not those of weights.
        total = op.absolute if isinstance(op, Pick) else op.forward
        return _Terms(total(*inputs, *absolute), tf.reduce_max(tf.stack(largest)), sane)
    scale, shift = map(tf.abs, op.coefficients(weights, tf.float64))
    # `scale (x - mean) + centre` in whichever order: `shift` may hide that the two cancel.
    mean = centre = tf.zeros((), tf.float64)
    if op.kind == "constant":
        centre = shift
    elif op.kind not in ("slope", "complement"):
        mean, variance = tf.abs(weights[-2]), weights[-1]
        if op.use_centre:
            centre = tf.abs(weights[int(op.use_scale)])
        root = op.epsilon**2 if op.kind == "standardise" else op.epsilon
        sane = tf.reduce_all((variance >= 0) & (variance + root >= _ROOM))
    parts = [scale, mean, centre, *map(tf.abs, weights)]
    largest = tf.reduce_max(tf.stack([tf.reduce_max(part) for part in parts]))
    return _Terms(scale * (inputs[0] + mean) + centre, largest, sane)
