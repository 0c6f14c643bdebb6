"""The slack variable eta and the threshold t0, in closed form (section 5.4).

`eta` is the smallest `eta >= 0` at which `gamma(eta) = d/deta ||nuhat + eta qhat||_*` reaches the
middle of its range; for the `linf` ball the paper's median of its transitions. Where `gamma` jumps,
it is taken to be the mean of both sides, as the paper's `sgn(0) = 0` has it.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.dual import dual_norm, root
from robustra_tf.objective.envelope import ROUNDING, crossing, first_line, last_line, unit_of

#: Coordinates of `qhat` up to this size count as having no transition, as the authors have it.
NO_TRANSITION = 1e-7


class Slack(NamedTuple):
    """Where `gamma` reaches the middle of its range.

    Attributes:
      eta: the slack variable, [...].
      worst: `s`, a subgradient of `||.||_*` at `nuhat + eta qhat`: the perturbation in the unit
        ball that is worst for this combination, so that `gamma(eta) = s . qhat`; [..., n].
      positive: for `linf`, how many transitions are positive; else whether eta is. Integers [...].
    """

    eta: tf.Tensor
    worst: tf.Tensor
    positive: tf.Tensor


def choose(nuhat: tf.Tensor, qhat: tf.Tensor, norm: str = "linf") -> Slack:
    """`eta` for every leading entry of `nuhat` and `qhat`, both [..., n].

    Args:
      nuhat, qhat: the rows of f and of g on the image.
      norm: of the ball: `linf`, `l2` or `l1`.
    """
    return {"linf": _median, "l2": _angle, "l1": _envelope}[norm](nuhat, qhat)


def _median(nuhat: tf.Tensor, qhat: tf.Tensor) -> Slack:
    """The lower median of the positive transitions, 0 where there is none.

    `gamma(eta) = sum_j sgn(nuhat_j + eta qhat_j) qhat_j` has a transition where a term changes its
    sign, at `-nuhat_j / qhat_j`. Of `m` sorted positive ones, the lower median is number
    `(m - 1) // 2`, an actual transition.
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


def _angle(nuhat: tf.Tensor, qhat: tf.Tensor) -> Slack:
    """`l2`: `gamma` is `||qhat||` times the cosine of the angle between `qhat` and the combination.

    The cosine rises from `c`, that of `nuhat`, to 1, and is `(1 + c) / 2` at
    `eta = ||nuhat|| / ||qhat|| ((1 + c) sqrt((1 + c) / (3 + c)) - c)`. Rows of one direction have a
    constant `gamma`; for opposite ones it jumps from -1 to 1 where they cancel.
    """
    size, other = (dual_norm(row, "l2") for row in (nuhat, qhat))
    moving = tf.logical_and(size > 0, other > 0)
    one = tf.ones_like(size)
    toward, across, _, cosine = plane(nuhat, qhat)
    distance = (1.0 + cosine) * tf.sqrt((1.0 + cosine) / (3.0 + cosine)) - cosine
    still = tf.logical_or(~moving, cosine >= 1.0)
    eta = tf.where(still, tf.zeros_like(size), distance * size / tf.where(other > 0, other, one))
    middle = 0.5 * (1.0 + cosine)[..., None] * toward
    middle += (0.5 * tf.sqrt((1.0 - cosine) * (3.0 + cosine)))[..., None] * across
    worst = tf.where(moving[..., None], middle, nuhat / tf.where(size > 0, size, one)[..., None])
    return Slack(eta, worst, tf.cast(eta > 0, tf.int32))


class Plane(NamedTuple):
    """Rows in the plane of `qhat`: `nuhat = along toward + height across`.

    Attributes:
      toward, across: unit vectors [..., n], of `qhat` and perpendicular to it; 0 where there is
        none.
      height: 0 where the rows are parallel but for rounding, [...].
      cosine: of the angle between the rows, [...].
    """

    toward: tf.Tensor
    across: tf.Tensor
    height: tf.Tensor
    cosine: tf.Tensor


def plane(nuhat: tf.Tensor, qhat: tf.Tensor) -> Plane:
    """The plane of two rows, both [..., n]."""
    size, other = (dual_norm(row, "l2") for row in (nuhat, qhat))
    one = tf.ones_like(size)
    toward = qhat / tf.where(other > 0, other, one)[..., None]
    along = tf.reduce_sum(nuhat * toward, -1)
    across = nuhat - along[..., None] * toward
    height = dual_norm(across, "l2")
    parallel = height <= ROUNDING * unit_of(nuhat) * size
    across = tf.where(parallel[..., None], tf.zeros_like(across), across)
    across /= tf.where(parallel, one, height)[..., None]
    cosine = tf.clip_by_value(along / tf.where(size > 0, size, one), -1.0, 1.0)
    cosine = tf.where(parallel, tf.sign(cosine), cosine)
    return Plane(toward, across, tf.where(parallel, tf.zeros_like(height), height), cosine)


def _envelope(nuhat: tf.Tensor, qhat: tf.Tensor) -> Slack:
    """`l1`: the middle of the slopes of `max_j |nuhat_j + eta qhat_j|`."""
    first, last = first_line(nuhat, qhat), last_line(nuhat, qhat)
    found = crossing(nuhat, qhat, 0.5 * (first.slope + last.slope))
    worst = found.worst(0.5)
    return Slack(found.eta, worst, tf.cast(found.eta > 0, tf.int32))


def combined_norm(nuhat: tf.Tensor, shift: tf.Tensor, norm: str) -> tf.Tensor:
    """`||nuhat + shift||_*` [...], with the subgradient that `Slack.worst` is at a transition.

    There, coordinates cancel or two of them are largest but for rounding, whose sign would stand
    for the slope: cancelled ones are taken as 0, and the largest ones to be equal.
    """
    row, ulp = nuhat + shift, unit_of(nuhat)
    cancelled = tf.abs(row) <= 2 * ulp * tf.abs(shift)
    row = tf.where(cancelled, tf.zeros_like(row), row)
    if norm == "linf":
        return dual_norm(row, norm)
    reach = tf.abs(nuhat) + tf.abs(shift)
    if norm == "l2":
        square = tf.reduce_sum(tf.square(row), -1)
        rounding = ROUNDING * ulp * dual_norm(reach, norm)
        return root(tf.where(square <= tf.square(rounding), tf.zeros_like(square), square))
    size = tf.abs(row)
    gap = tf.reduce_max(size, -1, keepdims=True) - size
    ties = tf.cast(gap <= ROUNDING * ulp * tf.reduce_max(reach, -1, keepdims=True), row.dtype)
    return tf.reduce_sum(size * tf.stop_gradient(ties), -1) / tf.reduce_sum(ties, -1)


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


def tightness(
    nuhat: tf.Tensor, qhat: tf.Tensor, eps: tf.Tensor, offset: tf.Tensor, norm: str = "linf"
) -> Tightness:
    """The limits of `G` for `nuhat`, `qhat` [..., n] and `C = offset` [...].

    Just right of 0, a coordinate with `nuhat_j = 0` has the sign of `qhat_j`.
    """
    rightmost = dual_norm(qhat, norm)
    if norm == "linf":
        terms = tf.where(tf.equal(nuhat, 0), tf.abs(qhat), tf.sign(nuhat) * qhat)
        first = tf.reduce_sum(terms, -1)
    elif norm == "l2":
        size = dual_norm(nuhat, norm)
        along = tf.reduce_sum(nuhat * qhat, -1) / tf.where(size > 0, size, tf.ones_like(size))
        first = tf.where(size > 0, along, rightmost)
    else:
        first = first_line(nuhat, qhat).slope
    return Tightness(eps * first + offset, eps * rightmost + offset)
