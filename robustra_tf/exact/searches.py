"""The searches of one image, for what its bounds leave open."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from robustra_tf.evidence.steps import Leaf
from robustra_tf.exact.batched import BatchedSearch
from robustra_tf.exact.bounding import Target
from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.case import Case
from robustra_tf.exact.descent import descend
from robustra_tf.exact.ground import Ground, better, compared, phases_on, restricted
from robustra_tf.exact.leaves import Margins
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.probe import Probe, Scale
from robustra_tf.exact.proving import Batch
from robustra_tf.exact.solver import Answer, Outcome, Question, Solver, both, undecided
from robustra_tf.exact.substitution import Bounds
from robustra_tf.exact.tighten import Enclosed, Kept, tightened
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.intake.deadline import LateError

# How the reasons of solvers end that ran out of time.
LATE = ("time limit", "TimeLimit")
# Nodes of the first search. Longer ones pay for better bounds, short ones do not.
_FIRST_NODES = 100
# Seconds for the first searches of all groups, where a search of many domains comes behind them.
_FIRST_SECONDS = 1.0


class Found(NamedTuple):
    """What became of one group: its number, the answer, and on what ground it was searched."""

    number: int
    answer: Answer
    ground: Ground


class Searches:
    """The searches of one image."""

    def __init__(self, case: Case, probe: Probe):
        """Prepares; `probe` has many points of the ball."""
        self.case, self.task, self.probe = case, case.task, probe
        self.inputs = case.inputs
        # Which searches were begun: a dictionary keeps their order.
        self._begun: dict[str, None] = {}
        # What proves the groups that are searched, where that is kept.
        self._leaves: dict[int, list[Leaf]] = {}

    def run(self, found: Enclosed, bounds: dict[int, float], left: Sequence[int]) -> Verdict:
        """The verdict over the groups `left`, those of the least bounds first.

        Args:
          found: what the dual proves.
          bounds: of the greatest margin of each group.
          left: the groups that these do not keep out.

        Raises:
          LateError: the time was over before there was anything to search.
        """
        ground, answers, reasons = restricted(self.case, self.probe, found.bounds), [], []
        for number, answer, stood in self._each(found.bounds, ground, left):
            ground = stood
            answers.append(answer)
            bounds[number] = float(np.fmax(bounds[number], self._bound(answer, number)))
            if answer.outcome is Outcome.PROVEN:
                if self.case.proof is not None:
                    self.case.proof.closed(number, stood.steps, self._leaves[number])
                continue
            falsified = self.case.replayed(self._candidates(answer, number, ground))
            if falsified is not None:
                return self._with_work(falsified, ground, answers)
            reasons.append((number, answer.reason or "no point could be replayed"))
        worst = min(bounds, key=lambda number: bounds[number])
        margin = bounds[worst] if np.isfinite(bounds[worst]) else None
        status = Status.VERIFIED
        if reasons:
            late = any(reason.endswith(LATE) for _, reason in reasons)
            status = Status.TIMEOUT if late else Status.UNKNOWN
        text = "; ".join(f"target {number}: {reason}" for number, reason in reasons)
        verdict = Verdict(status, margin, worst, None, 0.0, reason=text)
        return self._with_work(verdict, ground, answers)

    def _each(self, bounds: Bounds, ground: Ground, left: Sequence[int]) -> Iterator[Found]:
        """What became of every group, where need be that there was no time for it."""
        each, options = self._one_by_one, self.task.domains
        if options is not None:
            each = functools.partial(self._together, options)
        found = set()
        try:
            for one in each(bounds, ground, left):
                found.add(one.number)
                yield one
        except LateError:
            late = undecided("time limit")
            yield from (Found(number, late, ground) for number in left if number not in found)

    def _with_work(self, verdict: Verdict, ground: Ground, answers: Sequence[Answer]) -> Verdict:
        """The verdict with what the searches took."""
        return dataclasses.replace(
            verdict,
            unstable=ground.unstable,
            binaries=len(ground.encoding.unstable),
            nodes=sum(answer.nodes for answer in answers),
            solves=sum(answer.solves for answer in answers),
            search=" ".join(self._begun),
        )

    def _bound(self, answer: Answer, number: int) -> float:
        """What an answer, in the units of each of a group's margins, says of the greatest."""
        units = [scale.unit for scale in self._scales(number)]
        return answer.bound * (min(units) if answer.bound > 0 else max(units))

    def _scales(self, number: int) -> list[Scale]:
        goal = self.case.goal
        places = goal.groups[number]
        return [self.probe.scale(goal.rows[place], float(goal.offset[place])) for place in places]

    def _one_by_one(self, bounds: Bounds, ground: Ground, left: Sequence[int]) -> Iterator[Found]:
        """Group by group: a short search; where that was too short, better bounds and more."""
        del bounds
        for number in left:
            answer, ground = self._search(number, ground)
            yield Found(number, answer, ground)

    def _search(self, number: int, ground: Ground) -> tuple[Answer, Ground]:
        task = self.task
        other = not isinstance(task.solver, BranchAndBound)
        answer = self._first(number, ground, 1 if other else _FIRST_NODES)
        if answer.outcome is not Outcome.UNDECIDED or answer.reason != "node limit":
            return answer, ground
        solves = 0
        if not ground.tight:
            ground, solves = self._tightened(ground)
        again = self._asked(task.solver, self._question(number, ground))
        return both(answer, again._replace(solves=again.solves + solves)), ground

    def _tightened(self, ground: Ground) -> tuple[Ground, int]:
        """The ground with better bounds, and how many programmes these took."""
        proof, steps, kept = self.case.proof, list(ground.steps), None
        if proof is not None:
            kept = Kept(proof.duals, proof.into(steps))
        restriction, solves = tightened(
            ground.restriction, self.case.flat, self.inputs.l1_radius, self.case.deadline, kept
        )
        found = compared(self.case, self.probe, restriction, tight=True)
        return found._replace(unstable=ground.unstable, steps=tuple(steps)), solves

    def _first(self, number: int, ground: Ground, nodes: int, seconds: float = np.inf) -> Answer:
        """Descent, and a search of a few nodes."""
        if time.monotonic() >= self.case.deadline:
            return undecided("time limit")
        question = self._question(number, ground)
        start = question.start
        if start is not None and question.margin(start) <= -question.tolerance:
            return Answer(Outcome.FOUND, -np.inf, start, 0, 0)
        if seconds <= 0:
            return undecided("node limit")
        return self._asked(BranchAndBound(self.task.threads, nodes), question, seconds)

    def _together(
        self, options: SearchOptions, bounds: Bounds, ground: Ground, left: Sequence[int]
    ) -> Iterator[Found]:
        """A short search of every group, then one of many domains for all that are left."""
        short, start, open_ = options.short, time.monotonic(), {}
        for number in left:
            seconds = start + _FIRST_SECONDS - time.monotonic() if short else 0.0
            answer = self._first(number, ground, _FIRST_NODES, seconds)
            if answer.outcome is Outcome.UNDECIDED and answer.reason.endswith(
                (*LATE, "node limit")
            ):
                open_[number] = answer
            else:
                yield Found(number, answer, ground)
        if not open_ or time.monotonic() >= self.case.deadline:
            yield from (Found(number, answer, ground) for number, answer in open_.items())
            return
        nodes = sum(answer.nodes for answer in open_.values())
        cost = (time.monotonic() - start) / nodes if nodes else np.inf
        ground = better(self.case, self.probe, bounds)._replace(unstable=ground.unstable)
        batch = self._batch(list(open_), ground)
        search = BatchedSearch(
            ground.restriction,
            self.case.flat,
            self.inputs.l1_radius,
            {number: self._target(number, ground) for number in open_},
            options,
            None if batch is None else batch.close,
        )
        self._begun[search.name] = None
        search.check(self.probe.points)
        search.run(self.case.deadline, cost, self._replays)
        if batch is not None:
            self._leaves |= dict(zip(open_, batch.leaves, strict=True))
        yield from self._rest(search, bounds, ground, open_)

    def _rest(
        self, search: BatchedSearch, bounds: Bounds, ground: Ground, first: dict[int, Answer]
    ) -> Iterator[Found]:
        """The answers of a search, and of linear programmes on the domains that it hands over."""
        other = None
        for number, before in first.items():
            answer = search.answer(number)
            domains = search.handed(number)
            yet = answer.outcome is Outcome.UNDECIDED and not search.found
            if yet and len(domains) and time.monotonic() < self.case.deadline:
                other = other or restricted(self.case, self.probe, bounds, tight=True)
                phases = phases_on(other.encoding, domains, ground.restriction)
                solver = BranchAndBound(self.task.threads, start=phases)
                closed = self._leaves.get(number, [])
                question = self._question(number, other)
                rest = self._asked(solver, question)
                if question.keeper is not None:
                    self._leaves[number] = closed + question.keeper.leaves
                least = min(search.proven(number), rest.bound)
                answer = both(answer, rest._replace(bound=least))
            yield Found(number, both(before, answer), ground)

    def _replays(self, point: np.ndarray) -> bool:
        return self.case.replayed([point]) is not None

    def _target(self, number: int, ground: Ground) -> Target:
        tolerance = max(scale.tolerance for scale in self._scales(number))
        return Target(*self._margins(number, ground), tolerance)

    def _question(self, number: int, ground: Ground) -> Question:
        """Of a group's margins in the units in which tolerances are meant."""
        rows, constants = self._margins(number, ground)
        tolerance, start = max(scale.tolerance for scale in self._scales(number)), self.case.flat
        keeper = None
        if self.case.proof is not None:
            margins = self._measured(number, ground)
            keeper = self.case.proof.keeper(ground.restriction, margins)
            self._leaves[number] = keeper.leaves
        if self._descends:
            start = descend(ground.restriction, rows, constants, start)
        if len(rows) == 1:
            row, constant = rows[0], float(constants[0])
            return Question(ground.encoding, row, constant, start, tolerance, keeper)
        encoding = ground.encoding.with_greatest(rows, constants)
        encoding.check(self.probe.points)
        return Question(encoding, rows, constants, start, tolerance, keeper)

    def _measured(self, number: int, ground: Ground) -> Margins:
        units = np.array([scale.unit for scale in self._scales(number)])
        return Margins(*self._margins(number, ground), units)

    def _batch(self, numbers: Sequence[int], ground: Ground) -> Batch | None:
        """What keeps the domains that a search closes, where a proof is wanted."""
        if self.case.proof is None:
            return None
        named = self.case.proof.named(ground.restriction)
        return Batch(named, [self._measured(number, ground) for number in numbers])

    def _margins(self, number: int, ground: Ground) -> tuple[np.ndarray, np.ndarray]:
        """A group's margins on the restricted network, each in its own unit."""
        goal = self.case.goal
        rows, constants = [], []
        for place, scale in zip(goal.groups[number], self._scales(number), strict=True):
            row, constant = ground.restriction.margin(goal.rows[place], float(goal.offset[place]))
            rows.append(row / scale.unit)
            constants.append(constant / scale.unit)
        return np.stack(rows), np.array(constants)

    @property
    def _descends(self) -> bool:
        """Descent stays within intervals of pixels: of an l_1 ball it knows nothing."""
        return self.inputs.norm == "linf"

    def _asked(self, solver: Solver, question: Question, seconds: float = np.inf) -> Answer:
        seconds = min(seconds, self.case.deadline - time.monotonic())
        if seconds <= 0:
            return undecided("time limit")
        self._begun[solver.name] = None
        answer = solver.decide(question, seconds)
        if answer.outcome is Outcome.PROVEN and not (question.tolerance < answer.bound < np.inf):
            reason = f"{solver.name}: a proof without a bound"
            return answer._replace(outcome=Outcome.UNDECIDED, reason=reason)
        return answer

    def _candidates(self, answer: Answer, number: int, ground: Ground) -> Iterable[np.ndarray]:
        """The answer's point, and one that descent finds from it."""
        if answer.point is not None:
            yield answer.point
            if self._descends:
                margins = self._margins(number, ground)
                yield descend(ground.restriction, *margins, answer.point)
