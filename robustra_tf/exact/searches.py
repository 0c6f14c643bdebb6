"""The searches of one image, for what its bounds leave open."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from robustra_tf.evidence.steps import Leaf, Step
from robustra_tf.exact.batched import BatchedSearch
from robustra_tf.exact.branch import BranchAndBound
from robustra_tf.exact.case import Case
from robustra_tf.exact.descent import descend
from robustra_tf.exact.ground import Ground, better, compared, finer, phases_on, restricted
from robustra_tf.exact.measured import Measured
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.probe import Probe
from robustra_tf.exact.proving import Batch
from robustra_tf.exact.refining import Rounds
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
        self._measured = Measured(case, probe)
        # Which searches were begun: a dictionary keeps their order.
        self._begun: dict[str, None] = {}
        # What proves the groups that are searched, where that is kept.
        self._leaves: dict[int, list[Leaf]] = {}
        self._cuts: dict[int, list[Step]] = {}

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
            proven = self._measured.bound(number, answer.bound)
            bounds[number] = float(np.fmax(bounds[number], proven))
            if answer.outcome is Outcome.PROVEN:
                if self.case.proof is not None:
                    steps = (*stood.steps, *self._cuts.get(number, ()))
                    self.case.proof.closed(number, steps, self._leaves[number])
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
        yield from self._in_rounds(options, bounds, ground, open_, cost)

    def _in_rounds(
        self,
        options: SearchOptions,
        bounds: Bounds,
        ground: Ground,
        first: dict[int, Answer],
        cost: float,
    ) -> Iterator[Found]:
        """Searches of many domains, each on better bounds than the one before."""
        # Refined bounds have no place in a proof.
        refines = self.case.proof is None
        rounds = Rounds(ground.restriction.units if refines else np.inf)
        while True:
            batch = self._batch(list(first), ground)
            search = BatchedSearch(
                ground.restriction,
                self.case.flat,
                self.inputs.l1_radius,
                {n: self._measured.target(n, ground.restriction) for n in first},
                options,
                batch,
            )
            self._begun[search.name] = None
            search.check(self.probe.points)
            if not search.run(self.case.deadline, cost, self._replays, rounds.nodes):
                break
            for number, before in list(first.items()):
                first[number] = both(before, search.answer(number))
                if first[number].outcome is Outcome.PROVEN:
                    yield Found(number, first.pop(number), ground)
            loose, most = ground.restriction, options.waiting(search.size)
            how = rounds.refinement(self.case.deadline, most)
            ground = finer(self.case, self.probe, bounds, ground, how)
            rounds.go_on(loose, ground.restriction)
        if batch is not None:
            self._leaves |= dict(zip(first, batch.leaves, strict=True))
            self._cuts |= dict(zip(first, batch.steps, strict=True))
        yield from self._rest(search, bounds, ground, first)

    def _rest(
        self, search: BatchedSearch, bounds: Bounds, ground: Ground, first: dict[int, Answer]
    ) -> Iterator[Found]:
        """The answers of a search, and of linear programmes on the domains that it hands over."""
        other = None
        for number, before in first.items():
            answer = search.answer(number)
            domains = search.handed(number)
            yet = answer.outcome is Outcome.UNDECIDED and not search.found
            yet &= not self._cuts.get(number)  # of which programmes know nothing
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

    def _question(self, number: int, ground: Ground) -> Question:
        """Of a group's margins in the units in which tolerances are meant."""
        rows, constants = self._measured.margins(number, ground.restriction)
        tolerance, start = self._measured.tolerance(number), self.case.flat
        keeper = None
        if self.case.proof is not None:
            margins = self._measured.written(number, ground.restriction)
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

    def _batch(self, numbers: Sequence[int], ground: Ground) -> Batch | None:
        """What keeps the domains that a search closes, where a proof is wanted."""
        proof, r = self.case.proof, ground.restriction
        return proof and proof.batch(r, [self._measured.written(n, r) for n in numbers])

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
                margins = self._measured.margins(number, ground.restriction)
                yield descend(ground.restriction, *margins, answer.point)
