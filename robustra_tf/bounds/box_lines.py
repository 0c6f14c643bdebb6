"""Of many boxes the lines of ReLUs, and the ends of neurons as rules give them.

Whoever follows these rules finds the same ends, however they round.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.interval import Interval
from robustra_tf.bounds.lines import lines
from robustra_tf.bounds.relu import unstable

# Far above what float64 loses of a bound, and far below what matters.
_HAIR = 1e-10


class Lines(NamedTuple):
    """The lines of a ReLU's neurons, [n, *shape] each: `lower z <= v <= upper z + intercept`.

    `slack` is how far the lower line may be off.
    """

    upper: tf.Tensor
    intercept: tf.Tensor
    lower: tf.Tensor
    slack: tf.Tensor


def lines_of(low: tf.Tensor, high: tf.Tensor) -> Lines:
    """CROWN's: the lower slope that leaves the smaller area."""
    found = lines(low, high)
    zero = tf.zeros_like(high)
    lower = tf.where(found.crossing, tf.cast(high > -low, high.dtype), found.active)
    slack = tf.where(found.crossing, tf.minimum(high, -low), zero)
    return Lines(found.upper, found.intercept, lower, slack)


def counted(these: tf.Tensor) -> tf.Tensor:
    """How many of each box [n]."""
    return tf.reduce_sum(tf.cast(these, tf.float32), list(range(1, these.shape.rank)))


def _hair(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """What others that round otherwise may find ends off, and more: [n, *shape]."""
    size = tf.maximum(tf.abs(low), tf.abs(high))
    axes = list(range(1, size.shape.rank))
    return _HAIR * (size + tf.reduce_max(size, axes, keepdims=True))


def wider(ends: Interval) -> Interval:
    """Ends a hair wider."""
    hair = _hair(*ends)
    return ends[0] - hair, ends[1] + hair


def where_open(ends: Interval, finer: Interval) -> Interval:
    """The better of both, but of what is on either side alone."""
    open_ = unstable(*ends)
    low, high = tf.maximum(ends[0], finer[0]), tf.minimum(ends[1], finer[1])
    return tf.where(open_, low, ends[0]), tf.where(open_, high, ends[1])


def ties(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """Of each box, what has two lower lines that are as good as each other up to a hair."""
    close = tf.abs(low + high) <= 4.0 * _hair(low, high)
    return counted(tf.logical_and(unstable(low, high), close))
