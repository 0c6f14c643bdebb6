"""Properties as files of VNN-LIB."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from robustra_tf import vnnlib
from robustra_tf.conditions import Conditions, Output
from robustra_tf.intake import checks
from robustra_tf.outputs import unreachable


class InFiles:
    """What a property has for files: itself from one, and one from itself.

    Attributes:
      lower, upper, output, centre, eps, norm, text: as the property says.
    """

    lower: Any
    upper: Any
    output: Output
    centre: Any
    eps: Any
    norm: str
    text: str

    if TYPE_CHECKING:

        def __init__(self, lower: Any, upper: Any, output: Output): ...

    @classmethod
    def from_vnnlib(
        cls, path: str | os.PathLike[str], shape: Sequence[int] | None = None
    ) -> tuple[Self, ...]:
        """What a file of VNN-LIB asks; it holds where all of the properties do.

        Boxes with the same unsafe outputs are the examples of one property; where boxes have
        different ones, as in a disjunction over inputs and outputs, there are several.

        Args:
          path: `.vnnlib` or `.vnnlib.gz`, of version 1.0, or 2.0 with the package `vnnlib`.
          shape: of one input of the network, row-major as in the file; one axis by default.

        Raises:
          OSError, ImportError: the file cannot be read, the package is not there.
          ValueError: it is damaged, says what boxes and polyhedra cannot, has unbounded inputs or
            none at all, or does not fit the shape.
        """
        given = vnnlib.read(path)
        shape = (given.inputs,) if shape is None else tuple(shape)
        if math.prod(shape) != given.inputs:
            raise ValueError(f"shape must be of {given.inputs} numbers for {path}, got {shape}")
        return tuple(
            cls(lower.reshape(-1, *shape), upper.reshape(-1, *shape), unreachable(*polyhedra))
            for lower, upper, polyhedra in vnnlib.grouped(given)
        )

    def to_vnnlib(self, path: str | os.PathLike[str], outputs: int) -> Path:
        """Writes what is asked as VNN-LIB 1.0, of all examples together; packed for `.gz`.

        Args:
          path: the file; one that stands there is replaced.
          outputs: how many the network has.

        Raises:
          OSError: nothing could be written.
          ValueError: no examples, a ball that is no box, or another number of outputs than it
            speaks of.
        """
        conditions = self.output.conditions(checks.whole("outputs", outputs))
        lower, upper = self._ends()
        if not len(lower):
            raise ValueError("lower must have one example or more for VNN-LIB, got none")
        cases = (
            vnnlib.Case(low.ravel(), high.ravel(), _polyhedra(conditions, example))
            for example, (low, high) in enumerate(zip(lower, upper, strict=True))
        )
        inputs = math.prod(self.lower.shape[1:])
        return vnnlib.write(path, vnnlib.Specification(inputs, outputs, tuple(cases)), self.text)

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The boxes, `linf` balls cut to them."""
        if self.centre is None:
            return self.lower, self.upper
        if self.norm != "linf":
            raise ValueError(f"norm must be linf for VNN-LIB, got {self.norm!r}")
        low, high = self.centre - self.eps, self.centre + self.eps
        return np.maximum(self.lower, low), np.minimum(self.upper, high)


def _polyhedra(conditions: Conditions, example: int) -> tuple[vnnlib.Polyhedron, ...]:
    """The unsafe outputs of one example as `A f <= b`."""
    rows, offset, group = (part[example % len(part)] for part in conditions[:3])
    return tuple((0.0 - rows[group == k], offset[group == k]) for k in np.unique(group[group >= 0]))
