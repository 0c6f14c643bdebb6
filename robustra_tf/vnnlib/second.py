"""VNN-LIB 2.0 by the package `vnnlib`: its typed syntax tree as the same alternatives as 1.0's."""

from __future__ import annotations

import importlib
import json
import math
from typing import Any, NamedTuple

from robustra_tf.vnnlib.syntax import MalformedError
from robustra_tf.vnnlib.terms import Alternatives, Condition, Linear, combined

#: The package's names of types -> those of the language, as far as they are read.
KINDS = {"Real": "real", "F32": "float32", "F64": "float64"}
_SIGNS = {"LessEqual": (1.0,), "GreaterEqual": (-1.0,), "Equal": (1.0, -1.0)}


class Tensor(NamedTuple):
    """An input or an output as a query declares it: its name, type and shape."""

    name: str
    kind: str
    shape: tuple[int, ...]


class Signature(NamedTuple):
    """What a query of version 2.0 calls its one network, and that network's input and output."""

    network: str
    input: Tensor
    output: Tensor


def parse_second(text: str) -> tuple[list[Alternatives], dict[str, int]]:
    """The assertions of a text, and the numbers of inputs `X` and outputs `Y`.

    Raises:
      ImportError: the package is not installed.
      MalformedError: the package refuses it, or it speaks of more than one network, input or
        output, of hidden layers, strict inequalities or `!=`.
    """
    query, names = _parsed(text)
    sizes = {"X": math.prod(names.input.shape), "Y": math.prod(names.output.shape)}
    kinds = {names.input.name: "X", names.output.name: "Y"}
    try:
        return [_alternatives(each.expr, kinds) for each in query.assertions], sizes
    except _package().VNNLibException as error:
        raise _refused(error) from error


def signature(text: str) -> Signature:
    """What a text of version 2.0 calls its network, input and output; raises as `parse_second`."""
    return _parsed(text)[1]


def _parsed(text: str) -> tuple[Any, Signature]:
    package = _package()
    try:
        query = package.parse_query_string(text)
    except package.VNNLibException as error:
        raise _refused(error) from error
    if len(query.networks) != 1:
        raise MalformedError(0, f"expected one network, got {len(query.networks)}")
    (network,) = query.networks
    if network.hidden:
        raise MalformedError(0, f"expected inputs and outputs, got hidden {network.hidden[0].name}")
    ends = _tensor("input", network.inputs), _tensor("output", network.outputs)
    return query, Signature(network.name, *ends)


def _package() -> Any:
    try:
        return importlib.import_module("vnnlib")
    except ImportError as error:
        raise ImportError(
            "VNN-LIB 2.0 needs the package vnnlib: pip install 'robustra-tf[onnx]'"
        ) from error


def _refused(error: Exception) -> MalformedError:
    """The first fault that the package tells, as one line."""
    text = str(error)
    try:
        fault = json.loads(text)["errors"][0]
        hint = f"{fault['message']}: {fault['offendingSymbol']!r}. {fault['hint']}"
        return MalformedError(int(fault["line"]), hint)
    except (ValueError, LookupError, TypeError):
        return MalformedError(0, " ".join(text.split()))


def _tensor(what: str, definitions: tuple[Any, ...]) -> Tensor:
    if len(definitions) != 1:
        raise MalformedError(0, f"expected one {what}, got {len(definitions)}")
    (given,) = definitions
    kind = given.dtype.name
    if kind not in KINDS:
        raise MalformedError(0, f"expected {what} {given.name!r} of float32, got {kind}")
    return Tensor(given.name, KINDS[kind], tuple(given.shape))


def _alternatives(expression: Any, kinds: dict[str, str]) -> Alternatives:
    kind = type(expression).__name__
    if kind in ("And", "Or"):
        parts = [_alternatives(each, kinds) for each in expression.args]
        return combined(kind.lower(), parts, lambda why: MalformedError(0, why))
    if kind not in _SIGNS:
        raise MalformedError(0, f"expected and, or, <=, >= or ==, got {expression}")
    left, line = _linear(expression.lhs, kinds)
    right, other = _linear(expression.rhs, kinds)
    difference = left.plus(right, -1.0)
    return [[Condition(Linear({}).plus(difference, sign), line or other) for sign in _SIGNS[kind]]]


def _linear(term: Any, kinds: dict[str, str]) -> tuple[Linear, int]:
    """A term, and the line of its first variable or 0."""
    found, total, line = term.to_linear_expr(), Linear({}), 0
    for each in found.terms:
        index, variable = 0, each.var
        for place, size in zip(variable.indices, variable.shape, strict=True):
            index = index * size + place
        one = Linear({(kinds[variable.name], index): 1.0})
        total, line = total.plus(one, each.coeff), line or variable.line
    total = total.plus(Linear({}, 1.0), found.constant)
    if not all(map(math.isfinite, (*total.coefficients.values(), total.constant))):
        raise MalformedError(line, f"expected numbers in the range of float64, got {term}")
    return total, line
