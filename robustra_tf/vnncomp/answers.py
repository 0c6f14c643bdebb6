"""What is answered of one instance: a word and, where it is `sat`, a counterexample."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from robustra_tf.property import Property

#: How far an input, rounded to float32, may lie outside of its bounds. Source: settings of the
#: competition's scoring, COUNTEREXAMPLE_ATOL.
INPUT_TOLERANCE = 1e-4


class Word(enum.StrEnum):
    """The answers of the competition."""

    UNSAT = "unsat"  # proven: no input of any box has unsafe outputs
    SAT = "sat"  # a counterexample was found, and replayed by onnxruntime
    UNKNOWN = "unknown"  # neither, with time left
    TIMEOUT = "timeout"  # neither within the time


class Counterexample(NamedTuple):
    """Inputs that satisfy a property of VNN-LIB: inside of their bounds, outputs unsafe.

    Attributes:
      inputs: float64 [n], row-major in the file's order, between their bounds without a tolerance.
      outputs: float32 [m], what onnxruntime computes of the inputs rounded to float32.
    """

    inputs: np.ndarray
    outputs: np.ndarray

    @property
    def text(self) -> str:
        """The competition's format: `((X_0 0.5)`, a line each, to `(Y_1 0.25))`."""
        named = (("X", self.inputs), ("Y", self.outputs))
        lines = [f"({k}_{i} {float(v) + 0.0!r})" for k, part in named for i, v in enumerate(part)]
        return "(" + "\n".join(lines) + ")\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The answer to an instance.

    Attributes:
      word: as `Word` says.
      seconds: all of it.
      reason: why it is neither `unsat` nor `sat`; empty otherwise.
      counterexample: where it is `sat`.
    """

    word: Word
    seconds: float
    reason: str = ""
    counterexample: Counterexample | None = None


class Replay:
    """Judges points as the competition scores them: by onnxruntime, on the file itself.

    A point is moved between the bounds of a box in float64. It is taken where that is rounded to
    the same float32 point again, no further than `INPUT_TOLERANCE` away, and where the outputs that
    onnxruntime computes of it are unsafe, without a tolerance and without rounding.

    Attributes:
      found: the last counterexample that was taken.
    """

    def __init__(self, outputs: Callable[[np.ndarray], np.ndarray], properties: Sequence[Property]):
        """Prepares.

        Args:
          outputs: float32 inputs [*input_shape] -> float32 outputs [m], by onnxruntime.
          properties: boxes, whose outputs must not be reached.
        """
        self._outputs, self._properties = outputs, properties
        self.found: Counterexample | None = None

    def __call__(self, point: np.ndarray) -> bool:
        """Whether a float32 point [*input_shape] is a counterexample; keeps it."""
        boxes = [(each, *_inside(each, point)) for each in self._properties]
        if not any(inside.any() for _, inside, _ in boxes):
            return False
        outputs = self._outputs(point)
        for given, inside, moved in boxes:
            for place in np.flatnonzero(inside):
                output = given.output.take(np.array([place]))
                if output.conditions(len(outputs)).reached(outputs[None])[0]:
                    self.found = Counterexample(moved[place].ravel(), outputs)
                    return True
        return False


def _inside(given: Property, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of which boxes a float32 point is one, [n], and that point moved into each, float64."""
    exact = point.astype(np.float64)
    moved = np.clip(exact, given.lower, given.upper)
    with np.errstate(over="ignore"):
        same = moved.astype(np.float32) == point
    same &= np.abs(moved - exact) <= INPUT_TOLERANCE
    return same.reshape(len(same), -1).all(axis=1), moved
