"""A row of the ledger: what is known of one example, and how that is written."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Callable
from typing import Any


class Status(enum.StrEnum):
    """What is known of an example."""

    MISCLASSIFIED = "misclassified"  # the image itself is classified wrongly
    VERIFIED = "verified"  # no point of the ball is
    FALSIFIED = "falsified"  # a point of the ball is
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the ledger.

    Attributes:
      index: position in the split.
      label, predicted: classes; -1 is predicted where the logits are no finite numbers.
      status: what is known.
      stage: the one that decided it, or the last that tried.
      margin_lower: a lower bound of `min_t logit_y - logit_t` over the ball, if one was computed.
      worst_target: the class that attains it, or that an adversarial example is taken for.
      seconds: this example's share of the stage's time.
    """

    index: int
    label: int
    predicted: int
    status: Status
    stage: str
    margin_lower: float | None
    worst_target: int | None
    seconds: float

    def __post_init__(self):
        if self.index < 0 or not math.isfinite(self.seconds):
            raise ValueError(f"row: expected an index of at least 0 and finite seconds, got {self}")
        if self.status is Status.VERIFIED and not self._proven():
            raise ValueError(
                "row: expected of what is verified its label as the prediction and a finite margin "
                f"above 0, got {self}"
            )

    def _proven(self) -> bool:
        margin = self.margin_lower
        # A verdict that was taken over has no margin of its own.
        return self.predicted == self.label and (margin is None or 0 < margin < math.inf)

    def cells(self) -> list[str]:
        """The row as text, in the order of `FIELDS`."""
        margin = "" if self.margin_lower is None else f"{self.margin_lower:.9g}"
        target = "" if self.worst_target is None else str(self.worst_target)
        start = [str(self.index), str(self.label), str(self.predicted)]
        return [*start, self.status.value, self.stage, margin, target, f"{self.seconds:.6f}"]

    @staticmethod
    def parse(cells: list[str]) -> Row:
        """The row of such text; `ValueError` where it is not one."""
        if len(cells) != len(FIELDS):
            raise ValueError(f"expected {len(FIELDS)} fields, got {len(cells)}")
        read = {name: _READERS[name](name, cell) for name, cell in zip(FIELDS, cells, strict=True)}
        return Row(**read)


def _count(name: str, cell: str) -> int:
    # Not int(cell), which reads "1_0" and digits of other scripts too.
    if not re.fullmatch("[0-9]{1,18}", cell):
        raise ValueError(f"{name}: expected an integer of at least 0, got {cell[:40]!r}")
    return int(cell)


def _number(name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{name}: expected a number, got {cell[:40]!r}")
    return value


def _status(name: str, cell: str) -> Status:
    if cell not in list(Status):
        raise ValueError(f"{name}: expected one of {', '.join(Status)}, got {cell[:40]!r}")
    return Status(cell)


_READERS: dict[str, Callable[[str, str], Any]] = {
    "index": _count,
    "label": _count,
    "predicted": lambda name, cell: -1 if cell == "-1" else _count(name, cell),
    "status": _status,
    "stage": lambda _, cell: cell,
    "margin_lower": lambda name, cell: _number(name, cell) if cell else None,
    "worst_target": lambda name, cell: _count(name, cell) if cell else None,
    "seconds": _number,
}


FIELDS = tuple(field.name for field in dataclasses.fields(Row))
