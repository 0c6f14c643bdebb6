"""The slack variable eta and the threshold t0, in closed form (section 5.4, `linf`)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

#: Coordinates of `qhat` up to this size count as having no transition, as the authors have it.
NO_TRANSITION = 1e-7


class Slack(NamedTuple):
    """The median transition of `gamma(eta) = sum_j sgn(nuhat_j + eta qhat_j) qhat_j`.

    Attributes:
      eta: the lower median of the positive transitions, 0 where there is none; [...].
      sign: `sgn(nuhat + eta qhat)`, 0 at the chosen coordinate; [..., n].
      positive: how many transitions are positive; integers [...].
    """

    eta: tf.Tensor
    sign: tf.Tensor
    positive: tf.Tensor


def choose(nuhat: tf.Tensor, qhat: tf.Tensor) -> Slack:
    """`eta_med` for every leading entry of `nuhat` and `qhat`, both [..., n].

    A transition lies where `nuhat_j + eta qhat_j` changes sign, at `-nuhat_j / qhat_j`. The lower
    median is an actual transition: of `m` sorted positive ones, number `(m - 1) // 2`.
    """
    moving = tf.abs(qhat) > NO_TRANSITION
    transition = tf.where(moving, -nuhat / tf.where(moving, qhat, tf.ones_like(qhat)), -1.0)
    is_positive = transition > 0
    positive = tf.reduce_sum(tf.cast(is_positive, tf.int32), -1)
    infinity = tf.fill(tf.shape(transition), tf.constant(float("inf"), transition.dtype))
    ordered = tf.sort(tf.where(is_positive, transition, infinity), axis=-1)
    middle = tf.maximum((positive - 1) // 2, 0)
    rank = nuhat.shape.rank - 1
    median = tf.gather(ordered, middle, batch_dims=rank)
    eta = tf.where(positive > 0, median, tf.zeros_like(median))
    # Rounding would leave nuhat_j + eta qhat_j a few ulp from zero at the chosen coordinate;
    # the sign of qhat_j (eta - transition_j) is the same number and exactly zero there.
    exact = tf.sign(qhat) * tf.sign(eta[..., None] - transition)
    sign = tf.where(moving, exact, tf.sign(nuhat + eta[..., None] * qhat))
    return Slack(eta, sign, positive)


class Tightness(NamedTuple):
    """`l = G(0+)` and `r = G(inf)` of `G(eta) = eps gamma(eta) + C` (Figure 4b), [...] each."""

    left: tf.Tensor
    right: tf.Tensor

    @property
    def infeasible(self) -> tf.Tensor:
        """The constraint with t = 0 cannot be met: `r <= 0`."""
        return self.right <= 0

    @property
    def tight(self) -> tf.Tensor:
        """The constraint with t = 0 cuts the ball: `l < 0 < r`."""
        return tf.logical_and(self.left < 0, self.right > 0)

    @property
    def loose(self) -> tf.Tensor:
        """The constraint with t = 0 excludes nothing that matters: `l >= 0`, and feasible."""
        return tf.logical_and(self.left >= 0, self.right > 0)


def tightness(nuhat: tf.Tensor, qhat: tf.Tensor, eps: tf.Tensor, offset: tf.Tensor) -> Tightness:
    """The limits of `G` for `nuhat`, `qhat` [..., n] and `C = offset` [...].

    Just right of 0, a coordinate with `nuhat_j = 0` has the sign of `qhat_j`.
    """
    left = tf.where(tf.equal(nuhat, 0), tf.abs(qhat), tf.sign(nuhat) * qhat)
    return Tightness(
        eps * tf.reduce_sum(left, -1) + offset, eps * tf.reduce_sum(tf.abs(qhat), -1) + offset
    )
