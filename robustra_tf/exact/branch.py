"""Branch and bound over the phases of ReLUs, with bounds that need no trust in the solver."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from robustra_tf.exact.encoding import certified_bound
from robustra_tf.exact.highs import LinearProgrammes, Solved
from robustra_tf.exact.leaves import Keeper
from robustra_tf.exact.solver import Answer, Outcome, Question, undecided

# Beyond this much, `h` and `s` are both positive: the relaxation is not the ReLU.
_OPEN = 1e-9


class _Node(NamedTuple):
    """Fixed phases: unit -> whether it is on, as two tuples."""

    units: tuple[int, ...] = ()
    on: tuple[bool, ...] = ()


class BranchAndBound:
    """Answers by a depth-first search over the phases of unstable ReLUs.

    A node is the relaxation with some phases chosen, each by a column's bound alone, so that the
    dual simplex method goes on from the node before. It is closed only where
    `certified_bound`, computed from HiGHS's duals in float64, is above the question's tolerance:
    neither a status nor a tolerance of the solver proves anything. Each solution is a candidate:
    the network's own margin at its pixels decides.

    The next ReLU is the one whose triangle costs the bound most: the dual of its row times how
    much of the row would be left over if the unit kept to `h = max(z, 0)`.
    """

    name = "branch"

    def __init__(
        self,
        threads: int = 1,
        nodes: int | None = None,
        start: Sequence[Mapping[int, bool]] = ({},),
    ):
        """Prepares.

        Args:
          threads: of a solve.
          nodes: the most of a search; None is no limit.
          start: domains that are searched, of the phases of unstable ReLUs by their places; by
            default the whole ball. What is proven is proven of these.
        """
        self._threads, self._limit = threads, nodes
        self._start = [_Node(tuple(fixed), tuple(fixed.values())) for fixed in start]

    def decide(self, question: Question, seconds: float) -> Answer:
        """See `Solver`."""
        deadline = time.monotonic() + seconds
        try:
            return _Search(question, self._threads, self._limit, deadline).run(self._start)
        except (RuntimeError, ValueError, TypeError) as error:
            return undecided(f"HiGHS failed: {error}")


class _Search:
    """One search."""

    def __init__(self, question: Question, threads: int, limit: int | None, deadline: float):
        self.question, self.limit, self.deadline = question, limit, deadline
        encoding = self.encoding = question.encoding
        self.programme = encoding.relaxed
        self.cost = question.cost
        self.session = LinearProgrammes(self.programme, threads)
        # Twice the tolerance: a solve stopped there is still certified beyond the tolerance.
        self.session.aim(self.cost, 2 * question.tolerance - question.shift)
        self.unstable = encoding.unstable
        self.on = encoding.column(self.unstable)
        self.off = self.on + len(encoding.units)
        self.triangles = self.programme.matrix.shape[0] - len(self.unstable)
        self.best, self.point = np.inf, None
        self.nodes, self.bound, self.open = 0, np.inf, False

    def run(self, start: Sequence[_Node]) -> Answer:
        stack = [(node, -np.inf) for node in start]
        while stack:
            seconds = self.deadline - time.monotonic()
            if seconds <= 0 or self.nodes == self.limit:
                reason = "time limit" if seconds <= 0 else "node limit"
                least = min(self.bound, *(bound for _, bound in stack))
                return self._undecided(reason, least)
            node, above = stack.pop()
            lower, upper = self._columns(node)
            solved = self.session.solve(lower, upper, seconds)
            self.nodes += 1
            bound = max(above, self._certify(node, solved, lower, upper))
            if bound > self.question.tolerance:
                if self.question.keeper is not None:
                    self.question.keeper.close()
                self.bound = min(self.bound, bound)
                continue
            if self._candidate(solved):
                return self._answer(Outcome.FOUND, -np.inf)
            if solved.status not in ("Optimal", "ObjectiveBound", "Infeasible"):
                least = min(self.bound, bound, *(bound for _, bound in stack))
                return self._undecided(f"HiGHS: {solved.status}", least)
            choice = self._choose(node, solved)
            if choice is None:
                # This leaf stays open, but another one may hold a counterexample.
                self.bound, self.open = min(self.bound, bound), True
                continue
            unit, likely = choice
            stack += [
                (_Node((*node.units, unit), (*node.on, on)), bound) for on in (not likely, likely)
            ]
        if self.open:
            reason = "the margin is within the tolerance of zero"
            return self._undecided(reason, self.bound)
        if not np.isfinite(self.bound):
            # The image itself is a point: a programme without any is an error, not a proof.
            return self._undecided("HiGHS: every node infeasible", -np.inf)
        return self._answer(Outcome.PROVEN, self.bound)

    def _answer(self, outcome: Outcome, bound: float) -> Answer:
        return Answer(outcome, bound, self.point, self.nodes, self.nodes)

    def _undecided(self, reason: str, bound: float) -> Answer:
        return undecided(reason, bound, self.point, self.nodes, self.nodes)

    def _columns(self, node: _Node) -> tuple[np.ndarray, np.ndarray]:
        """The columns' bounds of a node: an active unit has `s = 0`, a dead one `h = 0`."""
        upper = self.programme.upper.copy()
        units, on = np.array(node.units, int), np.array(node.on, bool)
        upper[np.where(on, self.off[units], self.on[units])] = 0.0
        return self.programme.lower, upper

    def _certify(self, node: _Node, solved: Solved, lower: np.ndarray, upper: np.ndarray) -> float:
        if self.question.keeper is not None:
            return self._kept(self.question.keeper, node, solved)
        if solved.duals is not None:
            least = certified_bound(self.programme, self.cost, lower, upper, solved.duals)
            return least + self.question.shift
        if solved.ray is not None:
            # `0 >= something positive` for every point: there is none.
            nothing = np.zeros(len(lower))
            for ray in _unit_rays(solved.ray):
                if certified_bound(self.programme, nothing, lower, upper, ray) > _OPEN:
                    return np.inf
        return -np.inf

    def _kept(self, keeper: Keeper, node: _Node, solved: Solved) -> float:
        """As `_certify`, by a bound of which a proof is kept."""
        encoding = self.encoding
        phases = np.zeros(encoding.restriction.units)
        units = encoding.units[self.unstable[list(node.units)]]
        phases[units] = np.where(np.array(node.on, bool), 1.0, -1.0)
        if solved.duals is not None:
            return keeper.bound(encoding, phases, solved.duals, False)
        if solved.ray is not None:
            for ray in _unit_rays(solved.ray):
                if keeper.bound(encoding, phases, ray, True) > _OPEN:
                    return np.inf
        return -np.inf

    def _candidate(self, solved: Solved) -> bool:
        """Whether the network's margin at the solution's pixels is clearly negative."""
        if solved.values is None or not np.isfinite(solved.values).all():
            return False
        x = self.encoding.image(solved.values)
        margin = self.question.margin(x)
        if margin < self.best:
            self.best, self.point = margin, x
        return margin <= -self.question.tolerance

    def _choose(self, node: _Node, solved: Solved) -> tuple[int, bool] | None:
        """The ReLU to branch on, by its place among the unstable, and its likely phase."""
        free = np.ones(len(self.unstable), bool)
        free[list(node.units)] = False
        if not free.any():
            return None
        if solved.values is None or solved.duals is None:
            return int(np.flatnonzero(free)[0]), True
        h, s = solved.values[self.on], solved.values[self.off]
        z = h - s
        r, units = self.encoding.restriction, self.encoding.units[self.unstable]
        slope = r.upper[units] / (r.upper[units] - r.lower[units])
        left = -slope * r.lower[units]
        left -= (1 - slope) * np.maximum(z, 0.0) + slope * np.maximum(-z, 0.0)
        score = np.abs(solved.duals[self.triangles :]) * left
        # Where no triangle binds, the widest gap between relaxation and ReLU.
        gap = np.minimum(h, s)
        score = np.where(free, score + 1e-6 * gap, -np.inf)
        best = int(score.argmax())
        return best, bool(z[best] > 0)


def _unit_rays(ray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ray in either direction, its largest entry 1: what it shows is a matter of ratios alone."""
    unit = ray / max(np.abs(ray).max(initial=0.0), 1e-300)
    return unit, -unit
