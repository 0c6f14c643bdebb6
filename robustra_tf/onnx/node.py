"""One node of an ONNX graph as its handler sees it, and the table of handlers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from robustra_tf.onnx.values import Value

Operand = Value | np.ndarray
Handler = Callable[["Node"], Operand | list[Operand]]
#: By the type of a node of ONNX's own operators.
HANDLERS: dict[str, Handler] = {}


class RefusedError(ValueError):
    """A node that is not read; the text has its name and type."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A node whose inputs are known.

    Attributes:
      kind: its type.
      name: its own, or that of its first output.
      inputs: values that depend on the network's input, constants, None where one is left out.
      attributes: as Python's and NumPy's values.
      outputs: how many are named.
    """

    kind: str
    name: str
    inputs: tuple[Operand | None, ...]
    attributes: dict[str, Any]
    outputs: int = 1

    def refused(self, reason: str) -> RefusedError:
        """The error for it."""
        return RefusedError(f"node {self.name!r} of type {self.kind}: {reason}")

    def operand(self, place: int) -> Operand | None:
        """An input; None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def value(self, place: int = 0) -> Value:
        """An input that depends on the network's."""
        found = self.operand(place)
        if not isinstance(found, Value):
            what = "nothing" if found is None else "a constant"
            raise self.refused(f"expected input {place} to depend on the network's, got {what}")
        return found

    def constant(self, place: int) -> np.ndarray | None:
        """An input that is constant; None where it is left out."""
        found = self.operand(place)
        if isinstance(found, Value):
            raise self.refused(f"expected input {place} to be constant")
        return found

    def weight(self, place: int) -> np.ndarray:
        """A constant input that must be there, in float64."""
        return self.given(place).astype(np.float64)

    def given(self, place: int) -> np.ndarray:
        """A constant input that must be there, as it is."""
        found = self.constant(place)
        if found is None:
            raise self.refused(f"expected input {place}, got none")
        return found

    def wholes(self, name: str, place: int) -> list[int]:
        """`whole`, of what must be there."""
        found = self.whole(name, place)
        if found is None:
            raise self.refused(f"expected {name}, got none")
        return found

    def whole(self, name: str, place: int) -> list[int] | None:
        """Whole numbers that are an attribute in old files and a constant input in others."""
        found = self.attributes.get(name)
        if found is None:
            found = self.constant(place)
        return None if found is None else [int(each) for each in np.ravel(found)]

    def expect(self, name: str, usual: Any) -> None:
        """Refuses an attribute that is not as usual."""
        found = self.attributes.get(name, usual)
        if found != usual:
            raise self.refused(f"expected {name}={usual}, got {found}")


def handles(*kinds: str) -> Callable[[Handler], Handler]:
    """Registers a handler of types of nodes."""

    def register(function: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def supported() -> str:
    """The types of nodes that are read, as one line."""
    return ", ".join(sorted(HANDLERS))
