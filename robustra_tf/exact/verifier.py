"""Complete verification: whether any input of a ball is classified wrongly, decided."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.attacks.replay import settle, within
from robustra_tf.bounds.balls import Box
from robustra_tf.conditions import Output
from robustra_tf.counting import NO_CLASS
from robustra_tf.evidence.files import Example
from robustra_tf.evidence.flat import Flat
from robustra_tf.evidence.network import Described
from robustra_tf.exact.agreement import answered, preferred
from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.case import Case
from robustra_tf.exact.decision import decide, unknown
from robustra_tf.exact.goal import Goal
from robustra_tf.exact.gurobi import Gurobi
from robustra_tf.exact.highs import Highs
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.proofs import Proofs
from robustra_tf.exact.proving import Prover
from robustra_tf.exact.solver import Solver
from robustra_tf.exact.task import Network, Task
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.graph.graph import Graph
from robustra_tf.intake import checks
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import take
from robustra_tf.pair import Pair, merged
from robustra_tf.property import Property, Query, asked
from robustra_tf.vocabulary import DEFAULT_MEMORY_MB

SOLVERS: dict[str, Callable[[int], Solver]] = {
    "auto": BranchAndBound,
    "batched": BranchAndBound,
    "branch": BranchAndBound,
    "split": BranchAndBound,
    "highs": Highs,
    "gurobi": Gurobi,
}
NORMS = ("linf", "l1")


class Verifier:
    """Decides images of one model, one ball and one box; and properties of it.

    An image is verified when every target's margin is proven to be above a tolerance, about 1e-5
    of the logits, over `{x' : ||x' - x|| <= eps} and the box`: by WK's dual, by a linear
    relaxation, or by a search over the phases of unstable ReLUs. What is searched must first equal
    the network at random points of the ball, neuron by neuron. It is falsified when a point,
    replayed in float32 through the model and compared with ball and box in float64, is classified
    wrongly. Everything else is unknown. Of a property, the least over its groups of conditions of
    the greatest margin in each is what has to be positive: one search for each group, in which all
    its conditions take part. A point is a counterexample where the model's own outputs are unsafe,
    ties included. Of a `Pair` both networks are searched together: an image is falsified where they
    answer the same wrong class. Source of the exact encoding: V. Tjeng, K. Xiao, R. Tedrake,
    *Evaluating robustness of neural networks with mixed integer programming*, ICLR 2019.

    Example:
      >>> rt.Verifier(model, eps=0.1).verify(x[0], 0).status.value
      'verified'
      >>> verdict = rt.Verifier(model, eps=0.4).verify(x[0], 0)
      >>> verdict.status.value, verdict.target
      ('falsified', 1)
      >>> rt.Verifier(model).verify(rt.Property.around(x, 0.1, rt.below(1, 0.35))).status.value
      'verified'
    """

    def __init__(  # noqa: PLR0913, the door to complete verification
        self,
        model: keras.Model | Pair | Graph,
        eps: float | np.ndarray | None = None,
        norm: str = "linf",
        box: Box | None = (0.0, 1.0),
        time_limit: float = 120.0,
        solver: str | Solver = "auto",
        threads: int = 1,
        memory_mb: float = DEFAULT_MEMORY_MB,
    ):
        """Reads the model's weights as they are now.

        Args:
          model: a Keras model, image to logits, of supported layers; or its graph; or a `Pair`.
          eps: radius in pixels, at least 0, or an array that broadcasts to an image; properties
            have their own.
          norm: "linf" or "l1".
          box: (lo, hi) of every pixel, or None.
          time_limit: seconds for an image, over all its targets.
          solver: "branch" (a search by linear programmes, one domain at a time, `exact.branch`);
            "batched" (by bounds of many domains at a time, on whatever device TensorFlow uses,
            `exact.batched`); "auto", a short one of the first kind, then the second, and the first
            again where it is measured to be cheaper; "split" (the box itself, input by input, for
            `linf` alone, `exact.splitting`), which "auto" begins with where at most 16 inputs of a
            network of more than 64 ReLUs move; "highs" or "gurobi" (mixed-integer programmes,
            behind the linear relaxation); or an object that is a `Solver`.
          threads: that a solve by linear programmes may use.
          memory_mb: MiB that the domains of "auto" and "batched" may take.

        Raises:
          ValueError: an argument out of range, weights that are not finite numbers, or a model that
            computes something else than its layers' weights and settings say.
          ImportError: "gurobi" without gurobipy.
        """
        checks.member("norm", norm, NORMS)
        box = checks.box(box)
        seconds = _seconds(time_limit)
        threads = checks.whole("threads", threads)
        if not (megabytes := checks.number(memory_mb) or 0.0) > 0:
            raise ValueError(f"memory_mb must be above 0, got {memory_mb!r}")
        domains, split = None, {"auto": None, "split": True}.get(str(solver), False)
        if isinstance(solver, str):
            if solver in ("auto", "batched"):
                domains = SearchOptions(short=solver == "auto", memory_mb=megabytes)
            if solver not in SOLVERS:
                raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
            solver = SOLVERS[solver](threads)
        self._pair = model if isinstance(model, Pair) else None
        self._network = take(model if self._pair is None else merged(self._pair), rival=False)
        graph = self._network.graph
        structure = graph.structure
        if eps is not None:
            eps = checks.radius(eps, norm, box, structure.input_shape)
        self._ball = (eps, norm, box)
        self._task = Task(
            Network(self._network, structure, affine_maps(graph), graph.weights(tf.float64)),
            solver,
            threads,
            domains,
            split,
        )
        self._time_limit = seconds

    @full_precision()
    def verify(
        self,
        x: np.ndarray | Property,
        y: int | Output | None = None,
        eps: float | np.ndarray | None = None,
        time_limit: float | None = None,
        *,
        proof: str | os.PathLike | Proofs | None = None,
    ) -> Verdict:
        """Decides one image, or a property of one example.

        Args:
          x: [*input_shape], in pixels, inside the box; or the property.
          y: its label, or what must not be reached; None of a property. A pair has labels alone.
          eps: another radius than the verifier's.
          time_limit: other seconds than the verifier's.
          proof: a file to write a proof of the verdict to, for `python -m eval.check`; none is
            written where the verdict is unknown. What is proven holds for the network in real
            numbers: a margin that rounding may be all of stays unknown. Or how it is written.

        Raises:
          ValueError: an image of another shape, outside the box or not finite, a label that is no
            class or of a model of one logit, a property of several examples or of an `l2` ball,
            weights that have changed since, or an image on which the model computes something else
            than its layers' weights and settings say.
        """
        proofs = None if proof is None else self._proofs(proof)
        start = time.monotonic()
        deadline = start + (self._time_limit if time_limit is None else _seconds(time_limit))
        if self._pair is None:
            verdict = self._decided(self._asked(x, y, eps), deadline, proofs)
        else:
            verdict = self._agreed(self._pair, x, y, eps, deadline)
        return dataclasses.replace(verdict, seconds=time.monotonic() - start)

    def _agreed(self, pair: Pair, x: Any, y: Any, eps: Any, deadline: float) -> Verdict:
        """Whether both networks of a pair answer one wrong class.

        That both prefer a target to the label is necessary for it, and has two conditions; all of
        them are searched where that is not enough.
        """
        checks.plain("a Pair", x, y)
        classes = pair.f.output_shape[-1]
        label = _label(y, classes)
        verdict = self._decided(self._asked(x, preferred(label), eps), deadline)
        if verdict.status is Status.FALSIFIED and not _wrong(pair, verdict, label):
            verdict = self._decided(self._asked(x, answered(label), eps), deadline)
        if verdict.status is Status.FALSIFIED and not _wrong(pair, verdict, label):
            return unknown("both networks have a tie of logits")
        return verdict

    def _proofs(self, given: str | os.PathLike | Proofs) -> Proofs:
        """Where proofs go.

        Raises:
          ValueError: a place where none can be written, or a search that none are written of.
        """
        if self._pair is not None:
            raise ValueError("proof must be None for a Pair, of which no proofs are written")
        if not isinstance(solver := self._task.solver, BranchAndBound):
            name = getattr(solver, "name", type(solver).__name__)
            raise ValueError(f"proof must be None with solver {name!r}, whose answers have none")
        if self._task.split and self._network.structure.maxima:
            raise ValueError(
                "proof must be None with solver 'split' of a network with maxima: rules of boxes "
                "know none; 'auto' proves by phases"
            )
        return given if isinstance(given, Proofs) else Proofs.alone(given)

    def _decided(self, query: Query, deadline: float, proofs: Proofs | None = None) -> Verdict:
        self._check_weights()
        image = settle(query.x, query.x.astype(np.float32), *query[1:4])
        found = self._network.compare(image, self._network.allowed)
        if not within(query.x, image, *query[1:4]).all():
            return unknown("no float32 number was found in the set")
        if found.comparable.all():
            goal = Goal.of(query.conditions(*self._network.structure.output_shape))
            if proofs is None:
                return decide(Case(self._task, query, goal, deadline))
            prover = Prover(self._flat, query, goal)
            verdict = decide(Case(self._task, query, goal, deadline, prover))
            return proofs.written(verdict, prover, self.described)
        return unknown(
            "float32 may overflow on the image: nothing is known of the model then"
            if np.isfinite(found.logits).all()
            else "logits that are not finite numbers"
        )

    @functools.cached_property
    def _flat(self) -> Flat:
        """The network as proofs have it."""
        return Flat.of(self._task.network.structure, self._task.network.maps)

    @functools.cached_property
    def described(self) -> Described:
        """The network as files have it; its weights are those that the verifier has read."""
        return Described.of(self._network.graph)

    def counterexample(self, given: Property, point: np.ndarray) -> Example | None:
        """What proves a property of one example wrong; None where rounding alone may do so.

        Args:
          given: the property.
          point: [*input_shape], in its set.
        """
        query = self._asked(given, None, None)
        goal = Goal.of(query.conditions(*self._network.structure.output_shape))
        prover = Prover(self._flat, query, goal)
        return prover.counterexample("attack", point) if prover.unsafe(point) else None

    def _asked(self, x: np.ndarray | Property, y: int | Output | None, eps: Any) -> Query:
        """What is asked, of one example, without rounding."""
        if isinstance(x, Property):
            if len(x) != 1:
                raise ValueError(f"x must be a property of one example, got {len(x)}")
            checks.member("norm", x.norm, NORMS)
            return asked(self._network, x, y, eps, x.norm, None)
        ball = (self._ball[0] if eps is None else eps, *self._ball[1:])
        if ball[0] is None:
            raise ValueError("eps must be given to the verifier for images, got None")
        structure = self._network.structure
        shape, (classes,) = structure.input_shape, structure.output_shape
        if np.shape(x) != shape:
            raise ValueError(f"x must be one image of shape {shape}, got {np.shape(x)}")
        if isinstance(y, Output):
            return asked(self._network, np.asarray(x)[None], y, *ball).exact
        self._network.check_rival()
        x = np.asarray(x)[None]
        return asked(self._network, x, [_label(y, classes)], *ball, "float32").unrounded(x)

    def _check_weights(self) -> None:
        present = self._network.graph.weights(tf.float64)
        for read, now in zip(self._task.network.weights, present, strict=True):
            if not np.array_equal(read, now):
                raise ValueError("model: its weights have changed since the verifier read them")


def _label(y: Any, classes: int) -> int:
    if not (isinstance(y, int | np.integer) and 0 <= y < classes):
        raise ValueError(f"y must be a class from 0 to {classes - 1}, got {y!r}")
    return int(y)


def _wrong(pair: Pair, verdict: Verdict, label: int) -> bool:
    """Whether the pair itself answers a wrong class at the witness."""
    point = verdict.witness
    return point is not None and pair.predict_classes(point[None])[0] not in (label, NO_CLASS)


def _seconds(value: Any) -> float:
    seconds = checks.number(value)
    if seconds is None or not seconds >= 0:
        raise ValueError(f"time_limit must be at least 0 seconds, got {value!r}")
    return seconds
