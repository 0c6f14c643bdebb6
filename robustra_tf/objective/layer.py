"""The objective as a Keras layer, compiled for all targets of a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from robustra_tf.bounds.balls import as_scalar
from robustra_tf.bounds.margins import Margins
from robustra_tf.bounds.options import DEFAULT_BUDGET, BoundOptions
from robustra_tf.bounds.projection import MarginEstimate
from robustra_tf.counting import labels_tensor
from robustra_tf.intake import checks
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take
from robustra_tf.objective.robustra import (
    Objective,
    ObjectiveEstimate,
    ball_margins,
    literal,
    objective,
)


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
