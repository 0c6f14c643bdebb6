"""A row of a pair's ledger: what is known of an example that two networks classify as one."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar, Self

from .rows import Status, count, member, number, read, words

#: The classifiers that a margin is known of: the pair, its networks, and their averaged logits.
NAMES = ("pair", "f", "g", "average")


@dataclasses.dataclass(frozen=True)
class PairRow:
    """A line of the ledger.

    Attributes:
      index: position in the split.
      label: the class that is right.
      pair, f, g, average: what each classifier answers at the image itself; -1 is no answer.
      f_lead, g_lead, average_lead: by how much the logit of that answer is above all others.
      silent: of the question whether both networks can be made to answer one wrong class:
        misclassified where they do so at the image itself, verified where they cannot, falsified
        where they can.
      silent_by: the stage that decided it; empty where none has.
      abstains: of the question whether the pair can be made not to answer the label: falsified
        where it can or does not at the image itself, verified where it always answers it.
      abstains_by: the stage that decided it; empty where none has.
      stage: the last one that looked.
      pair_margin, f_margin, g_margin, average_margin: the largest lower bound that was found of
        each classifier's least margin over the ball, if any was.
      worst_target: the class at which the pair's is least, or that both can be made to answer.
      seconds: this example's share of the time of `stage`.
      search: of the complete stage, which searches it took.
    """

    FIELDS: ClassVar[tuple[str, ...]]

    index: int
    label: int
    pair: int
    f: int
    g: int
    average: int
    f_lead: float
    g_lead: float
    average_lead: float
    silent: Status = Status.UNKNOWN
    silent_by: str = ""
    abstains: Status = Status.UNKNOWN
    abstains_by: str = ""
    stage: str = ""
    pair_margin: float | None = None
    f_margin: float | None = None
    g_margin: float | None = None
    average_margin: float | None = None
    worst_target: int | None = None
    seconds: float = 0.0
    search: str = ""

    def __post_init__(self):
        if self.index < 0 or not math.isfinite(self.seconds):
            raise ValueError(f"row: expected an index of at least 0 and finite seconds, got {self}")
        if self.pair != (self.f if self.f == self.g else -1):
            raise ValueError(f"row: expected the pair's answer to be that of both, got {self}")
        if self.silent is Status.VERIFIED and self.pair not in (self.label, -1):
            raise ValueError(f"row: expected no wrong answer where none can be forced, got {self}")
        if self.abstains is Status.VERIFIED:
            margins = (self.f_margin, self.g_margin)
            proven = all(m is not None and 0 < m < math.inf for m in margins)
            if not (proven and self.pair == self.label and self.silent is Status.VERIFIED):
                raise ValueError(
                    "row: expected of what is always answered the label as the answer and finite "
                    f"margins of both networks above 0, got {self}"
                )

    @property
    def status(self) -> Status:
        """What the cascade goes by: all goes on but what is proven to be answered."""
        return Status.VERIFIED if self.abstains is Status.VERIFIED else Status.UNKNOWN

    def margin(self, name: str) -> float:
        """The lower bound of a classifier's least margin, minus infinity where none is known."""
        found = getattr(self, f"{name}_margin")
        return -math.inf if found is None else found

    def lead(self, name: str) -> float:
        """By how much a classifier's answer leads at the image; of the pair, in both networks."""
        if name == "pair":
            return -math.inf if self.pair < 0 else min(self.f_lead, self.g_lead)
        return -math.inf if getattr(self, name) < 0 else getattr(self, f"{name}_lead")

    def cells(self) -> list[str]:
        """The row as text, in the order of `FIELDS`."""
        return [_text(getattr(self, name)) for name in self.FIELDS]

    @classmethod
    def parse(cls, cells: list[str]) -> Self:
        """The row of such text; `ValueError` where it is not one."""
        return cls(**read(cells, _READERS))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9g}"
    return value.value if isinstance(value, Status) else str(value)


def _answer(name: str, cell: str) -> int:
    return -1 if cell == "-1" else count(name, cell)


def _maybe(name: str, cell: str) -> float | None:
    return number(name, cell) if cell else None


_KINDS = {
    "index": count,
    "label": count,
    **dict.fromkeys(NAMES, _answer),
    **dict.fromkeys(("f_lead", "g_lead", "average_lead", "seconds"), number),
    **dict.fromkeys(("silent", "abstains"), functools.partial(member, Status)),
    **dict.fromkeys(("silent_by", "abstains_by", "stage", "search"), words),
    **{f"{name}_margin": _maybe for name in NAMES},
    "worst_target": lambda name, cell: count(name, cell) if cell else None,
}
PairRow.FIELDS = tuple(field.name for field in dataclasses.fields(PairRow))
_READERS = {name: _KINDS[name] for name in PairRow.FIELDS}
