"""Errors against the radius: PGD and the LP bound at further radii, over the same examples.

Each radius has a ledger of its own under `sweep/`, so that nothing is done twice after an
interruption. Balls of the same centre lie in each other: what is falsified at a smaller radius
stays falsified, what is verified at a larger one stays verified, and neither is computed again.
`sweep.csv` has a row a radius: `eps` in pixels, `n`, the errors as fractions of n, `seconds`, and
the `evaluation` that the row belongs to.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustra_tf.storage.files import write_atomically

from . import cascade, results
from .cascade import Decisions, Examples, Stage
from .ledger import Ledger, evaluation_id
from .rows import Row, Status

NAME = "sweep.csv"
FOLDER = "sweep"
#: The stages whose errors a sweep reports, and whose verdicts it may take over.
STAGES = ("pgd", "lp")
_KNOWN = "known"


class Point(NamedTuple):
    """The errors at one radius: fractions of n. PGD's is a lower bound, LP's an upper bound."""

    eps: float
    n: int
    clean_error: float
    pgd_error: float
    lp_error: float
    seconds: float


class Known:
    """Takes over what follows from the ledgers of other radii; the first stage of a radius."""

    name = _KNOWN
    batch_size = 1000

    def __init__(self, eps: float, ledgers: Iterable[tuple[float, Mapping[int, Row]]]):
        """Knows the rows of finished ledgers and their radii; each has a row for every example."""
        self._predicted: dict[int, int] = {}
        self._status: dict[int, Status] = {}
        for radius, rows in ledgers:
            for index, row in rows.items():
                self._predicted[index] = row.predicted
                if _carries(row, radius, eps):
                    self._status[index] = row.status

    def run(self, batches: Iterable[Examples]) -> Iterator[Decisions]:
        """Decides the batches in their order."""
        for batch in batches:
            indices = batch.indices.tolist()
            status = [self._status.get(index, Status.UNKNOWN) for index in indices]
            predicted = np.array([self._predicted[index] for index in indices], int)
            yield Decisions(batch, status, predicted, None, None, 0.0)


def _carries(row: Row, radius: float, eps: float) -> bool:
    """Whether a verdict at `radius` is one at `eps` too.

    Verdicts of other stages than the two of a sweep would improve its errors beyond theirs.
    """
    if row.status is Status.MISCLASSIFIED:
        return True
    if row.stage not in (*STAGES, _KNOWN):
        return False
    return (row.status is Status.FALSIFIED and radius <= eps) or (
        row.status is Status.VERIFIED and radius >= eps
    )


def directory(out: Path, eps: float) -> Path:
    """Where the ledger of a radius lies."""
    return out / FOLDER / f"eps_{eps:.9g}"


def identity_at(identity: Mapping[str, Any], eps: float) -> dict[str, Any]:
    """What the ledger of a radius depends on, from that of the evaluation."""
    return {**identity, "eps": eps, "stages": [_KNOWN, *STAGES]}


def run(
    radii: Sequence[float],
    stages_at: Callable[[float], Sequence[Stage]],
    examples: Examples,
    known: tuple[float, Mapping[int, Row]],
    place: tuple[Path, Mapping[str, Any], bool],
    watch: Callable[[float, Ledger], cascade.Watch],
) -> list[Point]:
    """Finds the errors at every radius and writes `sweep.csv` after each.

    Args:
      radii: in pixels, increasing.
      stages_at: gives the stages `STAGES` for a radius.
      examples: those of the evaluation.
      known: the evaluation's own radius and rows.
      place: the evaluation's directory and identity, and whether it is resumed.
      watch: makes what is told of a radius's progress.

    Returns:
      The points of all radii in `sweep.csv`, increasing.
    """
    out, identity, resume = place
    points = read(out, identity) if resume else []
    ledgers = [known]
    write(out, identity, points)
    for eps in radii:
        folder = directory(out, eps)
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder, identity_at(identity, eps), resume)
        try:
            made = [Known(eps, ledgers), *stages_at(eps)]
            cascade.run(made, examples, ledger, watch(eps, ledger))
        finally:
            ledger.close()
        ledger.finish()
        ledgers.append((eps, ledger.rows))
        points = [p for p in points if p.eps != eps] + [point(eps, ledger.rows, ledger.seconds)]
        write(out, identity, points)
    return sorted(points)


def point(eps: float, rows: Mapping[int, Row], seconds: Mapping[str, float]) -> Point:
    """The errors that a finished ledger holds."""
    errors = results.errors(STAGES, list(rows.values()))
    return Point(eps=eps, n=len(rows), seconds=round(sum(seconds.values()), 3), **errors)


def write(out: Path, identity: Mapping[str, Any], points: Iterable[Point]) -> None:
    """Writes `sweep.csv`; without points there is none."""
    points = sorted(points)
    if not points:
        (out / NAME).unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*Point._fields, "evaluation"))
    writer.writerows((*p, evaluation_id(identity)) for p in points)
    write_atomically(out / NAME, text.getvalue())


def read(out: Path, identity: Mapping[str, Any]) -> list[Point]:
    """The points of this evaluation in `sweep.csv`; none where it is another's or missing.

    Raises:
      ValueError: a file that is damaged.
    """
    path = out / NAME
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if r["evaluation"] == evaluation_id(identity)]
        return sorted(
            Point(**{f: float(r[f]) for f in Point._fields if f != "n"}, n=int(r["n"]))
            for r in rows
        )
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{path}: damaged: {error!r}") from error


def table(points: Iterable[Point]) -> str:
    """The points as lines to print."""
    lines = [f"  {'eps':>8}  {'clean':>7}  {'PGD':>7}  {'LP':>7}  error"]
    lines += [
        f"  {p.eps:>8.5g}  {p.clean_error:>7.2%}  {p.pgd_error:>7.2%}  {p.lp_error:>7.2%}"
        for p in points
    ]
    return "\n".join(lines)
