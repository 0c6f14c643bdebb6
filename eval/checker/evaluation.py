"""What an evaluation says of its examples: its ledger and its results, read without trust."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import proof
from .claim import NORMS, UnreadableError
from .network import number
from .rejection import RejectedError

LEDGER, RESULTS, FOLDER = "ledger.csv", "results.json", "proofs"
PROVEN, OPEN = "verified", "unknown"
#: The image itself, or a point of the ball.
FALSE = ("misclassified", "falsified")
#: Files are refused above these.
_LARGEST = 2**28


class Line(NamedTuple):
    """One example: its position, its label, what is known of it, and which stage found that."""

    index: int
    label: int
    status: str
    stage: str

    @property
    def proven(self) -> bool:
        """Whether it counts as verified."""
        return self.status == PROVEN


class Evaluation(NamedTuple):
    """An evaluation's claims.

    Attributes:
      lines: of the examples, by their positions.
      norm, eps, box: of the balls.
      sha256: the hashes that the results name.
      folder: where the results say that the proofs are, or None.
      source: where they say that the network was read from, or None.
    """

    lines: dict[int, Line]
    norm: str
    eps: float
    box: tuple[float, float] | None
    sha256: dict[str, str]
    folder: str | None
    source: str | None

    def agree(self, example: proof.Example, line: Line) -> None:
        """A proof is of the example of a line, and of its ball.

        Raises:
          RejectedError: it is of another one, or claims something else.
        """
        where = "example 0"
        verdict = {PROVEN: proof.VERIFIED, OPEN: proof.OPEN}.get(line.status, proof.FALSIFIED)
        walls = None if self.box is None else tuple(np.full(example.x.shape, e) for e in self.box)
        radius = np.full(example.radius.shape, self.eps)
        told = (example.walls is None) == (walls is None)
        if walls is not None and example.walls is not None:
            told = all(np.array_equal(a, b) for a, b in zip(walls, example.walls, strict=True))
        for field, same, expected in (
            ("position", example.position == line.index, line.index),
            ("verdict", example.verdict == verdict, verdict),
            ("label", example.label == line.label, line.label),
            ("norm", example.norm == self.norm, self.norm),
            ("eps", np.array_equal(example.radius, radius), self.eps),
            ("box", told, self.box),
        ):
            if not same:
                raise RejectedError(where, field, f"it is another one than the run's, {expected}")


def read(out: Path) -> Evaluation:
    """Reads an evaluation's folder.

    Raises:
      UnreadableError: there is no evaluation, or what it says is no such thing.
    """
    lines, results = _lines(out / LEDGER), _results(out / RESULTS)
    norm, eps, box = results.get("norm"), results.get("eps"), results.get("box")
    walls = None if box is None else _pair(box)
    if norm not in NORMS or not number(eps) or (walls is None) != (box is None):
        raise UnreadableError(f"{out / RESULTS}: expected norm, eps and box of balls about images")
    sha256, places = results.get("sha256", {}), [results.get(k) for k in ("proofs", "source")]
    texts = isinstance(sha256, dict) and all(isinstance(v, str) for v in sha256.values())
    if not texts or not all(place is None or isinstance(place, str) for place in places):
        raise UnreadableError(f"{out / RESULTS}: sha256, proofs, source: expected texts")
    return Evaluation(lines, str(norm), float(str(eps)), walls, sha256, *places)


def _pair(box: Any) -> tuple[float, float] | None:
    right = isinstance(box, list) and len(box) == 2 and all(map(number, box))
    return (float(box[0]), float(box[1])) if right else None


def _content(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise UnreadableError(f"{path}: expected at most {_LARGEST} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path}: not text: {error}") from error


def _results(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnreadableError(f"{path}: expected an object")
    return found


def _lines(path: Path) -> dict[int, Line]:
    """The newest line of every example."""
    found: dict[int, Line] = {}
    table = csv.DictReader(_content(path).splitlines(), strict=True)
    try:
        for cells in table:
            line = Line(
                int(cells["index"]), int(cells["label"]), str(cells["status"]), str(cells["stage"])
            )
            known = line.status in (PROVEN, OPEN, *FALSE) and line.index >= 0
            if not known:
                raise ValueError(f"status: got {line.status!r}")
            found[line.index] = line
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise UnreadableError(f"{path}, line {table.line_num}: {error}") from error
    if not found:
        raise UnreadableError(f"{path}: expected a line for each example, got none")
    return dict(sorted(found.items()))
