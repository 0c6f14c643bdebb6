"""Lower bounds of margins from multipliers: any of them are valid, the best are found by ascent.

A domain is the ball with some phases fixed. A margin `r . u + d` goes backward through the groups
of a restricted network. An unstable ReLU with coefficient `a >= 0` takes a lower line `alpha z`,
`alpha` in [0, 1], one with `a < 0` its upper line; a fixed phase `s` (+1: `z >= 0`, -1: `z <= 0`)
makes the ReLU linear, and its constraint `s z >= 0` enters with a multiplier `beta >= 0`:

  nu = a^+ alpha + a^- slope - s beta,   d += a^- . intercept + nu . c,   r += nu W.

With the bounds of pre-activations held fixed, the best multipliers reach the optimum of the
triangle relaxation with these phases (S. Wang et al., *Beta-CROWN*, NeurIPS 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from robustra_tf.exact.dense import Dense, Lines

# Float64 of a bound: a share of all that is added up, for each number in the longest sum.
_UNIT = 2.0**-52
_SAFETY = 8.0


class Problem(NamedTuple):
    """Margins to bound, each on a domain of its own.

    Attributes:
      rows: [k, j, n + m] margins, of which the greatest counts; j is 1 for most. Of a cut problem,
        the first is what is bounded where all others are at most 0.
      constants: [k, j].
      phases: [k, m], 1 or -1 where a ReLU's phase is fixed, else 0.
      lines: between the bounds of the units.
    """

    rows: tf.Tensor
    constants: tf.Tensor
    phases: tf.Tensor
    lines: Lines


class Kind(NamedTuple):
    """What is the same for all problems of a search.

    Attributes:
      norm: of the ball, "linf" or "l1".
      cut: whether problems are cut: for points where all margins but the first are at most 0,
        any weights of these at least 0 give a lower bound of the first (S. Kotha et al., *Provably
        bounding neural network preimages*, NeurIPS 2023).
    """

    norm: str
    cut: bool = False


class Multipliers(NamedTuple):
    """What a bound follows from.

    Attributes:
      unit: [k, m] of a fixed phase `beta`, at least 0; else `alpha`, within [0, 1].
      mix: [k, j] weights of the margins, at least 0; they are divided by their sum. Of a cut
        problem the first is 1, and they are taken as they are.
    """

    unit: tf.Tensor
    mix: tf.Tensor


class Chosen(NamedTuple):
    """Of one group, for every domain [k, m_g]: what `a^+` and `a^-` are multiplied by, and more.

    Attributes:
      lower, upper: the slopes of the lines below and above.
      intercept: of the line above.
      extra: `-s beta`.
    """

    lower: tf.Tensor
    upper: tf.Tensor
    intercept: tf.Tensor
    extra: tf.Tensor


class Pass(NamedTuple):
    """One backward pass.

    Attributes:
      bound: [k].
      image: the coefficients on the pixels, [k, width] for every block of them.
      unit: of every group those on the units [k, m_g].
      nu: of every group those on the pre-activations [k, m_g].
      lines: of every group.
    """

    bound: tf.Tensor
    image: list[tf.Tensor]
    unit: list[tf.Tensor]
    nu: list[tf.Tensor]
    lines: list[Chosen]


def backward(dense: Dense, problem: Problem, given: Multipliers, kind: Kind) -> Pass:
    """The bounds that multipliers prove."""
    mix = _weights(given, kind)
    rows = tf.reduce_sum(problem.rows * mix[..., None], 1)
    total = tf.reduce_sum(problem.constants * mix, 1)
    pixels, groups = dense.layout
    sizes = dense.widths
    parts = tf.split(rows, [*sizes, *dense.sizes], axis=1)
    image, units = parts[:pixels], parts[pixels:]
    lines, offset = _lines(dense, problem, given), split_groups(dense.offset, dense)
    nus = []
    for group in reversed(range(groups)):
        line, here = lines[group], units[group]
        positive = tf.nn.relu(here)
        negative = here - positive
        nu = positive * line.lower + negative * line.upper + line.extra
        total += tf.reduce_sum(negative * line.intercept, 1)
        total += tf.linalg.matvec(nu, offset[group])
        blocks = dense.weights[group]
        image = [a + block.times(nu) for a, block in zip(image, blocks[:pixels], strict=True)]
        for earlier, block in enumerate(blocks[pixels:]):
            units[earlier] += block.times(nu)
        nus.insert(0, nu)
    if kind.norm == "linf":
        lows, highs = (tf.split(end, sizes) for end in dense.region[:2])
        for rows, low, high in zip(image, lows, highs, strict=True):
            total += tf.linalg.matvec(rows, 0.5 * (low + high))
            total -= tf.linalg.matvec(tf.abs(rows), 0.5 * (high - low))
    else:
        rows = tf.concat(image, 1)
        total += tf.reduce_sum(rows * dense.region.lowest(rows, kind.norm), 1)
    return Pass(total, image, units, nus, lines)


def _weights(given: Multipliers, kind: Kind) -> tf.Tensor:
    return given.mix if kind.cut else given.mix / tf.reduce_sum(given.mix, 1, keepdims=True)


def _lines(dense: Dense, problem: Problem, given: Multipliers) -> list[Chosen]:
    open_, lines = problem.phases == 0, problem.lines
    upper = tf.where(open_, lines.slope, tf.nn.relu(problem.phases))
    lower = tf.where(tf.logical_and(open_, lines.free > 0), given.unit, upper)
    intercept = tf.where(open_, lines.intercept, tf.zeros_like(upper))
    parts = (lower, upper, intercept, -problem.phases * given.unit)
    split = (split_groups(part, dense) for part in parts)
    return [Chosen(*group) for group in zip(*split, strict=True)]


def split_groups(values: tf.Tensor, dense: Dense) -> list[tf.Tensor]:
    """Values [..., m] group by group."""
    return tf.split(values, list(dense.sizes), axis=-1) if dense.sizes else []


def join_groups(groups: list[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    """The opposite; of no groups as `like` is."""
    return tf.concat(groups, -1) if groups else like


def certified(dense: Dense, problem: Problem, given: Multipliers, kind: Kind) -> tf.Tensor:
    """`backward`'s bounds in float64, less what their rounding may be; not a number is -inf: [k].

    Every coefficient is taken as it was computed: what was rounded in it is at most a share of the
    absolute values in its sum, and moves the margin by no more than that times the largest unit.
    """
    found, mix = backward(dense, problem, given, kind), _weights(given, kind)
    mixed = tf.einsum("kj,kju->ku", mix, tf.abs(problem.rows))
    size = tf.linalg.matvec(mixed, dense.farthest)
    size += tf.reduce_sum(tf.abs(problem.constants) * mix, 1)
    parts = (found.nu, found.unit, found.image)
    nu, unit, image = (tf.abs(join_groups(part, given.unit)) for part in parts)
    size += tf.linalg.matvec(nu, dense.reach)
    size += tf.reduce_sum(unit * (dense.top + problem.lines.intercept), 1)
    size += tf.linalg.matvec(image, dense.farthest[: tf.shape(image)[1]])
    count = tf.cast(tf.reduce_sum(tf.shape(problem.rows)[1:]) + 8, size.dtype)
    bound = found.bound - _SAFETY * _UNIT * count * size
    return tf.where(tf.math.is_finite(bound), bound, float("-inf"))
