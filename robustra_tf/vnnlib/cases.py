"""What conditions on inputs and outputs come to: boxes, each with its polyhedra."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from robustra_tf.vnnlib.syntax import MalformedError
from robustra_tf.vnnlib.terms import Alternatives, Condition

#: Numbers of all boxes together.
MOST_NUMBERS = 2**26

#: `A f <= b`: `A` [m, outputs], `b` [m].
Polyhedron = tuple[np.ndarray, np.ndarray]


class Case(NamedTuple):
    """A box of inputs, and the polyhedra that their outputs must not lie in.

    Attributes:
      lower, upper: [inputs], float64, finite.
      polyhedra: at least one, each of at least one condition.
    """

    lower: np.ndarray
    upper: np.ndarray
    polyhedra: tuple[Polyhedron, ...]


class Specification(NamedTuple):
    """What a file says: no input of a case's box has outputs in one of its polyhedra.

    Attributes:
      inputs, outputs: how many numbers each has, row-major in the network's own order.
      cases: at least one.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]


class _Draft(NamedTuple):
    lower: np.ndarray
    upper: np.ndarray
    rows: list[Condition]


def specification(
    asserted: Iterable[Alternatives], sizes: dict[str, int], joined: Alternatives
) -> Specification:
    """Of assertions: those of one alternative, and the conjunction of all others.

    Args:
      asserted: disjunctions of one conjunction each.
      sizes: the number of inputs `X` and outputs `Y`.
      joined: the other assertions as one disjunction; `[[]]` where there are none.

    Raises:
      MalformedError: no input satisfies it, inputs are unbounded, conditions mix inputs and outputs
        or are none of a box, or outputs may be anything.
    """
    shared = [condition for part in asserted for condition in part[0]]
    ends = np.full(sizes["X"], -np.inf), np.full(sizes["X"], np.inf)
    base = _narrowed(_Draft(*ends, []), shared)
    if sum(map(_bounds_inputs, joined)) * sizes["X"] > MOST_NUMBERS:
        raise MalformedError(0, f"expected boxes of at most {MOST_NUMBERS} numbers together")
    found: dict[tuple[bytes, bytes], tuple[_Draft, list[Polyhedron]]] = {}
    for conditions in joined:
        draft = base and _narrowed(base, conditions)
        if draft is None or not (draft.lower <= draft.upper).all():
            continue
        _check_bounded(draft)
        key = draft.lower.tobytes(), draft.upper.tobytes()
        polyhedra = found.setdefault(key, (draft, []))[1]
        polyhedra.append(_polyhedron(draft.rows, sizes["Y"]))
    if not found:
        raise MalformedError(0, "expected some input to satisfy the assertions, got none")
    cases = (Case(draft.lower, draft.upper, tuple(p)) for draft, p in found.values())
    return Specification(sizes["X"], sizes["Y"], tuple(cases))


def _bounds_inputs(conditions: Sequence[Condition]) -> bool:
    return any(kind == "X" for c in conditions for kind, _ in c.linear.coefficients)


def _narrowed(draft: _Draft, conditions: Sequence[Condition]) -> _Draft | None:
    """The draft with more conditions; None where one of them never holds."""
    lower, upper, rows = draft.lower, draft.upper, list(draft.rows)
    if _bounds_inputs(conditions):
        lower, upper = lower.copy(), upper.copy()
    for condition in conditions:
        coefficients, constant = condition.linear
        kinds = {kind for kind, _ in coefficients}
        if not kinds and constant > 0:
            return None
        if kinds == {"Y"}:
            rows.append(condition)
        elif kinds:
            _bound(condition, lower, upper)
    return _Draft(lower, upper, rows)


def _bound(condition: Condition, lower: np.ndarray, upper: np.ndarray) -> None:
    """Cuts a box by `c x + d <= 0`."""
    coefficients, constant = condition.linear
    if any(kind == "Y" for kind, _ in coefficients):
        raise MalformedError(condition.line, "expected inputs or outputs alone, got both")
    if len(coefficients) != 1:
        names = " and ".join(f"X_{i}" for _, i in sorted(coefficients)[:2])
        raise MalformedError(condition.line, f"expected bounds of one input, got {names}")
    (((_, index), factor),) = coefficients.items()
    end = -constant / factor
    if not np.isfinite(end):
        raise MalformedError(condition.line, f"expected a finite bound of X_{index}, got {end}")
    if factor > 0:
        upper[index] = min(upper[index], end)
    else:
        lower[index] = max(lower[index], end)


def _check_bounded(draft: _Draft) -> None:
    for name, ends in (("lower", draft.lower), ("upper", draft.upper)):
        if not np.isfinite(ends).all():
            index = int(np.argmin(np.isfinite(ends)))
            raise MalformedError(0, f"expected bounded inputs, X_{index} has no {name} bound")


def _polyhedron(rows: Sequence[Condition], outputs: int) -> Polyhedron:
    if not rows:
        raise MalformedError(0, "expected conditions on outputs: without one every input is sat")
    matrix, bounds = np.zeros((len(rows), outputs)), np.zeros(len(rows))
    for row, condition in enumerate(rows):
        for (_, index), value in condition.linear.coefficients.items():
            matrix[row, index] = value
        bounds[row] = -condition.linear.constant
    return matrix, bounds


def grouped(
    given: Specification,
) -> list[tuple[np.ndarray, np.ndarray, tuple[Polyhedron, ...]]]:
    """Cases of the same polyhedra together: their ends [n, inputs], and the polyhedra."""
    found: dict[tuple, list[Case]] = {}
    for case in given.cases:
        key = tuple(part.tobytes() for polyhedron in case.polyhedra for part in polyhedron)
        found.setdefault(key, []).append(case)
    return [
        (np.stack([c.lower for c in cases]), np.stack([c.upper for c in cases]), cases[0].polyhedra)
        for cases in found.values()
    ]
