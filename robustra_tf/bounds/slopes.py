"""Lower slopes optimised for every row: the descent that serves margins and inner layers alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from robustra_tf.bounds.frames import Frame
from robustra_tf.bounds.interval import Interval, lesser
from robustra_tf.bounds.lines import lines
from robustra_tf.bounds.rows import Rows, WindowRows
from robustra_tf.bounds.runs import Passage, Visit, unchanged

#: Numbers that a coefficient behind a ReLU has at once in a step: slope, lines, moments, gradients.
HELD = 14


class Reach(Protocol):
    """How far rows reach, one number per row, of the ways in which they pass ReLUs.

    There is a visit where every passage has to be spelled out.
    """

    def __call__(self, relus: Mapping[int, Passage], /, visit: Visit | None = None) -> tf.Tensor:
        """[rows]."""
        ...


@dataclasses.dataclass(frozen=True)
class Descent:
    """How slopes are optimised: Adam, kept within [0, 1], the best bound of all steps counting.

    Attributes:
      steps: how often slopes are moved; a tensor serves any number without retracing.
      rate: Adam's, falling to a tenth along the steps.
    """

    steps: int | tf.Tensor = 20
    rate: float = 0.2


class Free(NamedTuple):
    """A ReLU whose lower lines are free, seen from a point as in `Strip`, [n, *shape] each.

    Attributes:
      upper, above: the upper line.
      point: the ReLU's input at the point.
      crossing: 1 where the slope is free, 0 where the ReLU is stable.
      start: the slope that a descent begins with; where the ReLU is stable, its own.
    """

    upper: tf.Tensor
    above: tf.Tensor
    point: tf.Tensor
    crossing: tf.Tensor
    start: tf.Tensor


def free(bounds: Interval, point: tf.Tensor) -> Free:
    """A ReLU between `bounds`, with CROWN's slopes to begin with."""
    relu, (low, high) = lines(*bounds), bounds
    crossing = tf.cast(relu.crossing, point.dtype)
    start = tf.where(relu.crossing, tf.cast(high > -low, point.dtype), relu.upper)
    above = relu.upper * point + relu.intercept - tf.nn.relu(point)
    return Free(relu.upper, above, point, crossing, start)


class Sloped(NamedTuple):
    """A free ReLU with a slope for every coefficient, all of them laid out as its rows are."""

    relu: Free
    slope: tf.Tensor

    def past(self, rows: Rows, frame: Frame) -> tuple[Rows, tf.Tensor]:
        """As `Strip.past`; gradients reach the coefficients and the free slopes."""
        trailing = 3 if isinstance(rows, WindowRows) else len(rows.trailing)
        axes = list(range(-trailing, 0))

        # All that it reads is an argument: TensorFlow looks for variables among what is not.
        @tf.custom_gradient
        def run(values: tf.Tensor, slope: tf.Tensor, *laid: tf.Tensor) -> Any:
            relu, positive = Free(*laid), values > 0
            line = tf.where(positive, relu.upper, slope)
            gap = tf.where(positive, relu.above, slope * relu.point - tf.nn.relu(relu.point))

            def gradient(upstream: tf.Tensor, charged: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
                column = tf.reshape(charged, tf.concat([tf.shape(charged), [1] * trailing], 0))
                negative = tf.where(positive, tf.zeros_like(values), values * relu.crossing)
                slant = negative * (upstream + column * relu.point)
                return upstream * line + column * gap, slant, *[None] * len(laid)

            return (values * line, tf.reduce_sum(values * gap, axes)), gradient

        passed, charge = run(rows.values, self.slope, *self.relu)
        return rows.with_values(passed, clean=True), charge


class Recorder:
    """Passes rows as a free ReLU does at first, and keeps how they are laid out."""

    def __init__(self, relu: Free):
        self._relu = relu
        self.laid: Sloped | None = None

    def past(self, rows: Rows, frame: Frame) -> tuple[Rows, tf.Tensor]:
        """As `Strip.past`."""
        laid = Free(*frame.align(rows, *self._relu))
        shape = tf.broadcast_dynamic_shape(tf.shape(laid.start), tf.shape(rows.values))
        slope = tf.broadcast_to(laid.start, shape)
        slope.set_shape(rows.values.shape)
        self.laid = Sloped(laid, slope)
        return self.laid.past(rows, frame)


class Begin(NamedTuple):
    """Where the descent of a ReLU's slopes goes on, laid out as the rows are.

    Attributes:
      slope: the slopes.
      square: Adam's mean of the squares of their gradients, by which it scales its steps.
    """

    slope: tf.Tensor
    square: tf.Tensor


class Lowest(NamedTuple):
    """What a descent has found.

    Attributes:
      least: the least reach of every row.
      slopes: of every ReLU that the rows meet, those that it was found at.
    """

    least: tf.Tensor
    slopes: dict[int, Begin]


def lowest(
    reach: Reach,
    relus: Mapping[int, Free],
    descent: Descent,
    begin: Mapping[int, Begin] | None = None,
) -> tf.Tensor:
    """The least `reach` that is found over the lower slopes of every row.

    Args:
      reach: how far rows reach that pass ReLUs in the given way, one number per row.
      relus: those that the rows may meet.
      descent: how.
      begin: of every ReLU, what another descent of such rows has found; without one, CROWN's
        slopes.
    """
    return _descended(reach, relus, descent, begin or {}, keep=False).least


def lowest_at(reach: Reach, relus: Mapping[int, Free], descent: Descent) -> Lowest:
    """As `lowest`, with the slopes that it was found at."""
    return _descended(reach, relus, descent, {}, keep=True)


def _descended(
    reach: Reach,
    relus: Mapping[int, Free],
    descent: Descent,
    begin: Mapping[int, Begin],
    *,
    keep: bool,
) -> Lowest:
    """The descent; slopes are kept where they are wanted, which takes memory and time."""
    recorders = {at: Recorder(relu) for at, relu in relus.items()}
    # Of what this pass computes only the layout is used.
    first = reach(recorders, unchanged)
    laid = {at: each.laid for at, each in recorders.items() if each.laid is not None}
    if not laid:
        return Lowest(first, {})
    order = sorted(laid)
    start = [begin[at].slope if begin else laid[at].slope for at in order]
    nothing = [tf.zeros_like(slope) for slope in start]
    squares = [begin[at].square for at in order] if begin else nothing
    kept = start if keep else []

    def reached(slopes: list[tf.Tensor]) -> tf.Tensor:
        pairs = zip(order, slopes, strict=True)
        return reach({at: laid[at]._replace(slope=slope) for at, slope in pairs}, None)

    def descend(k, best, kept, slopes, mean, square):
        with tf.GradientTape() as tape:
            tape.watch(slopes)
            found = reached(slopes)
        slant = tape.gradient(found, slopes, unconnected_gradients="zero")
        mean = [0.9 * m + 0.1 * g for m, g in zip(mean, slant, strict=True)]
        square = [0.99 * s + 0.01 * tf.square(g) for s, g in zip(square, slant, strict=True)]
        slow, fast = _scale(descent, k, found.dtype), _unbiased(k, found.dtype, bool(begin))
        moved = [
            tf.clip_by_value(slope - slow * m / (tf.sqrt(fast * s) + 1e-12), 0.0, 1.0)
            for slope, m, s in zip(slopes, mean, square, strict=True)
        ]
        better = found < best
        kept = [
            tf.where(_beside(better, slope), slope, old)
            for slope, old in zip(slopes, kept, strict=False)
        ]
        return k + 1, lesser(best, found), kept, moved, mean, square

    unknown = tf.fill(tf.shape(first), tf.constant(float("inf"), first.dtype))
    k, best, kept, _, _, square = tf.while_loop(
        lambda k, *_: k <= descent.steps,
        descend,
        (tf.constant(0), unknown, kept, start, nothing, squares),
        parallel_iterations=1,
    )
    least = tf.stop_gradient(tf.ensure_shape(best, first.shape))
    fast = _unbiased(k - 1, first.dtype, bool(begin))
    found = (
        Begin(tf.stop_gradient(slope), tf.stop_gradient(fast * s))
        for slope, s in zip(kept, square, strict=False)
    )
    return Lowest(least, dict(zip(order, found, strict=False)))


def _scale(descent: Descent, k: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The rate of step `k`, over what makes up for means that begin with 0."""
    count = tf.cast(k, dtype)
    rate = descent.rate * 0.1 ** (count / tf.cast(descent.steps, dtype))
    return rate / (1 - 0.9 ** (count + 1))


def _unbiased(k: tf.Tensor, dtype: tf.DType, warm: bool) -> tf.Tensor:
    """What makes up for squares that begin with 0; those of a `warm` start do not."""
    count = tf.cast(k, dtype)
    return tf.ones_like(count) if warm else 1 / (1 - 0.99 ** (count + 1))


def _beside(chosen: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """A number for each row as it stands beside what rows have, [*lead, ...]."""
    further = values.shape.rank - chosen.shape.rank
    return tf.reshape(chosen, tf.concat([tf.shape(chosen), [1] * further], 0))
