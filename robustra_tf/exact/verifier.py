"""Complete verification: whether any input of a ball is classified wrongly, decided."""

from __future__ import annotations

import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import Box
from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.decision import Decision
from robustra_tf.exact.gurobi import Gurobi
from robustra_tf.exact.highs import Highs
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.solver import Solver
from robustra_tf.exact.task import Inputs, Network, Task
from robustra_tf.exact.verdict import Verdict
from robustra_tf.graph.build import build

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
        model: keras.Model,
        eps: float,
        norm: str = "linf",
        box: Box | None = (0.0, 1.0),
        time_limit: float = 120.0,
        solver: str | Solver = "branch",
        threads: int = 1,
    ):
        """Reads the model's weights as they are now.

        Args:
          model: a Keras model, image to logits, of supported layers.
          eps: radius in pixels, at least 0.
          norm: "linf" or "l1".
          box: (lo, hi) of every pixel, or None.
          time_limit: seconds for an image, over all its targets.
          solver: "branch" (the search of `exact.branch`), "highs" or "gurobi" (mixed-integer
            programmes, behind the linear relaxation), or an object that is a `Solver`.
          threads: that a solve may use.

        Raises:
          ValueError: an argument out of range, a model of one logit, or weights that are not finite
            numbers.
          ImportError: "gurobi" without gurobipy.
        """
        if not (np.ndim(eps) == 0 and np.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps: expected one finite number of at least 0, got {eps!r}")
        if norm not in NORMS:
            raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
        if box is not None and not (len(box) == 2 and box[0] < box[1]):
            raise ValueError(f"box: expected (lo, hi) with lo < hi, or None, got {box!r}")
        if not time_limit >= 0:
            raise ValueError(f"time_limit: expected at least 0 seconds, got {time_limit!r}")
        if threads < 1:
            raise ValueError(f"threads: expected at least 1, got {threads}")
        if isinstance(solver, str):
            if solver not in SOLVERS:
                raise ValueError(f"solver: expected one of {', '.join(SOLVERS)}, got {solver!r}")
            solver = SOLVERS[solver](threads)
        graph = build(model)
        structure = graph.structure
        if structure.output_shape[0] < 2:
            raise ValueError("model: expected logits of at least two classes, got one")
        box = None if box is None else (float(box[0]), float(box[1]))
        self._task = Task(
            Network(model, structure, affine_maps(graph), graph.weights(tf.float64)),
            Inputs(float(eps), norm, box),
            solver,
            threads,
        )
        self._time_limit = float(time_limit)

    def verify(self, x: np.ndarray, y: int) -> Verdict:
        """Decides one image.

        Args:
          x: [*input_shape], in pixels, inside the box.
          y: its label.

        Raises:
          ValueError: an image of another shape, outside the box or not finite, or a label that is
            no class.
        """
        start = time.monotonic()
        image, label = self._checked(x, y)
        verdict = Decision(self._task, image, label, start + self._time_limit).run()
        return dataclasses.replace(verdict, seconds=time.monotonic() - start)

    def _checked(self, x: np.ndarray, y: int) -> tuple[np.ndarray, int]:
        x = np.asarray(x)
        structure, box = self._task.network.structure, self._task.inputs.box
        shape, classes = structure.input_shape, structure.output_shape[0]
        if x.shape != shape:
            raise ValueError(f"x: expected one image of shape {shape}, got {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError("x: expected finite pixels, got NaN or infinity")
        image = x.astype(np.float32)
        if box is not None and not ((image >= box[0]) & (image <= box[1])).all():
            raise ValueError(
                f"x: expected pixels in the box {box}, got values in "
                f"[{image.min():g}, {image.max():g}]"
            )
        if not (isinstance(y, int | np.integer) and 0 <= y < classes):
            raise ValueError(f"y: expected a class from 0 to {classes - 1}, got {y!r}")
        return image, int(y)
