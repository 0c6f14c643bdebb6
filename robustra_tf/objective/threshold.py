"""The bound at a threshold that is given: the best `eta`, and the worst point of the relaxations.

For one target the bound over the reference space `c.g >= t` is

  min_{eta >= 0} h_c(eta) = max { nuhat . d : |d| <= eps, eps-ball, qhat . d + offset >= t } + base,

a linear programme with one constraint beside the ball: `eta` is its multiplier. With `d = eps s` it
asks for the `s` in the unit ball that is worst for `nuhat + eta qhat` and has `s . qhat = level`,
`level = (t - offset) / eps`, at the smallest `eta` at which `gamma` reaches that level; for `linf`
a fractional knapsack, solved by sorting the breakpoints. Where `qhat` cannot reach the level the
constraint has no point: the bound is minus infinity. `t0` is the threshold whose `eta` is the
middle one (section 5.4); a falling threshold has a falling `eta`.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.dual import dual_norm
from robustra_tf.objective.breakpoints import plane
from robustra_tf.objective.envelope import crossing


class Best(NamedTuple):
    """The best multiplier of a constraint that can be met.

    Attributes:
      eta: the smallest `eta >= 0` that minimises the bound, [...].
      worst: `s`, [..., n]: in the unit ball, worst for `nuhat + eta qhat`, and `s . qhat` at least
        the level, equal to it where `eta > 0`.
    """

    eta: tf.Tensor
    worst: tf.Tensor


def best(nuhat: tf.Tensor, qhat: tf.Tensor, level: tf.Tensor, norm: str = "linf") -> Best:
    """The best `eta` for every leading entry of `nuhat` and `qhat`, both [..., n].

    Args:
      nuhat, qhat: the rows of f and of g on the image.
      level: what `s . qhat` has to reach, [...]; more than `||qhat||_*` counts as that.
      norm: of the ball: `linf`, `l2` or `l1`.
    """
    most = dual_norm(qhat, norm)
    level = tf.clip_by_value(level, -most, most)
    found = {"linf": _sorted, "l2": _angle, "l1": _envelope}[norm](nuhat, qhat, level)
    # What is next to parallel may need an eta beyond the type.
    return found._replace(eta=tf.minimum(found.eta, found.eta.dtype.max))


def _sorted(nuhat: tf.Tensor, qhat: tf.Tensor, level: tf.Tensor) -> Best:
    """`gamma` is a sum of steps at the transitions `-nuhat_j / qhat_j`, of `2 |qhat_j|` each."""
    rank, size = nuhat.shape.rank - 1, nuhat.shape[-1]
    moving, width = tf.not_equal(qhat, 0), tf.abs(qhat)
    transition = tf.where(moving, -nuhat / tf.where(moving, qhat, tf.ones_like(qhat)), -1.0)
    after = transition > 0
    never = tf.constant(float("-inf"), nuhat.dtype)
    falling, order = tf.math.top_k(tf.where(after, -transition, never), size)
    steps = tf.gather(tf.where(after, 2 * width, tf.zeros_like(width)), order, batch_dims=rank)
    start = tf.reduce_sum(tf.where(after, -width, width), -1)
    reached = start[..., None] + tf.cumsum(steps, -1)
    place = tf.reduce_sum(tf.cast(reached < level[..., None], tf.int32), -1)
    # Rounding of the sums must not lead beyond the last transition.
    count = tf.reduce_sum(tf.cast(after, tf.int32), -1)
    place = tf.maximum(tf.minimum(place, count - 1), 0)
    there = -tf.gather(falling, place, batch_dims=rank)
    still = tf.logical_or(start >= level, tf.equal(count, 0))
    eta = tf.where(still, tf.zeros_like(there), there)
    # At a transition the sign is free: those there share what is missing to the level.
    sign = tf.sign(qhat) * tf.sign(eta[..., None] - transition)
    sign = tf.where(moving, sign, tf.sign(nuhat))
    free = tf.where(tf.logical_and(moving, tf.equal(sign, 0)), width, tf.zeros_like(width))
    missing, room = level - tf.reduce_sum(sign * qhat, -1), tf.reduce_sum(free, -1)
    share = missing / tf.where(room > 0, room, tf.ones_like(room))
    share = tf.clip_by_value(share, tf.where(still, tf.zeros_like(share), -1.0), 1.0)
    free_sign = tf.where(free > 0, tf.sign(qhat), tf.zeros_like(qhat))
    return Best(eta, sign + share[..., None] * free_sign)


def _angle(nuhat: tf.Tensor, qhat: tf.Tensor, level: tf.Tensor) -> Best:
    """`l2`: `gamma` is `||qhat||` times the cosine of the angle between `qhat` and the combination.

    The cosine is `level / ||qhat||` where the combination's part along `qhat` is its part across
    times the cotangent of that angle.
    """
    size, other = (dual_norm(row, "l2") for row in (nuhat, qhat))
    one, known = tf.ones_like(size), other > 0
    flat = plane(nuhat, qhat)
    wanted = tf.clip_by_value(level / tf.where(known, other, one), -1.0, 1.0)
    across = tf.sqrt((1.0 - wanted) * (1.0 + wanted))
    tangent = tf.where(across > 0, across, one)
    along = flat.cosine * size
    shift = (flat.height * wanted / tangent - along) / tf.where(known, other, one)
    still = tf.logical_or(tf.logical_or(~known, tf.equal(size, 0)), flat.cosine >= wanted)
    eta = tf.where(still, tf.zeros_like(size), tf.maximum(shift, 0.0))
    there = wanted[..., None] * flat.toward + across[..., None] * flat.across
    start = nuhat / tf.where(size > 0, size, one)[..., None]
    return Best(eta, tf.where(still[..., None], start, there))


def _envelope(nuhat: tf.Tensor, qhat: tf.Tensor, level: tf.Tensor) -> Best:
    """`l1`: where the slope of the upper envelope of `|nuhat_j + eta qhat_j|` passes the level."""
    found = crossing(nuhat, qhat, level)
    rise = found.high.slope - found.low.slope
    share = (level - found.low.slope) / tf.where(rise > 0, rise, tf.ones_like(rise))
    return Best(found.eta, found.worst(tf.clip_by_value(share, 0.0, 1.0)))
