"""The bound `h` of an attack's gain on f within the reference adversarial space of g."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import as_scalar, ball
from robustra_tf.bounds.dual import Weights, dual_norm
from robustra_tf.bounds.enclosure import DEFAULT_BUDGET
from robustra_tf.bounds.margins import Margins, margins
from robustra_tf.graph.build import build
from robustra_tf.graph.graph import Structure
from robustra_tf.objective.breakpoints import Tightness, choose, tightness


class Objective(NamedTuple):
    """Upper bounds of `f_t - f_y` for every target; entry `y` of each is 0. All [n, classes].

    Attributes:
      h: over the reference space, `h_c(eta_med)` with `t = t0` (Eqn 8), by its tangent form.
      wk: over the whole ball, `U_f(c)`.
      eta: the slack variable `eta_med`.
      t0: the threshold of the reference space (Eqn 10).
      positive: how many transitions were positive, integers.
      tightness: of the constraint with t = 0.
    """

    h: tf.Tensor
    wk: tf.Tensor
    eta: tf.Tensor
    t0: tf.Tensor
    positive: tf.Tensor
    tightness: Tightness


def side(
    structure: Structure,
    weights: Weights,
    x: tf.Tensor,
    y: tf.Tensor,
    eps: tf.Tensor,
    rows: str = "auto",
    budget: float = DEFAULT_BUDGET,
    inner: str = "dual",
) -> Margins:
    """One network's share of the objective: its dual over the `linf` ball without a box.

    Args:
      structure, weights: the network.
      x: images [n, *shape] in pixels.
      y: labels, integers [n].
      eps: radius in pixels, a scalar tensor.
      rows, budget, inner: as `enclose` takes them.
    """
    return margins(structure, weights, ball(x, eps), y, rows, budget, inner)


def objective(f: Margins, g: Margins | None, eps: tf.Tensor) -> Objective:
    """Combine both networks' duals; without `g` the bound is WK's.

    With `s = sgn(nuhat_1 + eta_med qhat_1)` the tangent of `h_c(eta) + eta t0` at `eta_med` has
    the intercept `h_c = x . nuhat_1 + eps s . nuhat_1 + R_f`, which equals Eqn 8 at `t = t0`:
    WK's bound with the worst perturbation replaced by `eps s`. `eta_med`, `t0` and `s` are
    constants for the gradient, and nothing flows back to `g`.
    """
    zeros = tf.zeros_like(f.base)
    if g is None:
        count = tf.zeros_like(f.base, tf.int32)
        return Objective(f.upper, f.upper, zeros, zeros, count, Tightness(zeros, zeros))
    eps = as_scalar(eps, f.base.dtype)
    nuhat = tf.stop_gradient(f.rows)
    qhat, offset = tf.stop_gradient(g.rows), tf.stop_gradient(g.base)
    slack = choose(nuhat, qhat)
    sign = tf.stop_gradient(slack.sign)
    t0 = eps * tf.reduce_sum(sign * qhat, -1) + offset
    h = f.base + eps * tf.reduce_sum(sign * f.rows, -1)
    eta = tf.stop_gradient(slack.eta)
    return Objective(h, f.upper, eta, t0, slack.positive, tightness(nuhat, qhat, eps, offset))


def literal(f: Margins, g: Margins, eps: tf.Tensor, eta: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """Eqn 8 as it stands, for any `eta >= 0` and any `t` [n, classes]: the definition of `h`.

    `x . (nuhat_1 + eta qhat_1) + eps ||nuhat_1 + eta qhat_1||_1 + R_f + eta R_g - eta t`, sound for
    every choice of the two by weak duality.
    """
    eps = as_scalar(eps, f.base.dtype)
    shift = eta[..., None] * tf.stop_gradient(g.rows)
    row = f.rows + shift
    # At a transition the two cancel up to rounding, whose sign would stand for the slope of |.|
    # there; section 5.4 takes it as 0.
    cancelled = tf.abs(row) <= 2 * np.finfo(row.dtype.as_numpy_dtype).eps * tf.abs(shift)
    perturbed = dual_norm(tf.where(cancelled, tf.zeros_like(row), row), "linf")
    return f.base + eta * tf.stop_gradient(g.base) + eps * perturbed - eta * t


class DualObjective(keras.layers.Layer):
    """`(x, y, eps) -> h`: the dual objective of f against g for all targets of a batch at once.

    Compiled once by `tf.function`; `eps` is a tensor, so that a schedule does not retrace. The
    gradient reaches the variables of `f` alone.

    Args:
      f: the trained model, image to logits.
      g: the reference model, or None for WK's bound.
      eps: radius in pixels where a call gives none.
      norm: `linf`, the norm for which `eta` has the paper's closed form.
      memory_mb: MiB that one slice of rows may take.

    Raises:
      ValueError: another norm, models whose classes or inputs differ, or an unsupported layer.
    """

    def __init__(
        self,
        f: keras.Model,
        g: keras.Model | None = None,
        eps: float | None = None,
        norm: str = "linf",
        memory_mb: int = DEFAULT_BUDGET // 2**20,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if norm != "linf":
            raise ValueError(f"norm must be 'linf' for the objective, got {norm!r}")
        self.f, self.g, self.eps = f, g, eps
        self._graphs = [build(model) for model in (f, g) if model is not None]
        shapes = [(s.structure.input_shape, s.structure.output_shape) for s in self._graphs]
        if len(set(shapes)) > 1:
            raise ValueError(f"f and g must map the same inputs to the same classes, got {shapes}")
        self._budget = float(memory_mb * 2**20)
        self._compiled = tf.function(self._evaluate, autograph=False)
        self._compiled_terms = tf.function(self._terms, autograph=False)
        self.built = True

    def call(self, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor | None = None) -> tf.Tensor:
        """`h` [n, classes] of images `x` [n, *shape], in pixels, and labels `y` [n]."""
        return self._compiled(*self._arguments(x, y, eps)).h

    def diagnostics(
        self, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """`h`, `literal`, `wk`, `eta`, `t0`, `grad_left`, `grad_right`: [n, classes] each.

        `literal` is Eqn 8 at `eta`, `t0`; `grad_left` and `grad_right` are the limits of the slope
        at t = 0 that tell infeasible, tight and loose constraints apart.
        """
        return self._compiled_terms(*self._arguments(x, y, eps))

    def _arguments(self, x, y, eps) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        eps = self.eps if eps is None else eps
        if eps is None:
            raise ValueError("eps must be given to the layer or to the call, got None for both")
        x = tf.convert_to_tensor(x)
        return x, tf.cast(y, tf.int32), as_scalar(eps, x.dtype)

    def _sides(self, x, y, eps) -> list[Margins]:
        return [
            side(graph.structure, graph.weights(x.dtype), x, y, eps, "every", self._budget)
            for graph in self._graphs
        ]

    def _evaluate(self, x, y, eps) -> Objective:
        sides = self._sides(x, y, eps)
        return objective(sides[0], sides[1] if len(sides) > 1 else None, eps)

    def _terms(self, x, y, eps) -> dict[str, tf.Tensor]:
        sides = self._sides(x, y, eps)
        found = objective(sides[0], sides[1] if len(sides) > 1 else None, eps)
        terms = {
            "h": found.h,
            "wk": found.wk,
            "eta": found.eta,
            "t0": found.t0,
            "grad_left": found.tightness.left,
            "grad_right": found.tightness.right,
        }
        reference = sides[-1]
        terms["literal"] = literal(sides[0], reference, eps, found.eta, found.t0)
        return terms
