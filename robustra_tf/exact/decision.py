"""How one image is decided, target by target: group by group of conditions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.case import Case
from robustra_tf.exact.descent import descend
from robustra_tf.exact.encoding import Encoding, encode
from robustra_tf.exact.goal import Goal
from robustra_tf.exact.probe import FEW, MANY, Probe, Scale
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.solver import Answer, Outcome, Question, Solver, undecided
from robustra_tf.exact.substitution import restrict
from robustra_tf.exact.tighten import Enclosed, enclosed, tightened
from robustra_tf.exact.verdict import Status, Verdict

# How the reasons of solvers end that ran out of time.
LATE = ("time limit", "TimeLimit")
# Nodes of the first search. Longer ones pay for bounds by linear programmes, short ones do not.
_FIRST_NODES = 100


def decide(case: Case) -> Verdict:
    """The verdict; its seconds are left to the caller.

    Raises:
      ValueError: what would be searched is not the network: see `Probe`.
    """
    network, goal = case.task.network, case.goal
    probe = case.probed(FEW)
    falsified = case.replayed(probe.unsafe(goal.conditions)[:2])
    if falsified is not None:
        return falsified
    if not probe.finite:
        return unknown("logits that are not finite numbers")
    if case.inputs.single(case.flat):
        return _clean(case, probe)
    centre = case.image.astype(np.float64)
    found = enclosed(network.structure, network.weights, centre, goal.rows, *case.inputs)
    if not all(np.isfinite(end).all() for ends in found.bounds.values() for end in ends):
        return unknown("bounds of pre-activations that are not finite numbers")
    # What is no finite number proves nothing.
    found = found._replace(margin=np.where(np.isfinite(found.margin), found.margin, -np.inf))
    _compare(probe, goal, found)
    margins = found.margin - goal.offset
    bounds = {number: float(margins[places].max()) for number, places in goal.groups.items()}
    others = sorted(bounds, key=lambda number: bounds[number])
    if all(_proven(goal, probe, margins, number) for number in others):
        return Verdict(Status.VERIFIED, bounds[others[0]], others[0], None, 0.0)
    probe = case.probed(MANY)
    falsified = case.replayed(probe.unsafe(goal.conditions)[:2])
    if falsified is not None:
        return falsified
    if not probe.finite:
        return unknown("logits that are not finite numbers")
    _compare(probe, goal, found)
    left = [number for number in others if not _proven(goal, probe, margins, number)]
    return _Searches(case, probe).run(found, bounds, left)


def unknown(reason: str) -> Verdict:
    """That nothing was decided, and why."""
    return Verdict(Status.UNKNOWN, None, None, None, 0.0, reason=reason)


def _clean(case: Case, probe: Probe) -> Verdict:
    """The image is the whole ball: its margin is known, without a bound's rounding."""
    margins = case.goal.margins(probe.deployed[0])
    target = min(margins, key=lambda number: margins[number])
    least = margins[target]
    # The model's own outputs are safe, or it were falsified; a label may be saved by a tie.
    if least > 0:
        return Verdict(Status.VERIFIED, least, target, None, 0.0)
    return Verdict(Status.UNKNOWN, least, target, None, 0.0, reason="a tie")


def _proven(goal: Goal, probe: Probe, margins: np.ndarray, number: int) -> bool:
    """Whether lower bounds [k] of margins keep a group out."""
    return any(
        margins[place] > probe.scale(goal.rows[place], goal.offset[place]).least
        for place in goal.groups[number]
    )


def _compare(probe: Probe, goal: Goal, found: Enclosed) -> None:
    probe.check_bounds(found.bounds)
    probe.check_margins(goal.rows, found.margin)


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
        self.inputs = case.inputs

    def run(self, found: Enclosed, bounds: dict[int, float], left: Sequence[int]) -> Verdict:
        """The verdict over the groups `left`, those of the least bounds first.

        Args:
          found: what the dual proves.
          bounds: of the greatest margin of each group.
          left: the groups that these do not keep out.
        """
        ground, answers, reasons = self._restricted(found), [], []
        for number in left:
            answer, ground = self._search(number, ground)
            answers.append(answer)
            bounds[number] = float(np.fmax(bounds[number], self._bound(answer, number)))
            if answer.outcome is Outcome.PROVEN:
                continue
            falsified = self.case.replayed(self._candidates(answer, number, ground))
            if falsified is not None:
                return _with_work(falsified, ground, answers)
            reasons.append((number, answer.reason or "no point could be replayed"))
        worst = min(bounds, key=lambda number: bounds[number])
        margin = bounds[worst] if np.isfinite(bounds[worst]) else None
        status = Status.VERIFIED
        if reasons:
            late = any(reason.endswith(LATE) for _, reason in reasons)
            status = Status.TIMEOUT if late else Status.UNKNOWN
        text = "; ".join(f"target {number}: {reason}" for number, reason in reasons)
        verdict = Verdict(status, margin, worst, None, 0.0, reason=text)
        return _with_work(verdict, ground, answers)

    def _bound(self, answer: Answer, number: int) -> float:
        """What an answer, in the units of each of a group's margins, says of the greatest."""
        units = [scale.unit for scale in self._scales(number)]
        return answer.bound * (min(units) if answer.bound > 0 else max(units))

    def _scales(self, number: int) -> list[Scale]:
        goal = self.case.goal
        places = goal.groups[number]
        return [self.probe.scale(goal.rows[place], goal.offset[place]) for place in places]

    def _restricted(self, found: Enclosed) -> _Ground:
        network = self.task.network
        low, high = self.inputs.intervals(self.case.flat)
        restriction = restrict(network.structure, network.maps, low, high, found.bounds)
        return self._ground(restriction, False, int(restriction.relu.sum()))

    def _ground(self, restriction: Restriction, tight: bool, unstable: int) -> _Ground:
        """The encoding of a restriction, both compared with the network before they are used."""
        self.probe.check_restriction(restriction)
        encoding = encode(restriction, self.case.flat, l1_radius=self.inputs.l1_radius)
        encoding.check(self.probe.points)
        return _Ground(encoding, tight, unstable)

    def _search(self, number: int, ground: _Ground) -> tuple[Answer, _Ground]:
        """One group: descent, a short search; where that was too short, better bounds and more."""
        task, deadline = self.task, self.case.deadline
        if time.monotonic() >= deadline:
            return undecided("time limit"), ground
        question = self._question(number, ground)
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
                ground.restriction, self.case.flat, self.inputs.l1_radius, deadline
            )
            ground = self._ground(restriction, True, ground.unstable)
            question = self._question(number, ground)
        again = self._asked(task.solver, question)
        return again._replace(
            point=answer.point if again.point is None else again.point,
            bound=max(answer.bound, again.bound),
            nodes=answer.nodes + again.nodes,
            solves=answer.solves + solves + again.solves,
        ), ground

    def _question(self, number: int, ground: _Ground) -> Question:
        """Of a group's margins in the units in which tolerances are meant."""
        rows, constants = self._margins(number, ground)
        tolerance, start = max(scale.tolerance for scale in self._scales(number)), self.case.flat
        if self._descends:
            start = descend(ground.restriction, rows, constants, start)
        if len(rows) == 1:
            row, constant = rows[0], float(constants[0])
            return Question(ground.encoding, row, constant, start, tolerance)
        encoding = ground.encoding.with_greatest(rows, constants)
        encoding.check(self.probe.points)
        return Question(encoding, rows, constants, start, tolerance)

    def _margins(self, number: int, ground: _Ground) -> tuple[np.ndarray, np.ndarray]:
        """A group's margins on the restricted network, each in its own unit."""
        goal = self.case.goal
        rows, constants = [], []
        for place, scale in zip(goal.groups[number], self._scales(number), strict=True):
            row, constant = ground.restriction.margin(goal.rows[place], goal.offset[place])
            rows.append(row / scale.unit)
            constants.append(constant / scale.unit)
        return np.stack(rows), np.array(constants)

    @property
    def _descends(self) -> bool:
        """Descent stays within intervals of pixels: of an l_1 ball it knows nothing."""
        return self.inputs.norm == "linf"

    def _asked(self, solver: Solver, question: Question) -> Answer:
        seconds = self.case.deadline - time.monotonic()
        if seconds <= 0:
            return undecided("time limit")
        answer = solver.decide(question, seconds)
        if answer.outcome is Outcome.PROVEN and not (question.tolerance < answer.bound < np.inf):
            reason = f"{solver.name}: a proof without a bound"
            return answer._replace(outcome=Outcome.UNDECIDED, reason=reason)
        return answer

    def _candidates(self, answer: Answer, number: int, ground: _Ground) -> Iterable[np.ndarray]:
        """The answer's point, and one that descent finds from it."""
        if answer.point is not None:
            yield answer.point
            if self._descends:
                margins = self._margins(number, ground)
                yield descend(ground.restriction, *margins, answer.point)


def _with_work(verdict: Verdict, ground: _Ground, answers: Sequence[Answer]) -> Verdict:
    """The verdict with what the searches took."""
    return dataclasses.replace(
        verdict,
        unstable=ground.unstable,
        binaries=len(ground.encoding.unstable),
        nodes=sum(answer.nodes for answer in answers),
        solves=sum(answer.solves for answer in answers),
    )
