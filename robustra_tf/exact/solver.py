"""What is asked of a solver and what it may answer."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

import numpy as np

from robustra_tf.exact.encoding import Encoding
from robustra_tf.exact.leaves import Keeper

#: A margin counts as positive where it is proven to be at least this, when its logits are scaled
#: to about ten. Rounding of a certified bound is subtracted from it (`certified_bound`); what is
#: left for this to cover is the rounding of float32 forward passes, so that a proof holds for the
#: network as it is deployed, and the feasibility tolerances of mixed-integer solvers, 1e-6.
TOLERANCE = 1e-4


# What is taken off the bounds of mixed-integer solvers, for their tolerances.
_TRUST = 1e-5


class Outcome(enum.StrEnum):
    """What became of a question."""

    PROVEN = "proven"
    FOUND = "found"
    UNDECIDED = "undecided"


class Question(NamedTuple):
    """Is there an input where the margin `row u + constant` is not positive, or none of several is?

    Attributes:
      encoding: the inputs and the network on them; of several rows `with_greatest` of them.
      row: [n + m] on the pixels and units of the restriction; or several, [k, n + m].
      constant: a number; or of several rows [k].
      start: an input [n] to begin with, or None.
      tolerance: a margin counts as positive above it, and as negative below minus it.
      keeper: closes domains by bounds that can be checked, where a proof is wanted.
    """

    encoding: Encoding
    row: np.ndarray
    constant: float | np.ndarray
    start: np.ndarray | None = None
    tolerance: float = TOLERANCE
    keeper: Keeper | None = None

    @property
    def cost(self) -> np.ndarray:
        """What is minimised: coefficients on the columns of the encoding."""
        if self.row.ndim == 1:
            return self.encoding.cost(self.row)
        return np.eye(1, len(self.encoding.relaxed.lower), len(self.encoding.relaxed.lower) - 1)[0]

    @property
    def shift(self) -> float:
        """The constant beside the cost."""
        return float(self.constant) if self.row.ndim == 1 else 0.0

    def margin(self, x: np.ndarray) -> float:
        """The network's own margin at the input `x` [n]; of several the greatest."""
        u = self.encoding.restriction.values(x[None])[0][0]
        return float(np.max(self.row @ u + self.constant))


class Answer(NamedTuple):
    """What a solver found.

    Attributes:
      outcome: PROVEN: the margin is above the question's tolerance everywhere. FOUND: at `point`
        it is not positive. UNDECIDED: anything else, whatever the reason.
      bound: a proven lower bound of the margin, or -inf.
      point: the input [n] of the smallest margin found, or None.
      nodes: of the search tree.
      solves: of programmes.
      reason: why nothing was decided; empty otherwise.
    """

    outcome: Outcome
    bound: float
    point: np.ndarray | None
    nodes: int
    solves: int
    reason: str = ""


class Solver(Protocol):
    """A way to answer questions."""

    name: str

    def decide(self, question: Question, seconds: float) -> Answer:
        """Answers within about so many seconds.

        Failures of any kind are UNDECIDED, with a reason: an answer is never better than what was
        proven, and a FOUND point is checked again by whoever asked.
        """
        ...


def undecided(reason: str, bound: float = -np.inf, point=None, nodes=0, solves=0) -> Answer:
    """The answer of a solver that did not come to an end."""
    return Answer(Outcome.UNDECIDED, bound, point, nodes, solves, reason)


def judge(question: Question, bound: float, point, nodes: int, solves: int, reason: str) -> Answer:
    """What a mixed-integer solver's `bound` and `point` allow; undecided by `reason` if neither."""
    bound -= _TRUST
    if question.tolerance < bound < np.inf:
        return Answer(Outcome.PROVEN, bound, point, nodes, solves)
    if point is not None and question.margin(point) <= 0:
        return Answer(Outcome.FOUND, bound, point, nodes, solves)
    return undecided(reason, bound, point, nodes, solves)


def both(first: Answer, second: Answer) -> Answer:
    """The later answer, with the work of both and the better bound."""
    return second._replace(
        point=first.point if second.point is None else second.point,
        bound=max(first.bound, second.bound),
        nodes=first.nodes + second.nodes,
        solves=first.solves + second.solves,
    )
