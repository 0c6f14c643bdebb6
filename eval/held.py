"""What is asked and what is known of properties: the examples and the rows of their cascade."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from robustra_tf.property import Property

from . import rows
from .ledger import Ledger
from .rows import Status


@dataclasses.dataclass(frozen=True)
class Held:
    """A line of the ledger of an evaluation of properties.

    Attributes:
      index: position among the files.
      name: of the file.
      status: `verified` where no input of its boxes has unsafe outputs, `falsified` where one was
        found; never `misclassified`.
      stage: the one that decided it, or the last that tried.
      margin_lower: a lower bound of the least margin over all boxes, if one was computed.
      seconds: that the stage took for it.
    """

    FIELDS: ClassVar[tuple[str, ...]]

    index: int
    name: str
    status: Status
    stage: str
    margin_lower: float | None
    seconds: float

    def __post_init__(self):
        if self.index < 0 or not math.isfinite(self.seconds):
            raise ValueError(f"row: expected an index of at least 0 and finite seconds, got {self}")
        if self.status is Status.VERIFIED and not 0 < (self.margin_lower or 0) < math.inf:
            raise ValueError(
                f"row: expected of what is verified a finite margin above 0, got {self}"
            )

    def cells(self) -> list[str]:
        """The row as text, in the order of `FIELDS`."""
        margin = "" if self.margin_lower is None else f"{self.margin_lower:.9g}"
        own = [str(self.index), self.name, self.status.value, self.stage]
        return [*own, margin, f"{self.seconds:.6f}"]

    @classmethod
    def parse(cls, cells: list[str]) -> Self:
        """The row of such text; `ValueError` where it is not one."""
        return cls(**rows.read(cells, _READERS))


def _text(name: str, cell: str) -> str:
    del name
    return cell


_READERS: dict[str, Callable[[str, str], Any]] = {
    "index": rows.count,
    "name": _text,
    "status": functools.partial(rows.member, Status),
    "stage": _text,
    "margin_lower": lambda name, cell: rows.number(name, cell) if cell else None,
    "seconds": rows.number,
}
Held.FIELDS = tuple(_READERS)


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """Files of properties.

    Attributes:
      indices: positions among all files, int [n].
      names: of the files.
      properties: what each asks: it holds where all of them do.
    """

    indices: np.ndarray
    names: Sequence[str]
    properties: Sequence[tuple[Property, ...]]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: np.ndarray) -> Asked:
        """Those at `positions` of these."""
        places = [int(i) for i in positions]
        names, properties = [self.names[i] for i in places], [self.properties[i] for i in places]
        return Asked(self.indices[positions], names, properties)


class Answer(NamedTuple):
    """What a stage says of one file.

    Attributes:
      status: UNKNOWN passes it on.
      margin_lower: as a row has it.
      witness: an input with unsafe outputs, float32 [*shape], where it is FALSIFIED.
    """

    status: Status
    margin_lower: float | None = None
    witness: np.ndarray | None = None


class Answered(NamedTuple):
    """The answer to one file, as the cascade takes it."""

    examples: Asked
    answer: Answer
    seconds: float

    def rows(self, stage: str, ledger: Ledger[Held]) -> Iterator[Held]:
        """Its row."""
        del ledger
        index, (name,) = int(self.examples.indices[0]), self.examples.names
        status, margin, _ = self.answer
        yield Held(index, name, status, stage, margin, self.seconds)
