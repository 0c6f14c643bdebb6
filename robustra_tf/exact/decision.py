"""How one image is decided, target by target."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.attacks.replay import replay, settle
from robustra_tf.bounds.balls import Box
from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.descent import descend
from robustra_tf.exact.encoding import encode
from robustra_tf.exact.matrices import AffineMap
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.solver import TOLERANCE, Answer, Outcome, Question, Solver, undecided
from robustra_tf.exact.substitution import restrict
from robustra_tf.exact.tighten import enclosed, tightened
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.graph.graph import Structure

# Nodes of the first search. Longer ones pay for bounds by linear programmes, short ones do not.
_FIRST_NODES = 100


class Task(NamedTuple):
    """What is the same for every image: the network, the ball and how to search.

    Attributes:
      model: the Keras model, for replays in float32.
      structure, maps, weights: its graph, sparse matrices and float64 weights.
      eps, norm, box: the inputs.
      solver: what answers where a short search does not.
      threads: that a solve may use.
    """

    model: Callable
    structure: Structure
    maps: Mapping[int, AffineMap]
    weights: list[tf.Tensor]
    eps: float
    norm: str
    box: Box | None
    solver: Solver
    threads: int


class Decision:
    """The decision of one image."""

    def __init__(self, task: Task, image: np.ndarray, label: int, deadline: float):
        """Takes an image float32 [*input_shape], its label and a deadline of `time.monotonic`."""
        self.task, self.image, self.label, self.deadline = task, image, label, deadline
        self.flat = image.astype(np.float64).ravel()
        self.l1_radius = task.eps if task.norm == "l1" else None
        self.unstable = self.binaries = self.nodes = self.solves = 0
        self.tight = False

    def run(self) -> Verdict:
        """The verdict; its seconds are left to the caller."""
        caught = self._replayed(self.flat)
        if caught is not None:
            return self._falsified(self.flat, caught)
        task = self.task
        if task.eps == 0:
            # The image is the whole ball: its margin is known, without a bound's rounding.
            least, target = self._clean()
            known = Status.VERIFIED if least > 0 else Status.UNKNOWN
            return self._verdict(known, least, target, None, "" if least > 0 else "a tie")
        found = enclosed(
            task.structure,
            task.weights,
            self.image.astype(np.float64),
            self.label,
            task.eps,
            task.norm,
            task.box,
        )
        targets = np.array([t for t in range(len(found.margin)) if t != self.label], int)
        bounds = dict(zip(targets.tolist(), found.margin[targets].tolist(), strict=True))
        # Not a number proves nothing: written so that it is left.
        left = [t for t in targets[np.argsort(found.margin[targets])] if not bounds[t] > TOLERANCE]
        reasons = []
        if left:
            self.restriction = self._restricted(found.bounds)
            self.unstable = int(self.restriction.relu.sum())
        for target in map(int, left):
            answer = self._decide(target)
            bounds[target] = max(bounds[target], answer.bound)
            if answer.point is not None and answer.outcome is not Outcome.PROVEN:
                witness = self._witness(answer.point, target)
                if witness is not None:
                    return self._falsified(*witness)
            if answer.outcome is not Outcome.PROVEN:
                reasons.append(f"target {target}: {answer.reason or 'no point could be replayed'}")
        worst = min(bounds, key=bounds.get, default=None)
        status = Status.UNKNOWN if reasons else Status.VERIFIED
        least = bounds.get(worst, np.inf)
        margin = float(least) if np.isfinite(least) else None
        return self._verdict(status, margin, worst, None, "; ".join(reasons))

    def _clean(self) -> tuple[float, int]:
        """The model's own margin at the image, and the class that is next."""
        logits = np.asarray(self.task.model(tf.constant(self.image[None])))[0]
        margin = logits[self.label] - logits
        margin[self.label] = np.inf
        return float(margin.min()), int(margin.argmin())

    def _restricted(self, bounds) -> Restriction:
        task = self.task
        low, high = _region(self.flat, task.eps, task.box)
        found = restrict(task.structure, task.maps, low, high, bounds)
        # One independent forward pass: the encoding is of this network and no other.
        logits = _forward(task.structure, task.maps, self.flat)
        error = np.abs(found.logits(self.flat[None])[0] - logits)
        if not (error <= 1e-7 * (1.0 + np.abs(logits))).all():
            raise ValueError(
                "encoding: expected the network's own logits at the clean image, got "
                f"a difference of {error.max():.3g}"
            )
        return found

    def _decide(self, target: int) -> Answer:
        """One target: descent, a short search; where that was too short, better bounds and more."""
        task = self.task
        if time.monotonic() >= self.deadline:
            return undecided("time limit")
        question = self._question(target)
        if question.margin(question.start) <= -TOLERANCE:
            return Answer(Outcome.FOUND, -np.inf, question.start, 0, 0)
        first = BranchAndBound(task.threads, 1 if self._other else _FIRST_NODES)
        answer = self._asked(first, question)
        if answer.outcome is not Outcome.UNDECIDED or answer.reason != "node limit":
            return answer
        if not self.tight:
            self.restriction, solves = tightened(
                self.restriction, self.flat, self.l1_radius, self.deadline
            )
            self.solves, self.tight = self.solves + solves, True
            question = self._question(target)
        again = self._asked(task.solver, question)
        best = answer.point if again.point is None else again.point
        return again._replace(point=best, bound=max(answer.bound, again.bound))

    @property
    def _other(self) -> bool:
        return not isinstance(self.task.solver, BranchAndBound)

    def _question(self, target: int) -> Question:
        task = self.task
        encoding = encode(self.restriction, self.flat, l1_radius=self.l1_radius)
        encoding.check(self.flat)
        self.binaries = len(encoding.unstable)
        row, constant = self.restriction.margin(self.label, target)
        # Descent stays within intervals of pixels: of an l_1 ball it knows nothing.
        linf = task.norm == "linf"
        start = descend(self.restriction, row, self.flat) if linf else self.flat
        return Question(encoding, row, constant, start)

    def _asked(self, solver: Solver, question: Question) -> Answer:
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            return undecided("time limit")
        answer = solver.decide(question, seconds)
        self.nodes, self.solves = self.nodes + answer.nodes, self.solves + answer.solves
        if answer.outcome is Outcome.PROVEN and not answer.bound > TOLERANCE:
            return undecided(f"{solver.name}: a proof without a bound", answer.bound, answer.point)
        return answer

    def _witness(self, point: np.ndarray, target: int) -> tuple[np.ndarray, int] | None:
        """The point, or one that descent finds from it, where the model misclassifies it."""
        row, _ = self.restriction.margin(self.label, target)
        for attempt in range(2):
            if attempt:
                if self.task.norm != "linf":
                    return None
                point = descend(self.restriction, row, point)
            predicted = self._replayed(point)
            if predicted is not None:
                return point, predicted
        return None

    def _settled(self, point: np.ndarray) -> np.ndarray:
        candidate = point.reshape(1, *self.image.shape).astype(np.float32)
        return settle(self.image[None], candidate, self.task.eps, self.task.norm, self.task.box)

    def _replayed(self, point: np.ndarray) -> int | None:
        """The class that the model gives the point in float32, if it is inside and wrong."""
        task = self.task
        candidate, label = self._settled(point), np.array([self.label])
        found = replay(
            task.model, self.image[None], candidate, label, task.eps, task.norm, task.box
        )
        return int(found.predicted[0]) if found.success[0] else None

    def _falsified(self, point: np.ndarray, predicted: int) -> Verdict:
        witness = self._settled(point)[0]
        return self._verdict(Status.FALSIFIED, None, predicted, witness)

    def _verdict(self, status, margin, target, witness, reason="") -> Verdict:
        return Verdict(
            status,
            margin,
            target,
            witness,
            0.0,
            self.unstable,
            self.binaries,
            self.nodes,
            self.solves,
            reason,
        )


def _region(x: np.ndarray, eps: float, box: Box | None) -> tuple[np.ndarray, np.ndarray]:
    """The interval of every pixel, float64 [n] each, about the image `x` [n]."""
    low, high = x - eps, x + eps
    if box is not None:
        low, high = np.maximum(low, box[0]), np.minimum(high, box[1])
    return low, high


def _forward(structure, maps, x: np.ndarray) -> np.ndarray:
    """The logits [classes] at the image `x` [n], node by node."""
    values = [x]
    for index, node in enumerate(structure.nodes[1:], start=1):
        inputs = [values[i] for i in node.inputs]
        if index in maps:
            values.append(maps[index].matrix @ sum(inputs) + maps[index].offset)
        else:
            values.append(np.maximum(inputs[0], 0.0))
    return values[-1]
