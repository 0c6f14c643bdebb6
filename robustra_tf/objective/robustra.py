"""The bound `h` of an attack's gain on f within the reference adversarial space of g."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import as_scalar
from robustra_tf.bounds.margins import Margins, margins
from robustra_tf.bounds.options import DEFAULT_BUDGET, BoundOptions
from robustra_tf.bounds.projection import MarginEstimate, Projection, margin_estimates
from robustra_tf.counting import labels_tensor
from robustra_tf.graph.graph import Network
from robustra_tf.intake import checks
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take
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


class _Question(NamedTuple):
    """What the objective is asked of: images, labels, radius, and the seed of random vectors."""

    x: tf.Tensor
    y: tf.Tensor
    eps: tf.Tensor
    seed: tf.Tensor


class DualObjective(keras.layers.Layer):
    """`(x, y, eps) -> h`: the dual objective of f against g for all targets of a batch at once.

    Compiled once by `tf.function`; `eps` is a tensor, so that a schedule does not retrace. The
    gradient reaches the variables of `f` alone.

    With `projection=k` the inner ranges of large layers are estimated by k random vectors. A call
    then gives an `ObjectiveEstimate`, whose `h` is to be minimised and proves nothing.

    Args:
      f: the trained model, image to logits.
      g: the reference model, or None for WK's bound.
      eps: radius in pixels where a call gives none.
      norm: of the ball, `linf`, `l2` or `l1`.
      memory_mb: MiB that one slice of rows may take.
      projection: how many random vectors, 0 for exact inner bounds.
      seed: of the random vectors, together with the `step` that a call gives.

    Raises:
      ValueError: a norm or a projection out of its range, models whose classes or inputs differ, or
        an unsupported layer.

    Example:
      >>> h = rt.DualObjective(f, g)(x, y, eps=0.1)
      >>> print(h.numpy().round(2))
      [[ 0.  -0.4]]
    """

    def __init__(
        self,
        f: keras.Model,
        g: keras.Model | None = None,
        eps: float | None = None,
        *,
        norm: str = "linf",
        memory_mb: int = DEFAULT_BUDGET // 2**20,
        projection: int = 0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # Static shapes, so that a caller may compile the layer by XLA.
        budget = float(memory_mb * 2**20)
        self._options = BoundOptions("every", budget, norm=norm, projection=projection)
        self.f, self.g, self.eps, self.norm, self.projection = f, g, eps, norm, projection
        self._seed = seed
        given = {"f": f} if g is None else {"f": f, "g": g}
        self._graphs = [
            take(model, name, door="DualObjective").graph for name, model in given.items()
        ]
        shapes = [(s.structure.input_shape, s.structure.output_shape) for s in self._graphs]
        if len(set(shapes)) > 1:
            raise ValueError(f"f and g must map the same inputs to the same classes, got {shapes}")
        self._compiled = tf.function(self._evaluate, autograph=False)
        self._compiled_terms = tf.function(self._terms, autograph=False)
        self.built = True

    def __call__(self, *args: Any, **kwargs: Any):
        """As Keras's own, which takes tensors and what becomes one."""
        named = dict(zip(("x", "y"), args, strict=False)) | kwargs
        checks.plain("DualObjective", named.get("x"), named.get("y"))
        return super().__call__(*args, **kwargs)

    @full_precision()
    def call(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        eps: tf.Tensor | None = None,
        step: int | tf.Tensor | None = None,
    ) -> tf.Tensor | ObjectiveEstimate:
        """`h` [n, classes] of images `x` [n, *shape], in pixels, and labels `y` [n].

        Args:
          x, y: the images and labels.
          eps: radius in pixels.
          step: number of the random vectors, which are the same for the same step; projections
            alone need one.
        """
        found = self._compiled(*self._question(x, y, eps, step))
        return found if self.projection else found.h

    @full_precision()
    def diagnostics(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        eps: tf.Tensor | None = None,
        step: int | tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """`h`, `literal`, `wk`, `eta`, `t0`, `grad_left`, `grad_right`: [n, classes] each.

        `literal` is Eqn 8 at `eta`, `t0`; `grad_left` and `grad_right` are the limits of the slope
        at t = 0 that tell infeasible, tight and loose constraints apart. Of projections, every name
        ends in `_estimate`.
        """
        terms = self._compiled_terms(*self._question(x, y, eps, step))
        ending = "_estimate" if self.projection else ""
        return {f"{name}{ending}": term for name, term in terms.items()}

    def _question(self, x, y, eps, step) -> _Question:
        checks.plain("DualObjective", x, y)
        eps = self.eps if eps is None else eps
        if eps is None:
            raise ValueError("eps must be given to the layer or to the call, got None for both")
        if (step is not None) != bool(self.projection):
            wanted = "a number" if self.projection else "None"
            raise ValueError(f"step must be {wanted} with projection={self.projection}, got {step}")
        x = tf.convert_to_tensor(x)
        number = 0 if step is None else step
        seed = tf.stack([tf.cast(part, tf.int32) for part in (self._seed, number)])
        return _Question(x, labels_tensor(y), as_scalar(eps, x.dtype), seed)

    def _margins(
        self, x, y, eps, seed
    ) -> tuple[Margins | MarginEstimate, Margins | MarginEstimate | None]:
        """Of f, and of g where there is one; each has random vectors of its own."""
        found = []
        for k, graph in enumerate(self._graphs):
            own = None
            if self.projection:
                own = tf.random.experimental.stateless_fold_in(seed, k)
            found.append(ball_margins(graph.network(x.dtype), x, y, eps, self._options, seed=own))
        return found[0], found[1] if len(found) > 1 else None

    def _evaluate(self, x, y, eps, seed) -> Objective | ObjectiveEstimate:
        f, g = self._margins(x, y, eps, seed)
        return objective(f, g, eps, self.norm)

    def _terms(self, x, y, eps, seed) -> dict[str, tf.Tensor]:
        f, g = self._margins(x, y, eps, seed)
        found = objective(f, g, eps, self.norm)
        return {
            "h": found.h,
            "wk": found.wk,
            "eta": found.eta,
            "t0": found.t0,
            "grad_left": found.tightness.left,
            "grad_right": found.tightness.right,
            "literal": literal(f, f if g is None else g, eps, found.eta, found.t0, self.norm),
        }
