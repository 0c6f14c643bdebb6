"""A row of a ledger: what is known of one example or instance, and how that is written."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, Self


class Line(Protocol):
    """What a ledger holds of one of its things: frozen, made of text and made into text."""

    #: Its fields, as the ledger's header names them.
    FIELDS: ClassVar[tuple[str, ...]]

    @property
    def index(self) -> int:
        """Position among all of them."""
        ...

    def cells(self) -> list[str]:
        """The row as text, in the order of `FIELDS`."""
        ...

    @classmethod
    def parse(cls, cells: list[str]) -> Self:
        """The row of such text; `ValueError` where it is not one."""
        ...


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
      search: of the complete stage which searches it took, in their order, spaces between them.
      reason: why an example was set aside, where that was done.
    """

    FIELDS: ClassVar[tuple[str, ...]]

    index: int
    label: int
    predicted: int
    status: Status
    stage: str
    margin_lower: float | None
    worst_target: int | None
    seconds: float
    search: str = ""
    reason: str = ""

    def __post_init__(self):
        if self.index < 0 or not math.isfinite(self.seconds):
            raise ValueError(f"row: expected an index of at least 0 and finite seconds, got {self}")
        # A line of the ledger is a row.
        object.__setattr__(self, "reason", " ".join(self.reason.split())[:1000])
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
        end = [f"{self.seconds:.6f}", self.search, self.reason]
        return [*start, self.status.value, self.stage, margin, target, *end]

    @classmethod
    def parse(cls, cells: list[str]) -> Self:
        """The row of such text; `ValueError` where it is not one."""
        return cls(**read(cells, _READERS))


def read(cells: list[str], readers: dict[str, Callable[[str, str], Any]]) -> dict[str, Any]:
    """Fields by name from their text; `ValueError` where one of them is none."""
    if len(cells) != len(readers):
        raise ValueError(f"expected {len(readers)} fields, got {len(cells)}")
    pairs = zip(readers.items(), cells, strict=True)
    return {name: reader(name, cell) for (name, reader), cell in pairs}


def count(name: str, cell: str) -> int:
    """A whole number from 0."""
    # Not int(cell), which reads "1_0" and digits of other scripts too.
    if not re.fullmatch("[0-9]{1,18}", cell):
        raise ValueError(f"{name}: expected an integer of at least 0, got {cell[:40]!r}")
    return int(cell)


def number(name: str, cell: str) -> float:
    """A number, which may be infinite."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{name}: expected a number, got {cell[:40]!r}")
    return value


def words(name: str, cell: str) -> str:
    """Words of small letters, or none."""
    if not re.fullmatch("[a-z]*( [a-z]+)*", cell):
        raise ValueError(f"{name}: expected words of small letters, got {cell[:40]!r}")
    return cell


def line(name: str, cell: str) -> str:
    """Text on one line, or none."""
    if len(cell) > 1000 or not cell.isprintable():
        raise ValueError(f"{name}: expected a line of at most 1000 signs, got {cell[:40]!r}")
    return cell


def member(kind: type[enum.StrEnum], name: str, cell: str) -> Any:
    """One of an enumeration."""
    if cell not in list(kind):
        raise ValueError(f"{name}: expected one of {', '.join(kind)}, got {cell[:40]!r}")
    return kind(cell)


_READERS: dict[str, Callable[[str, str], Any]] = {
    "index": count,
    "label": count,
    "predicted": lambda name, cell: -1 if cell == "-1" else count(name, cell),
    "status": functools.partial(member, Status),
    "stage": lambda _, cell: cell,
    "margin_lower": lambda name, cell: number(name, cell) if cell else None,
    "worst_target": lambda name, cell: count(name, cell) if cell else None,
    "seconds": number,
    "search": words,
    "reason": line,
}


FIELDS = Row.FIELDS = tuple(_READERS)
