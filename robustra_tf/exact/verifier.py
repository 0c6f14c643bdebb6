"""Complete verification: whether any input of a ball is classified wrongly, decided."""

from __future__ import annotations

import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import Box
from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.decision import Case, decide, unknown
from robustra_tf.exact.gurobi import Gurobi
from robustra_tf.exact.highs import Highs
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.solver import Solver
from robustra_tf.exact.task import Inputs, Network, Task
from robustra_tf.exact.verdict import Verdict
from robustra_tf.graph.graph import Graph
from robustra_tf.intake import checks
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take

SOLVERS = {"branch": BranchAndBound, "highs": Highs, "gurobi": Gurobi}
NORMS = ("linf", "l1")


class Verifier:
    """Decides images of one model, one ball and one box.

    An image is verified when every target's margin is proven to be above a tolerance, about 1e-5
    of the logits, over `{x' : ||x' - x|| <= eps} and the box`: by WK's dual, by a linear
    relaxation, or by a search over the phases of unstable ReLUs. What is searched must first equal
    the network at random points of the ball, neuron by neuron. It is falsified when a point,
    replayed in float32 through the model and compared with ball and box in float64, is classified
    wrongly. Everything else is unknown. Source of the exact encoding: V. Tjeng, K. Xiao, R.
    Tedrake, *Evaluating robustness of neural networks with mixed integer programming*, ICLR 2019.

    Example:
      >>> rt.Verifier(model, eps=0.1).verify(x[0], 0).status.value
      'verified'
      >>> verdict = rt.Verifier(model, eps=0.4).verify(x[0], 0)
      >>> verdict.status.value, verdict.target
      ('falsified', 1)
    """

    def __init__(
        self,
        model: keras.Model | Graph,
        eps: float,
        norm: str = "linf",
        box: Box | None = (0.0, 1.0),
        time_limit: float = 120.0,
        solver: str | Solver = "branch",
        threads: int = 1,
    ):
        """Reads the model's weights as they are now.

        Args:
          model: a Keras model, image to logits, of supported layers; or its graph.
          eps: radius in pixels, at least 0.
          norm: "linf" or "l1".
          box: (lo, hi) of every pixel, or None.
          time_limit: seconds for an image, over all its targets.
          solver: "branch" (the search of `exact.branch`), "highs" or "gurobi" (mixed-integer
            programmes, behind the linear relaxation), or an object that is a `Solver`.
          threads: that a solve may use.

        Raises:
          ValueError: an argument out of range, a model of one logit, weights that are not finite
            numbers, or a model that computes something else than its layers' weights and settings
            say.
          ImportError: "gurobi" without gurobipy.
        """
        checks.member("norm", norm, NORMS)
        box = checks.box(box)
        if (seconds := checks.number(time_limit)) is None or not seconds >= 0:
            raise ValueError(f"time_limit must be at least 0 seconds, got {time_limit!r}")
        threads = checks.whole("threads", threads)
        if isinstance(solver, str):
            if solver not in SOLVERS:
                raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
            solver = SOLVERS[solver](threads)
        self._network = take(model)
        graph = self._network.graph
        structure = graph.structure
        eps = checks.radius(eps, norm, box, structure.input_shape)
        self._task = Task(
            Network(self._network, structure, affine_maps(graph), graph.weights(tf.float64)),
            Inputs(eps, norm, box),
            solver,
            threads,
        )
        self._time_limit = seconds

    @full_precision()
    def verify(self, x: np.ndarray, y: int, eps: float | None = None) -> Verdict:
        """Decides one image.

        Args:
          x: [*input_shape], in pixels, inside the box.
          y: its label.
          eps: another radius than the verifier's.

        Raises:
          ValueError: an image of another shape, outside the box or not finite, a label that is no
            class, weights that have changed since, or an image on which the model computes
            something else than its layers' weights and settings say.
        """
        start = time.monotonic()
        image, label = self._checked(x, y)
        found = self._network.compare(image[None], self._network.allowed)
        if found.comparable.all():
            verdict = decide(Case(self._at(eps), image, label, start + self._time_limit))
        else:
            verdict = unknown(
                "float32 may overflow on the image: nothing is known of the model then"
                if np.isfinite(found.logits).all()
                else "logits that are not finite numbers"
            )
        return dataclasses.replace(verdict, seconds=time.monotonic() - start)

    def _at(self, eps: float | None) -> Task:
        """The task at another radius."""
        inputs = self._task.inputs
        if eps is None:
            return self._task
        radius = checks.radius(eps, inputs.norm, inputs.box, self._network.structure.input_shape)
        return self._task._replace(inputs=inputs._replace(eps=radius))

    def _checked(self, x: np.ndarray, y: int) -> tuple[np.ndarray, int]:
        shape, (classes,) = (
            self._network.structure.input_shape,
            self._network.structure.output_shape,
        )
        if np.shape(x) != shape:
            raise ValueError(f"x must be one image of shape {shape}, got {np.shape(x)}")
        image = checks.images(np.asarray(x)[None], shape, self._task.inputs.box, "float32")
        if not (isinstance(y, int | np.integer) and 0 <= y < classes):
            raise ValueError(f"y must be a class from 0 to {classes - 1}, got {y!r}")
        present = self._network.graph.weights(tf.float64)
        for read, now in zip(self._task.network.weights, present, strict=True):
            if not np.array_equal(read, now):
                raise ValueError("model: its weights have changed since the verifier read them")
        return image[0], int(y)
