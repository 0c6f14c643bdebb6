"""The bound `h` of an attack's gain on f within the reference adversarial space of g."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import as_scalar
from robustra_tf.bounds.margins import Margins, margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.projection import MarginEstimate, Projection, margin_estimates
from robustra_tf.graph.graph import Network
from robustra_tf.objective.breakpoints import Tightness, choose, combined_norm, tightness
from robustra_tf.objective.threshold import best

#: The bound of a target that the reference excludes: its share of a cross-entropy is exactly 0.
EXCLUDED = -1e4


class Objective(NamedTuple):
    """Upper bounds of `f_t - f_y` for every target; entry `y` of each is 0. All [n, classes].

    Attributes:
      h: over the reference space, `h_c(eta)` with `t = t0` or lower (Eqn 8), by its tangent form;
        `EXCLUDED` where no point of the ball is in it.
      wk: over the whole ball, `U_f(c)`.
      eta: the slack variable: with `t = t0` that of the middle, `eta_med` for `linf`; else the one
        that minimises `h`; 0 where the target is excluded.
      t0: the threshold in closed form (Eqn 10); 0 where the threshold is 0 throughout.
      positive: as `Slack` has it, integers; 0 where the threshold is 0 throughout.
      tightness: of the constraint with t = 0.
      excluded: whether the reference excludes the target: `c.g < t` on the whole ball; boolean.
    """

    h: tf.Tensor
    wk: tf.Tensor
    eta: tf.Tensor
    t0: tf.Tensor
    positive: tf.Tensor
    tightness: Tightness
    excluded: tf.Tensor


class ObjectiveEstimate(NamedTuple):
    """The numbers of `Objective` where inner ranges are estimates: they bound nothing."""

    h: tf.Tensor
    wk: tf.Tensor
    eta: tf.Tensor
    t0: tf.Tensor
    positive: tf.Tensor
    tightness: Tightness
    excluded: tf.Tensor


def ball_margins(
    network: Network,
    x: tf.Tensor,
    y: tf.Tensor,
    eps: tf.Tensor,
    options: BoundOptions = BoundOptions(),
    *,
    seed: tf.Tensor | None = None,
) -> Margins | MarginEstimate:
    """One network's share of the objective: its dual over the ball without a box.

    Args:
      network: f or g.
      x: images [n, *shape] in pixels.
      y: labels, integers [n].
      eps: radius in pixels, a scalar tensor.
      options: how it is bounded, or estimated where `options.projection` is not 0.
      seed: int32 [2], of the random vectors; projections alone need it.

    Raises:
      ValueError: projections without a seed.
    """
    region = options.ball(x, eps)
    if not options.projection:
        return margins(network, region, y, options)
    if seed is None:
        raise ValueError(f"seed must be given with projection={options.projection}, got None")
    vectors = Projection(options.projection, seed)
    return margin_estimates(network, region, y, vectors, options)


def objective(
    f: Margins | MarginEstimate,
    g: Margins | MarginEstimate | None,
    eps: tf.Tensor,
    norm: str = "linf",
    lowered: tf.Tensor | float = 0.0,
) -> Objective | ObjectiveEstimate:
    """Combine both networks' duals; without `g` the bound is WK's.

    With `s` the perturbation that is worst for `nuhat_1 + eta qhat_1`, the tangent of
    `h_c(eta) + eta t` at `eta` has the intercept `h_c = x . nuhat_1 + eps s . nuhat_1 + R_f`. It
    equals Eqn 8 at `t = x . qhat_1 + eps s . qhat_1 + R_g`: WK's bound with the worst perturbation
    replaced by `eps s`. `eta`, `t` and `s` are constants for the gradient, which is that of the
    minimum over `eta` (an envelope), and nothing flows back to `g`.

    Args:
      f, g: the duals over the same balls.
      eps: radius in pixels.
      norm: of the balls.
      lowered: how far the threshold is from `t0` to 0, `t = (1 - lowered) t0`, from 0 to 1; the
        number 0 takes `eta` in closed form, all else the one that minimises `h` at `t`. At
        `t = t0` the two are one. The number 1 leaves `t0` out.

    Returns:
      An `Objective` where both are bounds, else an `ObjectiveEstimate`.
    """
    estimated = any(isinstance(one, MarginEstimate) for one in (f, g))
    kind = ObjectiveEstimate if estimated else Objective
    zeros, wk = tf.zeros_like(f.base), f.base + f.support
    none = tf.zeros_like(f.base, tf.bool)
    if g is None:
        count = tf.zeros_like(f.base, tf.int32)
        return kind(wk, wk, zeros, zeros, count, Tightness(zeros, zeros), none)
    eps = as_scalar(eps, f.base.dtype)
    nuhat = tf.stop_gradient(f.rows)
    qhat, offset = tf.stop_gradient(g.rows), tf.stop_gradient(g.base)
    limits, fixed = tightness(nuhat, qhat, eps, offset, norm), isinstance(lowered, float)
    t0, positive, excluded = zeros, tf.zeros_like(f.base, tf.int32), none
    if not (fixed and lowered == 1.0):
        eta, worst, positive = choose(nuhat, qhat, norm)
        t0 = eps * tf.reduce_sum(tf.stop_gradient(worst) * qhat, -1) + offset
    if not (fixed and lowered == 0.0):
        t = (1.0 - tf.cast(lowered, t0.dtype)) * t0
        excluded = limits.right < t
        # Of radius 0 the ball is a point, whatever the perturbation.
        radius = tf.maximum(eps, float(np.finfo(t0.dtype.as_numpy_dtype).tiny))
        found = best(nuhat, qhat, (t - offset) / radius, norm)
        worst, eta = found.worst, tf.where(excluded, zeros, found.eta)
    h = f.base + eps * tf.reduce_sum(tf.stop_gradient(worst) * f.rows, -1)
    h = tf.where(excluded, tf.constant(EXCLUDED, h.dtype), h)
    return kind(h, wk, tf.stop_gradient(eta), t0, positive, limits, excluded)


def literal(
    f: Margins | MarginEstimate,
    g: Margins | MarginEstimate,
    eps: tf.Tensor,
    eta: tf.Tensor,
    t: tf.Tensor,
    norm: str = "linf",
) -> tf.Tensor:
    """Eqn 8 as it stands, for any `eta >= 0` and any `t` [n, classes]: the definition of `h`.

    `x . (nuhat_1 + eta qhat_1) + eps ||nuhat_1 + eta qhat_1||_* + R_f + eta R_g - eta t`, sound for
    every choice of the two by weak duality where `f` and `g` are bounds.
    """
    eps = as_scalar(eps, f.base.dtype)
    shift = eta[..., None] * tf.stop_gradient(g.rows)
    perturbed = combined_norm(f.rows, shift, norm)
    return f.base + eta * tf.stop_gradient(g.base) + eps * perturbed - eta * t
