"""Terms and conditions of VNN-LIB 1.0 as linear functions and disjunctions of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from robustra_tf.vnnlib.syntax import Form, MalformedError, Token

#: An input or an output by its number: `("X", 3)`.
Variable = tuple[str, int]
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: Of alternatives that a text may come to when its disjunctions are multiplied out.
MOST_ALTERNATIVES = 2**16


class Linear(NamedTuple):
    """`sum_v coefficients[v] v + constant`."""

    coefficients: dict[Variable, float]
    constant: float = 0.0

    def plus(self, other: Linear, factor: float = 1.0) -> Linear:
        """`self + factor other`; coefficients that cancel are gone."""
        total = dict(self.coefficients)
        for variable, value in other.coefficients.items():
            total[variable] = total.get(variable, 0.0) + factor * value
        kept = {variable: value for variable, value in total.items() if value}
        return Linear(kept, self.constant + factor * other.constant)


class Condition(NamedTuple):
    """`linear <= 0`, as line `line` says."""

    linear: Linear
    line: int


#: A disjunction of conjunctions.
Alternatives = list[list[Condition]]


def linear(term: Form | Token, declared: Collection[Variable]) -> Linear:
    """A term as a linear function of the declared variables.

    Raises:
      MalformedError: an unknown name or operator, a product of variables, a number out of range.
    """
    found = _word(term, declared) if isinstance(term, Token) else _operation(term, declared)
    if not all(map(math.isfinite, (*found.coefficients.values(), found.constant))):
        raise MalformedError(term.line, f"expected numbers in the range of float64, got {term}")
    return found


def _word(token: Token, declared: Collection[Variable]) -> Linear:
    if number := _NUMBER.fullmatch(token.text):
        value = float(token.text)
        if not value and number[1].strip("0."):
            raise MalformedError(token.line, f"expected numbers that float64 has, got {token}")
        return Linear({}, value)
    variable = variable_of(token)
    if variable is None or variable not in declared:
        raise MalformedError(token.line, f"expected a number or a declared name, got {token}")
    return Linear({variable: 1.0})


def variable_of(token: Token) -> Variable | None:
    """The variable that a word names, `X_0` or `Y_12`; None of other words."""
    match = re.fullmatch(r"([XY])_(0|[1-9]\d{0,8})", token.text)
    return (match[1], int(match[2])) if match else None


def _operation(form: Form, declared: Collection[Variable]) -> Linear:
    if form.head not in ("+", "-", "*"):
        raise MalformedError(form.line, f"expected a term of +, - or *, got {form}")
    parts = [linear(item, declared) for item in form.items[1:]]
    if not parts:
        raise MalformedError(form.line, f"expected arguments, got {form}")
    if form.head == "*":
        return _product(form, parts)
    if form.head == "-" and len(parts) == 1:
        return Linear({}).plus(parts[0], -1.0)
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part, 1.0 if form.head == "+" else -1.0)
    return total


def _product(form: Form, parts: Sequence[Linear]) -> Linear:
    variable = [part for part in parts if part.coefficients]
    if len(variable) > 1:
        raise MalformedError(form.line, f"expected a linear term, got a product {form}")
    factors = [part.constant for part in parts if not part.coefficients]
    given, factor = variable[0] if variable else Linear({}, 1.0), math.prod(factors)
    values = [*given.coefficients.values(), *filter(None, [given.constant])]
    # A coefficient that vanishes would leave a condition out, or make it one that always holds.
    if all(factors) and not all(value * factor for value in values):
        raise MalformedError(form.line, f"expected products that float64 has, got {form}")
    return Linear({}).plus(given, factor)


def alternatives(form: Form | Token, declared: Collection[Variable]) -> Alternatives:
    """A condition, any nest of `and`, `or`, `<=` and `>=`, as a disjunction of conjunctions.

    Raises:
      MalformedError: another operator, a term that is not linear, too many alternatives.
    """
    if isinstance(form, Token) or form.head not in ("and", "or", "<=", ">="):
        raise MalformedError(form.line, f"expected and, or, <= or >=, got {form}")
    if form.head in ("<=", ">="):
        return [[_comparison(form, declared)]]
    if len(form.items) < 2:
        raise MalformedError(form.line, f"expected arguments, got {form}")
    parts = [alternatives(item, declared) for item in form.items[1:]]
    return combined(form.head, parts, lambda why: MalformedError(form.line, why))


def _comparison(form: Form, declared: Collection[Variable]) -> Condition:
    if len(form.items) != 3:
        raise MalformedError(
            form.line, f"expected two sides of {form.head}, got {len(form.items) - 1}"
        )
    left, right = (linear(item, declared) for item in form.items[1:])
    if form.head == ">=":
        left, right = right, left
    return Condition(left.plus(right, -1.0), form.line)


def combined(
    head: str, parts: Iterable[Alternatives], refused: Callable[[str], Exception]
) -> Alternatives:
    """The conjunction (`and`) or disjunction (`or`) of disjunctions."""
    if head == "or":
        return list(itertools.chain.from_iterable(parts))
    parts = list(parts)
    count = math.prod(map(len, parts))
    # What all alternatives share is not copied for each of them until their number is known.
    length = sum(max(map(len, part)) for part in parts if part)
    if count > MOST_ALTERNATIVES or count * length > 2**24:
        raise refused(f"expected at most {MOST_ALTERNATIVES} alternatives, got {count}")
    return [list(itertools.chain.from_iterable(chosen)) for chosen in itertools.product(*parts)]
