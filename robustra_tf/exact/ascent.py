"""The best multipliers by ascent, and what the minimum of a relaxation says."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.exact.dense import Block, Dense, Lines, Region
from robustra_tf.exact.multipliers import (
    Kind,
    Multipliers,
    Pass,
    Problem,
    backward,
    certified,
    join_groups,
    split_groups,
)
from robustra_tf.intake.deadline import timestamp

# Adam's.
_MEAN, _SQUARE = 0.9, 0.99
_TINY = 1e-12


class Attained(NamedTuple):
    """Where a relaxation attains the bound: what the bound's derivatives are.

    Attributes:
      image: the pixels [k, n].
      before, after: of every group the pre-activations and the units [k, m_g].
    """

    image: tf.Tensor
    before: list[tf.Tensor]
    after: list[tf.Tensor]


def attained(dense: Dense, found: Pass, kind: Kind) -> Attained:
    """The minimum of the relaxation that a backward pass has found."""
    pixels, sizes = dense.layout[0], dense.widths
    image = dense.region.lowest(tf.concat(found.image, 1), kind.norm)
    inputs = tf.split(image, sizes, axis=1)
    before, after = [], []
    offsets = split_groups(dense.offset, dense)
    for blocks, count, offset, here, line in zip(
        dense.weights, dense.sizes, offsets, found.unit, found.lines, strict=True
    ):
        sources = [*inputs[:pixels], *after]
        read = (block.applied(u, count) for block, u in zip(blocks, sources, strict=True))
        z = tf.add_n(list(read)) + offset
        above = here < 0
        before.append(z)
        after.append(tf.where(above, line.upper * z + line.intercept, line.lower * z))
    return Attained(image, before, after)


def ascent(
    dense: Dense, problem: Problem, given: Multipliers, kind: Kind
) -> tuple[tf.Tensor, Multipliers]:
    """The bounds [k], and their derivatives in the multipliers."""
    found = backward(dense, problem, given, kind)
    at = attained(dense, found, kind)
    z, behind = (join_groups(part, given.unit) for part in (at.before, found.unit))
    free = tf.nn.relu(behind) * z * problem.lines.free
    unit = tf.where(problem.phases == 0, free, -problem.phases * z)
    mix = tf.zeros_like(given.mix)
    if problem.rows.shape[1] != 1:
        u = tf.concat([at.image, *at.after], 1)
        values = tf.linalg.matvec(problem.rows, u) + problem.constants
        if kind.cut:
            mix = tf.concat([tf.zeros_like(values[:, :1]), values[:, 1:]], 1)
        else:
            total = tf.reduce_sum(given.mix, 1, keepdims=True)
            mean = tf.reduce_sum(values * given.mix, 1, keepdims=True) / total
            mix = (values - mean) / total
    return found.bound, Multipliers(unit, mix)


class Pace(NamedTuple):
    """How an ascent goes.

    Attributes:
      steps: of Adam, at most.
      rate: the first one's; the last one's is a tenth of it.
      until: no step is begun from there on, as `tf.timestamp` counts.
    """

    steps: tf.Tensor
    rate: tf.Tensor
    until: tf.Tensor

    @classmethod
    def of(cls, steps: int, rate: float, deadline: float = math.inf) -> Pace:
        """Of numbers, and of a time of `time.monotonic`."""
        kinds = (tf.int32, tf.float32, tf.float64)
        numbers = zip((steps, rate, timestamp(deadline)), kinds, strict=True)
        return cls(*(tf.constant(number, kind) for number, kind in numbers))


def climbed(
    dense: Dense,
    problem: Problem,
    first: Multipliers,
    kind: Kind,
    pace: Pace,
) -> tuple[tf.Tensor, Multipliers]:
    """The best bounds [k] of some steps of Adam from `first`, and what they follow from."""
    steps, rate, until = pace
    fixed = tf.abs(problem.phases) > 0
    most = tf.where(fixed, tf.constant(float("inf"), first.unit.dtype), 1.0)

    def climb(k, best, kept, given, mean, square):
        bound, slopes = ascent(dense, problem, given, kind)
        count = tf.cast(k, bound.dtype)
        kept = _better(bound > best, given, kept)
        size = rate * 0.1 ** (count / tf.cast(steps, bound.dtype))
        mean = _mapped(lambda m, g: _MEAN * m + (1 - _MEAN) * g, mean, slopes)
        square = _mapped(lambda s, g: _SQUARE * s + (1 - _SQUARE) * g * g, square, slopes)
        size *= tf.sqrt(1 - _SQUARE ** (count + 1)) / (1 - _MEAN ** (count + 1))
        moved = _mapped(
            lambda leaf, m, s: leaf + size * m / (tf.sqrt(s) + _TINY), given, mean, square
        )
        unit = tf.minimum(tf.nn.relu(moved.unit), most)
        mix = tf.nn.relu(moved.mix) + (0.0 if kind.cut else _TINY)
        given = Multipliers(unit, mix)
        return k + 1, tf.maximum(best, bound), kept, given, mean, square

    nothing = _mapped(tf.zeros_like, first)
    worst = tf.fill(tf.shape(first.mix)[:1], tf.constant(float("-inf"), first.mix.dtype))
    start = (tf.constant(0), worst, first, first, nothing, nothing)
    _, best, kept, last, _, _ = tf.while_loop(
        lambda k, *_: (k < steps) & (tf.timestamp() < until),
        climb,
        start,
        parallel_iterations=1,
        maximum_iterations=steps,
    )
    bound = backward(dense, problem, last, kind).bound
    return tf.maximum(best, bound), _better(bound > best, last, kept)


def _mapped(function: Callable, *nests: Multipliers) -> Multipliers:
    return Multipliers(*(function(*leaves) for leaves in zip(*nests, strict=True)))


def _better(mask: tf.Tensor, first: Multipliers, second: Multipliers) -> Multipliers:
    return _mapped(lambda a, b: tf.where(mask[:, None], a, b), first, second)


class Explored(NamedTuple):
    """What the relaxation's own minimum says of each domain.

    Attributes:
      score: [k, m] what the relaxation of each open ReLU costs the bound; -inf of the others.
      pull: [k, m] the coefficients on them.
      point: [k, n] the pixels.
      margin: [k] the greatest of the network's own margins there, in float32.
    """

    score: tf.Tensor
    pull: tf.Tensor
    point: tf.Tensor
    margin: tf.Tensor


def explored(dense: Dense, problem: Problem, given: Multipliers, kind: Kind) -> Explored:
    """What the minima of the relaxations are worth."""
    found = backward(dense, problem, given, kind)
    at = attained(dense, found, kind)
    parts = (at.before, at.after, found.unit)
    z, h, behind = (join_groups(part, given.unit) for part in parts)
    chosen = tf.logical_and(problem.phases == 0, problem.lines.free > 0)
    score = tf.where(chosen, tf.abs(behind * (h - tf.nn.relu(z))), float("-inf"))
    u = forward(dense, at.image)
    margin = tf.reduce_max(tf.linalg.matvec(problem.rows, u) + problem.constants, 1)
    return Explored(score, behind, at.image, margin)


def forward(dense: Dense, x: tf.Tensor) -> tf.Tensor:
    """`u` [k, n + m] at inputs [k, n], as the network computes it."""
    sources = tf.split(x, dense.widths, axis=1)
    parts = [split_groups(part, dense) for part in (dense.offset, dense.relu)]
    for blocks, count, offset, relu in zip(dense.weights, dense.sizes, *parts, strict=True):
        read = (block.applied(u, count) for block, u in zip(blocks, sources, strict=True))
        z = tf.add_n(list(read)) + offset
        sources.append(tf.where(relu > 0, tf.nn.relu(z), z))
    return tf.concat(sources, 1)


class Engine(NamedTuple):
    """The functions of networks of one layout and one norm, traced once for all sizes."""

    climbed: Callable
    bounded: Callable
    certified: Callable
    explored: Callable
    valued: Callable


@functools.lru_cache(maxsize=64)
def engine(layout: tuple[int, int], kind: Kind, margins: int) -> Engine:
    """The compiled functions.

    Args:
      layout: `Dense.layout`.
      kind: of the problems.
      margins: how many a problem has.
    """

    def signature(dtype):
        one, two = (tf.TensorSpec((None,) * rank, dtype) for rank in (1, 2))
        three, number = tf.TensorSpec((None, margins, None), dtype), tf.TensorSpec((), tf.int32)
        region = Region(one, one, one, tf.TensorSpec((), dtype))
        pixels, groups = layout
        weights = tuple((Block(two, number),) * (pixels + earlier) for earlier in range(groups))
        network = Dense(weights, (number,) * groups, one, one, one, one, region)
        return network, Problem(three, two, two, Lines(two, two, two)), Multipliers(two, two)

    single, double = signature(tf.float32), signature(tf.float64)
    pace = Pace(*(tf.TensorSpec((), dtype) for dtype in (tf.int32, tf.float32, tf.float64)))

    @tf.function(autograph=False, input_signature=(*single, pace))
    def climb(network, problem, first, pace):
        return climbed(network, problem, first, kind, pace)

    @tf.function(autograph=False, input_signature=single)
    def bound(network, problem, given):
        return backward(network, problem, given, kind).bound

    @tf.function(autograph=False, input_signature=double)
    def certify(network, problem, given):
        return certified(network, problem, given, kind)

    @tf.function(autograph=False, input_signature=single)
    def explore(network, problem, given):
        return explored(network, problem, given, kind)

    @tf.function(
        autograph=False, input_signature=(double[0], tf.TensorSpec((None, None), tf.float64))
    )
    def value(network, x):
        return forward(network, x)

    return Engine(climb, bound, certify, explore, value)
