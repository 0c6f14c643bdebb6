"""What no input may make of a network's outputs: linear conditions in disjunctive form.

A set of unsafe outputs is a union of polyhedra, as VNN-LIB writes it: `f` is unsafe where all
conditions `c . f + d >= 0` of one group hold. A condition's margin is `-(c . f + d)`: where one of
each group is proven to be positive, nothing unsafe is reached. A tie is unsafe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from robustra_tf.vocabulary import Question

#: The group of a condition that is none: a label's margin over itself.
NO_GROUP = -1


class Conditions(NamedTuple):
    """The conditions `c . f + d >= 0`, for `n` examples or, with a first axis of 1, for any number.

    Attributes:
      rows: `c` [n, k, outputs], float64.
      offset: `d` [n, k], float64.
      group: [n, k], integers from 0, or `NO_GROUP`.
      labels: [n], where the conditions say that the class stays: what a tie is taken for is then
        the model's to say. None otherwise.
    """

    rows: np.ndarray
    offset: np.ndarray
    group: np.ndarray
    labels: np.ndarray | None = None

    def scaled(self) -> tuple[Conditions, np.ndarray]:
        """The same conditions with coefficients of size one, and by what factors [n, k].

        These are powers of two: nothing is rounded, and no type loses a condition for its size.
        """
        _, exponents = np.frexp(np.abs(self.rows).max(2, initial=0.0))
        scale = np.ldexp(1.0, np.where(exponents == 0, 0, np.clip(1 - exponents, -1000, 1000)))
        rows, offset = self.rows * scale[..., None], self.offset * scale
        return self._replace(rows=rows, offset=offset), scale

    def values(self, outputs: np.ndarray) -> np.ndarray:
        """`c . f + d` [n, k] of outputs `f` [n, outputs], in float64."""
        return (self.rows @ outputs.astype(np.float64)[..., None])[..., 0] + self.offset

    def violation(self, outputs: np.ndarray) -> np.ndarray:
        """How far each example is inside the unsafe set, [n]: below 0 outside of it."""
        least = by_group(self.values(outputs), self.group, np.minimum, np.inf)
        present = by_group(np.ones(self.group.shape), self.group, np.maximum, 0.0) > 0
        return np.where(present, least, -np.inf).max(1, initial=-np.inf)

    def reached(self, outputs: np.ndarray) -> np.ndarray:
        """Whether outputs [n, outputs] of a model are finite and unsafe, without rounding: [n]."""
        finite = np.all(np.isfinite(outputs), 1)
        if self.labels is not None:
            return finite & (outputs.argmax(1) != self.labels)
        with np.errstate(invalid="ignore", over="ignore"):
            holds = self.values(outputs) >= 0
            close = np.abs(self.values(outputs)) <= self._rounding(outputs)
        for at in np.argwhere(close & finite[:, None]):
            holds[tuple(at)] = self._exactly(outputs, *at) >= 0
        every = by_group(holds, self.group, np.minimum, True)
        present = by_group(np.ones_like(holds), self.group, np.maximum, False)
        return finite & np.any(every & present, 1)

    def _rounding(self, outputs: np.ndarray) -> np.ndarray:
        """More than what float64 loses of `values`."""
        sizes = Conditions(np.abs(self.rows), np.abs(self.offset), self.group)
        return 2.0**-52 * (self.rows.shape[2] + 2) * sizes.values(np.abs(outputs))

    def _exactly(self, outputs: np.ndarray, example: int, condition: int) -> Fraction:
        row, offset = (part[example % len(part), condition] for part in self[:2])
        pairs = zip(row, outputs[example], strict=True)
        products = (Fraction(float(c)) * Fraction(float(f)) for c, f in pairs)
        return sum(products, Fraction(float(offset)))


def by_group(values: np.ndarray, group: np.ndarray, join: np.ufunc, start: Any) -> np.ndarray:
    """The values [n, k] of each group joined: [n, groups]; `start` where a group has none."""
    count = int(group.max(initial=NO_GROUP)) + 1
    found = np.full((len(values), count + 1), start, values.dtype)
    where = np.broadcast_to(np.where(group < 0, count, group), values.shape)
    join.at(found, (np.arange(len(values))[:, None], where), values)
    return found[:, :count]


@dataclasses.dataclass(frozen=True, eq=False)
class Output(Question):
    """Unsafe outputs of a network, for one or for many examples; `first & second` means both.

    Made by `classified`, `targeted`, `binary`, `below`, `above` and
    `unreachable`.

    Attributes:
      text: what is asked, for people.
      parts: what is given for each example, [n, ...] each, or [1, ...] for all alike.
      make: (number of outputs, *parts) -> `Conditions`.

    Example:
      >>> rt.below(0, 1.5) & rt.above(0, -1.5)
      Output('output 0 below 1.5 and output 0 above -1.5')
    """

    text: str
    parts: tuple[np.ndarray, ...]
    make: Callable[..., Conditions]

    def __post_init__(self):
        counts = {len(part) for part in self.parts} - {1}
        if len(counts) > 1:
            raise ValueError(f"output: expected as many of each for examples, got {sorted(counts)}")

    @property
    def count(self) -> int:
        """Of how many examples it speaks; 1 for any number of them."""
        return max(map(len, self.parts))

    def take(self, index: np.ndarray) -> Output:
        """What it says of some examples."""
        parts = tuple(part if len(part) == 1 else part[index] for part in self.parts)
        return dataclasses.replace(self, parts=parts)

    def conditions(self, outputs: int) -> Conditions:
        """The conditions on so many outputs.

        Raises:
          ValueError: the network has other outputs than it speaks of.
        """
        return self.make(outputs, *self.parts)

    def __and__(self, other: Output) -> Output:
        if not isinstance(other, Output):
            return NotImplemented
        split = len(self.parts)

        def both(outputs: int, *parts: np.ndarray) -> Conditions:
            found = self.make(outputs, *parts[:split]), other.make(outputs, *parts[split:])
            return _joined(*found)

        return Output(f"{self.text} and {other.text}", (*self.parts, *other.parts), both)

    def __repr__(self) -> str:
        return f"Output({self.text!r})"


def _joined(first: Conditions, second: Conditions) -> Conditions:
    """What either finds unsafe."""
    count = int(first.group.max(initial=NO_GROUP)) + 1
    group = np.where(second.group < 0, NO_GROUP, second.group + count)
    n = max(len(part) for part in (*first[:3], *second[:3]))
    pairs = zip(first[:3], (second.rows, second.offset, group), strict=True)
    alike = (
        np.concatenate([np.broadcast_to(part, (n, *part.shape[1:])) for part in pair], axis=1)
        for pair in pairs
    )
    return Conditions(*alike)
