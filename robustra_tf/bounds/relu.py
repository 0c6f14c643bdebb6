"""The relaxation of a ReLU between its pre-activation bounds."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Relaxation(NamedTuple):
    """`v = slope z + error (1 + e)`, `|e| <= 1`: what a ReLU may do between its bounds.

    For `l < 0 < u` the parallelogram of Wong and Kolter, `d z <= v <= d (z - l)` with
    `d = u / (u - l)`, is the line `d z - d l / 2` give or take `-d l / 2`. Seen so, the relaxed
    network is a zonotope: its centre is one forward pass, and backward rows serve only to add up
    absolute values, one row for the lower and the upper bound of a neuron together.

    Attributes:
      slope: `d` [n, *shape]; 1 where the ReLU is active, 0 where it is dead.
      error: `-d l / 2` [n, *shape]; 0 where the ReLU is stable.
      drop: `-l / 2` [n, *shape], where `error = slope drop`; None for errors of another kind.
    """

    slope: tf.Tensor
    error: tf.Tensor
    drop: tf.Tensor | None = None

    @property
    def lean(self) -> Relaxation:
        """Without what follows from the rest."""
        return self if self.drop is None else self._replace(error=None)

    @property
    def full(self) -> Relaxation:
        """With the error that `lean` leaves out."""
        return self._replace(error=self.slope * self.drop) if self.error is None else self

    def forward(self, centre: tf.Tensor) -> tf.Tensor:
        """The centre of `v` from the centre of `z`."""
        return self.slope * centre + self.error


def unstable(lower: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
    """Where `lower < 0 < upper`, boolean."""
    return tf.logical_and(lower < 0, upper > 0)


def known(lower: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
    """Where bounds say something, boolean: both are finite numbers, and so is their distance.

    Elsewhere every comparison with them would make up a phase: `NaN > 0` is false, which reads as
    dead, and `u / (u - l)` is 0 where `u - l` overflows.
    """
    return tf.math.is_finite(upper - lower)


def relax(lower: tf.Tensor, upper: tf.Tensor) -> Relaxation:
    """Wong and Kolter's relaxation for pre-activation bounds `lower`, `upper`, both [n, *shape].

    NaN where the bounds are not `known`, so that nothing follows from them.
    """
    crossing = unstable(lower, upper)
    one = tf.ones_like(upper)
    # Where the ReLU is stable the quotient is not used; 1 / 1 keeps its gradient finite there.
    top = tf.where(crossing, upper, one)
    bottom = tf.where(crossing, lower, tf.zeros_like(lower))
    slope = top / (top - bottom)
    slope = tf.where(upper <= 0, tf.zeros_like(slope), slope)
    slope = tf.where(known(lower, upper), slope, float("nan"))
    return Relaxation(slope, -0.5 * slope * bottom, -0.5 * bottom)
