"""The row of an instance: what was answered, as the ledger and `verdicts.csv` have it."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from robustra_tf.storage.files import write_atomically
from robustra_tf.vnncomp.answers import Word
from robustra_tf.vnncomp.tables import Key, Result

from . import rows

#: The table of a finished run, for `cross-check` and for people.
NAME = "verdicts.csv"
#: Counterexamples, in a folder beside it.
WITNESSES = "witnesses"
_HEADER = ("benchmark", "onnx", "vnnlib", "timeout", "verdict", "seconds", "reason")


@dataclasses.dataclass(frozen=True)
class Answered:
    """A line of an instances' ledger.

    Attributes:
      index: position in the list.
      network, query: as the list names them.
      limit: seconds that were allowed.
      status: the answer.
      seconds: taken, from before the network was read.
      reason: why nothing was decided.
    """

    FIELDS: ClassVar[tuple[str, ...]]

    index: int
    network: str
    query: str
    limit: float
    status: Word
    seconds: float
    reason: str

    def __post_init__(self):
        if self.index < 0 or not math.isfinite(self.seconds):
            raise ValueError(f"row: expected an index of at least 0 and finite seconds, got {self}")
        # A line of the ledger is a row.
        object.__setattr__(self, "reason", " ".join(self.reason.split()))

    @property
    def key(self) -> Key:
        """What names the instance in tables."""
        return Key.of(self.network, self.query)

    @property
    def result(self) -> Result:
        """What tables have of it."""
        return Result(self.status, self.seconds)

    def cells(self) -> list[str]:
        """The row as text, in the order of `FIELDS`."""
        own = [str(self.index), self.network, self.query, f"{self.limit:g}"]
        return [*own, self.status.value, f"{self.seconds:.6f}", self.reason]

    @classmethod
    def parse(cls, cells: list[str]) -> Self:
        """The row of such text; `ValueError` where it is not one."""
        return cls(**rows.read(cells, _READERS))


def _text(name: str, cell: str) -> str:
    del name
    return cell


_READERS: dict[str, Any] = {
    "index": rows.count,
    "network": _text,
    "query": _text,
    "limit": rows.number,
    "status": functools.partial(rows.member, Word),
    "seconds": rows.number,
    "reason": _text,
}
Answered.FIELDS = tuple(_READERS)


def write(directory: Path, benchmark: str, answered: Iterable[Answered]) -> Path:
    """Writes `verdicts.csv`; gives its path."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for row in answered:
        writer.writerow([benchmark, *row.cells()[1:]])
    path = directory / NAME
    write_atomically(path, text.getvalue())
    return path
