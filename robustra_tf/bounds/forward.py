"""Two affine functions of the inputs that move, between which a layer lies, pushed forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.clips import Clip, greatest
from robustra_tf.bounds.interval import Interval
from robustra_tf.bounds.relu import unstable


class Between(NamedTuple):
    """`middle - gap <= v <= middle + gap`, both affine in k inputs, each scaled to [-1, 1].

    Along the second axis are the k slopes, the constant, and last an interval about `v` as its
    middle and its half width, [n, k + 2, *shape] in all. An affine operation maps the one by `A`
    and the other by `|A|`, the interval with them: with the ends themselves it would take four
    products in place of two.
    """

    middle: tf.Tensor
    gap: tf.Tensor

    @property
    def ends(self) -> Interval:
        """The bounds that follow, [n, *shape] each: of both functions and of the interval."""
        (lower, upper), (below, above) = self._functions, self.interval
        return tf.maximum(lower.least, below), tf.minimum(upper.greatest, above)

    def within(self, clip: Clip | None) -> Interval:
        """The ends, of what is on either side by what both functions reach where it counts."""
        low, high = self.ends
        if clip is None:
            return low, high
        chosen = tf.cast(tf.where(unstable(low, high)), tf.int32)
        entries_last = (0, *range(2, self.middle.shape.rank), 1)
        lower, upper = (
            tf.gather_nd(tf.transpose(each.values, entries_last), chosen)
            for each in self._functions
        )
        below = greatest(clip, -lower[:, -1], -lower[:, :-1], chosen[:, 0])
        above = greatest(clip, upper[:, -1], upper[:, :-1], chosen[:, 0])
        low = tf.tensor_scatter_nd_max(low, chosen, -below)
        return low, tf.tensor_scatter_nd_min(high, chosen, above)

    @property
    def interval(self) -> Interval:
        """The interval alone, [n, *shape] each."""
        return self.middle[:, -1] - self.gap[:, -1], self.middle[:, -1] + self.gap[:, -1]

    @property
    def shares(self) -> tf.Tensor:
        """How much of each neuron's range is due to each input, [n, k, *shape]; sums to one."""
        sizes = tf.abs(self.middle[:, :-2])
        total = tf.reduce_sum(sizes, 1, keepdims=True)
        return tf.math.divide_no_nan(sizes, total)

    @property
    def _functions(self) -> tuple[_Affine, _Affine]:
        low, high = self.middle[:, :-1] - self.gap[:, :-1], self.middle[:, :-1] + self.gap[:, :-1]
        return _Affine(low), _Affine(high)

    def mapped(
        self,
        shape: tuple[int, ...],
        linear: Callable[[tf.Tensor], tf.Tensor],
        absolute: Callable[[tf.Tensor], tf.Tensor],
        offset: tf.Tensor,
    ) -> Between:
        """What it becomes by `A v + b`.

        Args:
          shape: of what comes out.
          linear, absolute: `A` and `|A|`, [m, *before] to [m, *shape].
          offset: `b` [1, *shape].
        """
        count = self.middle.shape[1]
        joint = (-1, *self.middle.shape[2:])
        middle = tf.reshape(linear(tf.reshape(self.middle, joint)), (-1, count, *shape))
        gap = tf.reshape(absolute(tf.reshape(self.gap, joint)), (-1, count, *shape))
        where = tf.constant([0.0] * (count - 2) + [1.0, 1.0], middle.dtype)
        where = tf.reshape(where, (count, *(1 for _ in shape)))
        return Between(middle + where * offset, gap)

    def past_relu(self, low: tf.Tensor, high: tf.Tensor) -> Between:
        """What it becomes by a ReLU of numbers that keep to [low, high].

        `relu(v)` is at most `relu` of the upper function, so its line may be over that function's
        own range or over the numbers': the one that is lower in the middle of the box is taken.
        """
        lower, upper = self._functions
        zero, one = tf.zeros_like(low), tf.ones_like(low)
        least = upper.least
        own = _chord(least, upper.greatest)
        numbers = _chord(low, high)
        at = upper.constant
        better = own[0] * at + own[1] <= numbers[0] * at + numbers[1]
        slope = tf.where(better, own[0], numbers[0])
        rise = tf.where(better, own[1], numbers[1])
        dead, active = high <= 0, low >= 0
        slope = tf.where(dead, zero, tf.where(active, one, slope))
        rise = tf.where(tf.logical_or(dead, active), zero, rise)
        # A lower function above 0 more than below it is kept, another one replaced by 0.
        kept = tf.where(dead, zero, tf.where(active, one, _above(lower.greatest, -lower.least)))
        above = slope[:, None] * upper.values
        above += tf.pad(
            rise[:, None], [[0, 0], [upper.slopes, 0]] + [[0, 0]] * (low.shape.rank - 1)
        )
        below = kept[:, None] * lower.values
        first, last = tf.nn.relu(low)[:, None], tf.nn.relu(high)[:, None]
        middle = 0.5 * tf.concat([above + below, first + last], 1)
        return Between(middle, 0.5 * tf.concat([above - below, last - first], 1))


class _Affine(NamedTuple):
    """Affine functions of k numbers in [-1, 1]: `values` [n, k + 1, *shape], the constant last."""

    values: tf.Tensor

    @property
    def slopes(self) -> int:
        return self.values.shape[1] - 1

    @property
    def constant(self) -> tf.Tensor:
        return self.values[:, -1]

    @property
    def reach(self) -> tf.Tensor:
        return tf.reduce_sum(tf.abs(self.values[:, :-1]), 1)

    @property
    def least(self) -> tf.Tensor:
        return self.constant - self.reach

    @property
    def greatest(self) -> tf.Tensor:
        return self.constant + self.reach


def _above(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    return tf.cast(first > second, first.dtype)


def _chord(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Slope and constant of the line above a ReLU over [low, high]."""
    crossing = unstable(low, high)
    slope = high / tf.where(crossing, high - low, tf.ones_like(high))
    slope = tf.where(crossing, slope, _above(high, tf.zeros_like(high)))
    return slope, tf.where(crossing, -slope * low, tf.zeros_like(low))


def boxed(still: tf.Tensor, places: tf.Tensor, middle: tf.Tensor, radius: tf.Tensor) -> Between:
    """The inputs themselves.

    Args:
      still: one input [*shape], 0 in what moves.
      places: [k] of the flattened input, what moves.
      middle, radius: [n, k], of each one's interval.
    """
    size = still.shape.num_elements()
    units = tf.one_hot(places, size, dtype=middle.dtype)
    slopes = radius[:, :, None] * units
    centre = (middle @ units + tf.reshape(still, (-1,)))[:, None]
    nothing = tf.zeros_like(slopes)
    width = (radius @ units)[:, None]
    parts = (
        tf.concat([slopes, centre, centre], 1),
        tf.concat([nothing, tf.zeros_like(centre), width], 1),
    )
    shape = (-1, middle.shape[1] + 2, *still.shape)
    return Between(*(tf.reshape(part, shape) for part in parts))
