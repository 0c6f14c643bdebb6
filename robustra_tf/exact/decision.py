"""How one image is decided, target by target."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from robustra_tf.attacks.replay import replay, settle
from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.descent import descend
from robustra_tf.exact.encoding import Encoding, encode
from robustra_tf.exact.probe import FEW, MANY, Probe, probed
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.solver import Answer, Outcome, Question, Solver, undecided
from robustra_tf.exact.substitution import restrict
from robustra_tf.exact.task import Task
from robustra_tf.exact.tighten import Enclosed, enclosed, tightened
from robustra_tf.exact.verdict import Status, Verdict

# Nodes of the first search. Longer ones pay for bounds by linear programmes, short ones do not.
_FIRST_NODES = 100


class Case(NamedTuple):
    """One image to decide.

    Attributes:
      task: what is the same for every image.
      image: float32 [*input_shape].
      label: its class.
      deadline: of `time.monotonic`.
    """

    task: Task
    image: np.ndarray
    label: int
    deadline: float

    @property
    def flat(self) -> np.ndarray:
        """The image, float64 [n]."""
        return self.image.astype(np.float64).ravel()

    def replayed(self, points: Iterable[np.ndarray]) -> Verdict | None:
        """Falsified by the first of the points [n] that is inside and that the model gets wrong."""
        inputs, image, label = self.task.inputs, self.image[None], np.array([self.label])
        share = inputs.reach(self.flat) / max(inputs.eps, np.finfo(float).tiny)
        for point in points:
            point = self.flat + share * (point - self.flat)
            candidate = settle(image, point.reshape(image.shape).astype(np.float32), *inputs)
            found = replay(
                self.task.network.model,
                image,
                candidate,
                label,
                inputs.eps,
                norm=inputs.norm,
                box=inputs.box,
            )
            if found.success[0]:
                predicted = int(found.predicted[0])
                return Verdict(Status.FALSIFIED, None, predicted, candidate[0], 0.0)
        return None


def decide(case: Case) -> Verdict:
    """The verdict; its seconds are left to the caller.

    Raises:
      ValueError: what would be searched is not the network: see `Probe`.
    """
    network, inputs = case.task.network, case.task.inputs
    probe = probed(network, inputs, case.image, FEW)
    falsified = case.replayed(probe.misclassified(case.label)[:2])
    if falsified is not None:
        return falsified
    if not probe.finite:
        return unknown("logits that are not finite numbers")
    if inputs.eps == 0:
        return _clean(case, probe)
    centre = case.image.astype(np.float64)
    found = enclosed(network.structure, network.weights, centre, case.label, *inputs)
    if not all(np.isfinite(end).all() for ends in found.bounds.values() for end in ends):
        return unknown("bounds of pre-activations that are not finite numbers")
    # What is no finite number proves nothing.
    found = found._replace(margin=np.where(np.isfinite(found.margin), found.margin, -np.inf))
    _compare(probe, case.label, found)
    others = [t for t in np.argsort(found.margin).tolist() if t != case.label]
    left = [t for t in others if not found.margin[t] > probe.scale(case.label, t).least]
    if not left:
        return Verdict(Status.VERIFIED, float(found.margin[others[0]]), others[0], None, 0.0)
    probe = probed(network, inputs, case.image, MANY)
    falsified = case.replayed(probe.misclassified(case.label)[:2])
    if falsified is not None:
        return falsified
    if not probe.finite:
        return unknown("logits that are not finite numbers")
    _compare(probe, case.label, found)
    return _Searches(case, probe).run(found, others)


def unknown(reason: str) -> Verdict:
    """That nothing was decided, and why."""
    return Verdict(Status.UNKNOWN, None, None, None, 0.0, reason=reason)


def _clean(case: Case, probe: Probe) -> Verdict:
    """The image is the whole ball: its margin is known, without a bound's rounding."""
    margin = probe.deployed[0, case.label] - probe.deployed[0]
    margin[case.label] = np.inf
    target = int(margin.argmin())
    least = float(margin[target])
    if least > 0:
        return Verdict(Status.VERIFIED, least, target, None, 0.0)
    return Verdict(Status.UNKNOWN, least, target, None, 0.0, reason="a tie")


def _compare(probe: Probe, label: int, found: Enclosed) -> None:
    probe.check_bounds(found.bounds)
    probe.check_margins(label, found.margin)


class _Ground(NamedTuple):
    """What searches stand on.

    Attributes:
      encoding: of the restricted network, compared with the network.
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


class _Searches:
    """The searches of one image, for what its bounds leave open."""

    def __init__(self, case: Case, probe: Probe):
        self.case, self.task, self.probe = case, case.task, probe

    def run(self, found: Enclosed, others: Sequence[int]) -> Verdict:
        """The verdict over the targets `others`, those of the least bounds first."""
        label = self.case.label
        bounds = {target: float(found.margin[target]) for target in others}
        ground, answers, reasons = self._restricted(found), [], []
        for target in others:
            scale = self.probe.scale(label, target)
            if bounds[target] > scale.least:
                continue
            answer, ground = self._search(target, ground)
            answers.append(answer)
            bounds[target] = float(np.fmax(bounds[target], answer.bound * scale.unit))
            if answer.outcome is Outcome.PROVEN:
                continue
            falsified = self.case.replayed(self._candidates(answer, target, ground))
            if falsified is not None:
                return _with_work(falsified, ground, answers)
            reasons.append(f"target {target}: {answer.reason or 'no point could be replayed'}")
        worst = min(bounds, key=bounds.get)
        margin = bounds[worst] if np.isfinite(bounds[worst]) else None
        status = Status.UNKNOWN if reasons else Status.VERIFIED
        verdict = Verdict(status, margin, worst, None, 0.0, reason="; ".join(reasons))
        return _with_work(verdict, ground, answers)

    def _restricted(self, found: Enclosed) -> _Ground:
        network = self.task.network
        low, high = self.task.inputs.intervals(self.case.flat)
        restriction = restrict(network.structure, network.maps, low, high, found.bounds)
        return self._ground(restriction, False, int(restriction.relu.sum()))

    def _ground(self, restriction: Restriction, tight: bool, unstable: int) -> _Ground:
        """The encoding of a restriction, both compared with the network before they are used."""
        self.probe.check_restriction(restriction)
        encoding = encode(restriction, self.case.flat, l1_radius=self.task.inputs.l1_radius)
        encoding.check(self.probe.points)
        return _Ground(encoding, tight, unstable)

    def _search(self, target: int, ground: _Ground) -> tuple[Answer, _Ground]:
        """One target: descent, a short search; where that was too short, better bounds and more."""
        task, deadline = self.task, self.case.deadline
        if time.monotonic() >= deadline:
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
                ground.restriction, self.case.flat, task.inputs.l1_radius, deadline
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
        row, constant = ground.restriction.margin(self.case.label, target)
        unit, tolerance = self.probe.scale(self.case.label, target)
        row, constant, start = row / unit, constant / unit, self.case.flat
        if self._descends:
            start = descend(ground.restriction, row, start)
        return Question(ground.encoding, row, constant, start, tolerance)

    @property
    def _descends(self) -> bool:
        """Descent stays within intervals of pixels: of an l_1 ball it knows nothing."""
        return self.task.inputs.norm == "linf"

    def _asked(self, solver: Solver, question: Question) -> Answer:
        seconds = self.case.deadline - time.monotonic()
        if seconds <= 0:
            return undecided("time limit")
        answer = solver.decide(question, seconds)
        if answer.outcome is Outcome.PROVEN and not (question.tolerance < answer.bound < np.inf):
            reason = f"{solver.name}: a proof without a bound"
            return answer._replace(outcome=Outcome.UNDECIDED, reason=reason)
        return answer

    def _candidates(self, answer: Answer, target: int, ground: _Ground) -> Iterable[np.ndarray]:
        """The answer's point, and one that descent finds from it."""
        if answer.point is not None:
            yield answer.point
            if self._descends:
                row, _ = ground.restriction.margin(self.case.label, target)
                yield descend(ground.restriction, row, answer.point)


def _with_work(verdict: Verdict, ground: _Ground, answers: Sequence[Answer]) -> Verdict:
    """The verdict with what the searches took."""
    return dataclasses.replace(
        verdict,
        unstable=ground.unstable,
        binaries=len(ground.encoding.unstable),
        nodes=sum(answer.nodes for answer in answers),
        solves=sum(answer.solves for answer in answers),
    )
