"""How one image is decided, target by target."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robustra_tf.attacks.replay import replay, settle
from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.descent import descend
from robustra_tf.exact.encoding import Encoding, encode
from robustra_tf.exact.probe import Probe, probed
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.solver import Answer, Outcome, Question, Solver, undecided
from robustra_tf.exact.substitution import restrict
from robustra_tf.exact.task import Task
from robustra_tf.exact.tighten import enclosed, tightened
from robustra_tf.exact.verdict import Status, Verdict

# Nodes of the first search. Longer ones pay for bounds by linear programmes, short ones do not.
_FIRST_NODES = 100


class _Witness(NamedTuple):
    """An image float32 [*input_shape] in the ball, and the wrong class that the model gives it."""

    image: np.ndarray
    predicted: int


class _Ground(NamedTuple):
    """What the searches of an image stand on.

    Attributes:
      encoding: of the restricted network, checked.
      tight: whether its bounds come from linear programmes.
      unstable: ReLUs on either side, by the bounds before any linear programme.
    """

    encoding: Encoding
    tight: bool
    unstable: int

    @property
    def restriction(self) -> Restriction:
        """The restricted network."""
        return self.encoding.restriction


class _Found(NamedTuple):
    """What the searches came to; the first answer's questions stood on the same ground or less.

    Attributes:
      ground: that the last of them stood on, or None where none was needed.
      answers: one for each target that was searched.
    """

    ground: _Ground | None
    answers: Sequence[Answer]


class Decision:
    """The decision of one image."""

    def __init__(self, task: Task, image: np.ndarray, label: int, deadline: float):
        """Takes an image float32 [*input_shape], its label and a deadline of `time.monotonic`."""
        self.task, self.image, self.label, self.deadline = task, image, label, deadline
        self.flat = image.astype(np.float64).ravel()
        self.probe: Probe = probed(task.network, task.inputs, image)

    def run(self) -> Verdict:
        """The verdict; its seconds are left to the caller.

        Raises:
          ValueError: what would be searched is not the network: see `Probe`.
        """
        nothing = _Found(None, ())
        for point in self.probe.misclassified(self.label)[:2]:
            witness = self._replayed(point)
            if witness is not None:
                return self._falsified(witness, nothing)
        if not self.probe.finite:
            reason = "logits that are not finite numbers"
            return _verdict(Verdict(Status.UNKNOWN, None, None, None, 0.0, reason=reason), nothing)
        if self.task.inputs.eps == 0:
            return self._clean()
        return self._searched()

    def _clean(self) -> Verdict:
        """The image is the whole ball: its margin is known, without a bound's rounding."""
        margin = self.probe.deployed[0, self.label] - self.probe.deployed[0]
        margin[self.label] = np.inf
        target = int(margin.argmin())
        least = float(margin[target])
        if least > 0:
            return Verdict(Status.VERIFIED, least, target, None, 0.0)
        return Verdict(Status.UNKNOWN, least, target, None, 0.0, reason="a tie")

    def _searched(self) -> Verdict:
        network, inputs = self.task.network, self.task.inputs
        centre = self.image.astype(np.float64)
        found = enclosed(network.structure, network.weights, centre, self.label, *inputs)
        if not all(np.isfinite(end).all() for ends in found.bounds.values() for end in ends):
            reason = "bounds of pre-activations that are not finite numbers"
            return Verdict(Status.UNKNOWN, None, None, None, 0.0, reason=reason)
        self.probe.check_bounds(found.bounds)
        # What is no finite number proves nothing.
        margin = np.where(np.isfinite(found.margin), found.margin, -np.inf)
        self.probe.check_margins(self.label, margin)
        others = [t for t in np.argsort(margin).tolist() if t != self.label]
        bounds = {target: float(margin[target]) for target in others}
        answers, reasons, ground = [], [], None
        for target in others:
            scale = self.probe.scale(self.label, target)
            if bounds[target] > scale.tolerance * scale.unit:
                continue
            if ground is None:
                ground = self._restricted(found.bounds)
            answer, ground = self._search(target, ground)
            answers.append(answer)
            bounds[target] = np.fmax(bounds[target], answer.bound * scale.unit)
            if answer.outcome is Outcome.PROVEN:
                continue
            witness = self._witness(answer, target, ground)
            if witness is not None:
                return self._falsified(witness, _Found(ground, answers))
            reasons.append(f"target {target}: {answer.reason or 'no point could be replayed'}")
        worst = min(bounds, key=bounds.get)
        margin = float(bounds[worst]) if np.isfinite(bounds[worst]) else None
        status = Status.UNKNOWN if reasons else Status.VERIFIED
        verdict = Verdict(status, margin, worst, None, 0.0, reason="; ".join(reasons))
        return _verdict(verdict, _Found(ground, answers))

    def _restricted(self, bounds) -> _Ground:
        network = self.task.network
        low, high = self.task.inputs.intervals(self.flat)
        restriction = restrict(network.structure, network.maps, low, high, bounds)
        return self._ground(restriction, False, int(restriction.relu.sum()))

    def _ground(self, restriction: Restriction, tight: bool, unstable: int) -> _Ground:
        """The encoding of a restriction, both compared with the network before they are used."""
        self.probe.check_restriction(restriction)
        encoding = encode(restriction, self.flat, l1_radius=self.task.inputs.l1_radius)
        encoding.check(self.probe.points)
        return _Ground(encoding, tight, unstable)

    def _search(self, target: int, ground: _Ground) -> tuple[Answer, _Ground]:
        """One target: descent, a short search; where that was too short, better bounds and more."""
        task = self.task
        if time.monotonic() >= self.deadline:
            return undecided("time limit"), ground
        question = self._question(target, ground)
        if question.margin(question.start) <= -question.tolerance:
            return Answer(Outcome.FOUND, -np.inf, question.start, 0, 0), ground
        other = not isinstance(task.solver, BranchAndBound)
        first = BranchAndBound(task.threads, 1 if other else _FIRST_NODES)
        answer = self._asked(first, question)
        if answer.outcome is not Outcome.UNDECIDED or answer.reason != "node limit":
            return answer, ground
        solves = 0
        if not ground.tight:
            restriction, solves = tightened(
                ground.restriction, self.flat, task.inputs.l1_radius, self.deadline
            )
            ground = self._ground(restriction, True, ground.unstable)
            question = self._question(target, ground)
        again = self._asked(task.solver, question)
        return again._replace(
            point=answer.point if again.point is None else again.point,
            bound=max(answer.bound, again.bound),
            nodes=answer.nodes + again.nodes,
            solves=answer.solves + solves + again.solves,
        ), ground

    def _question(self, target: int, ground: _Ground) -> Question:
        """Of the margin in the units in which tolerances are meant."""
        row, constant = ground.restriction.margin(self.label, target)
        unit, tolerance = self.probe.scale(self.label, target)
        row, constant = row / unit, constant / unit
        # Descent stays within intervals of pixels: of an l_1 ball it knows nothing.
        linf = self.task.inputs.norm == "linf"
        start = descend(ground.restriction, row, self.flat) if linf else self.flat
        return Question(ground.encoding, row, constant, start, tolerance)

    def _asked(self, solver: Solver, question: Question) -> Answer:
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            return undecided("time limit")
        answer = solver.decide(question, seconds)
        if answer.outcome is Outcome.PROVEN and not (question.tolerance < answer.bound < np.inf):
            reason = f"{solver.name}: a proof without a bound"
            return answer._replace(outcome=Outcome.UNDECIDED, reason=reason)
        return answer

    def _witness(self, answer: Answer, target: int, ground: _Ground) -> _Witness | None:
        """The answer's point, or one that descent finds from it, where the model is wrong."""
        if answer.point is None:
            return None
        witness = self._replayed(answer.point)
        if witness is None and self.task.inputs.norm == "linf":
            row, _ = ground.restriction.margin(self.label, target)
            witness = self._replayed(descend(ground.restriction, row, answer.point))
        return witness

    def _replayed(self, point: np.ndarray) -> _Witness | None:
        """The point [n] in float32, if it is inside and the model classifies it wrongly."""
        inputs, image = self.task.inputs, self.image[None]
        candidate = point.reshape(image.shape).astype(np.float32)
        candidate = settle(image, candidate, *inputs)
        label = np.array([self.label])
        found = replay(
            self.task.network.model,
            image,
            candidate,
            label,
            inputs.eps,
            norm=inputs.norm,
            box=inputs.box,
        )
        if not found.success[0]:
            return None
        return _Witness(candidate[0], int(found.predicted[0]))

    def _falsified(self, witness: _Witness, found: _Found) -> Verdict:
        image, predicted = witness
        return _verdict(Verdict(Status.FALSIFIED, None, predicted, image, 0.0), found)


def _verdict(verdict: Verdict, found: _Found) -> Verdict:
    """The verdict with what the searches took."""
    ground, answers = found
    return dataclasses.replace(
        verdict,
        unstable=0 if ground is None else ground.unstable,
        binaries=0 if ground is None else len(ground.encoding.unstable),
        nodes=sum(answer.nodes for answer in answers),
        solves=sum(answer.solves for answer in answers),
    )
