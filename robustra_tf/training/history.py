"""What a run has come to: a row an epoch and network, as a value and as `history.csv`.

Errors are fractions, epochs count from 1. Times are left out, so that equal runs have equal
histories; TensorBoard has them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from robustra_tf.storage.files import write_atomically
from robustra_tf.training.methods import CLAIMS, CLEAN, METHODS
from robustra_tf.training.mutual import Pass

#: Of each step's measurements, those that have a column: all but the layers'.
METRICS = (
    "loss",
    *dict.fromkeys(
        name
        for method in METHODS.values()
        for name in (*method.measures, "clean_error")
        if name != "unstable"
    ),
    "grad_norm",
)
#: What is recorded instead where a run rests on projections.
ESTIMATES = tuple(f"{name}_estimate" for name in CLAIMS if name in METRICS)
#: Errors on test examples, or on those that are held out of the training examples.
TESTS = tuple(
    f"{part}_{error}"
    for part in ("test", "validation")
    for error in (*dict.fromkeys(m.error for m in METHODS.values()), CLEAN)
)
COLUMNS = ("epoch", "network", "eps", "lr", *METRICS, *ESTIMATES, *TESTS)


class Row(NamedTuple):
    """What a network's part of an epoch came to.

    Attributes:
      epoch: from 1.
      network: its name.
      values: `eps` in pixels, `lr`, the means of the step's measurements over the examples, and
        the errors on test images, fractions.
    """

    epoch: int
    network: str
    values: dict[str, float]

    @classmethod
    def of(cls, done: Pass, tests: Mapping[str, float]) -> Row:
        """The row of a pass and of its errors on test images."""
        numbers = {"eps": done.eps, "lr": done.lr} | done.metrics | dict(tests)
        return cls(done.epoch + 1, done.learner.name, numbers)

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> Row:
        """The row of a line of `history.csv`."""
        values = {name: float(texts[name]) for name in COLUMNS[2:] if texts.get(name)}
        return cls(int(texts["epoch"]), texts["network"], values)

    def texts(self) -> dict[str, str]:
        """The line of `history.csv`; what was not measured is left out."""
        row = {"epoch": str(self.epoch), "network": self.network}
        # Nine digits tell any two float32 apart.
        return row | {n: f"{self.values[n]:.9g}" for n in COLUMNS if n in self.values}


@dataclasses.dataclass(frozen=True)
class History:
    """All rows of a run, in their order."""

    rows: tuple[Row, ...] = ()

    def series(self, name: str, network: str = "f") -> list[float]:
        """A number of a network by epochs, where it was measured; `name` as in `Row.values`."""
        return [
            row.values[name] for row in self.rows if row.network == network and name in row.values
        ]

    def of(self, epoch: int, network: str = "f") -> Row:
        """The row of an epoch, from 1, and a network."""
        return next(r for r in reversed(self.rows) if (r.epoch, r.network) == (epoch, network))

    def and_row(self, row: Row) -> History:
        """With one more row."""
        return History((*self.rows, row))


class HistoryFile:
    """The file that holds a run's rows."""

    def __init__(self, path: Path, rows: Iterable[Mapping[str, str]] = ()):
        """Begins with `rows`, which replace what the file holds."""
        self._path = path
        #: By column, as text.
        self.rows: list[dict[str, str]] = [dict(row) for row in rows]
        self._write()

    def add(self, row: Row) -> None:
        """Adds a row."""
        self.rows.append(row.texts())
        self._write()

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self._path, text.getvalue())
