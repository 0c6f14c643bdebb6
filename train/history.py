"""`history.csv`: a row an epoch and network. Errors are fractions, epochs count from 1.

Times are left out, so that equal runs have equal histories; TensorBoard has them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from robustra_tf.files import write_atomically
from robustra_tf.objective.problem import ESTIMATED

from .mutual import Pass

METRICS = (
    "loss",
    "robust_error",
    "wk_error",
    "clean_error",
    "t0",
    "eta",
    "infeasible",
    "tight",
    "loose",
    "grad_norm",
)
#: What is recorded instead where a run rests on projections.
ESTIMATES = tuple(f"{name}_estimate" for name in ESTIMATED if name in METRICS)
TESTS = ("test_lp_error", "test_interval_error", "test_clean_error")
COLUMNS = ("epoch", "network", "eps", "lr", *METRICS, *ESTIMATES, *TESTS)


class History:
    """The rows of a run's history and the file that holds them."""

    def __init__(self, path: Path, rows: Iterable[Mapping[str, str]] = ()):
        """Begins with `rows`, which replace what the file holds."""
        self._path = path
        #: By column, as text.
        self.rows: list[dict[str, str]] = [dict(row) for row in rows]
        self._write()

    def add(self, done: Pass, tests: Mapping[str, float]) -> None:
        """Adds a pass's row; what was not measured stays empty."""
        row = {"epoch": str(done.epoch + 1), "network": done.network.name}
        numbers = {"eps": done.eps, "lr": done.lr} | done.metrics | dict(tests)
        # Nine digits tell any two float32 apart.
        row |= {name: f"{numbers[name]:.9g}" for name in COLUMNS if name in numbers}
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self._path, text.getvalue())
