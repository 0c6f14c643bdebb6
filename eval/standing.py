"""How runs over instances stand: their table, and where they differ from agreed verdicts."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Sequence

from robustra_tf.vnncomp.answers import Word
from robustra_tf.vnncomp.tables import (
    DECIDED,
    Comparison,
    Key,
    Result,
    Table,
    compare,
    decided,
    spent,
)

from .answered import Answered

#: What the columns of alpha-beta-CROWN's own seconds are called.
PEER = "abCROWN"


@dataclasses.dataclass(frozen=True)
class Standing:
    """One benchmark, as far as it was answered.

    Attributes:
      name: of the benchmark.
      rows: what was answered.
      comparison: with the agreed verdicts; None where none were given.
      peer: alpha-beta-CROWN's results on the same instances, where they are known.
      wrong: the rows that contradict an agreed verdict.
    """

    name: str
    rows: Sequence[Answered]
    comparison: Comparison | None
    peer: dict[Key, Result]
    wrong: Sequence[Answered] = ()

    @classmethod
    def of(cls, name: str, rows: Sequence[Answered], agreed: Table | None) -> Standing:
        """A run beside a table of agreed verdicts."""
        if agreed is None:
            return cls(name, rows, None, {})
        own: dict[Key, Result] = {}
        for row in rows:
            own[row.key] = decided(own.get(row.key, row.result), row.result)
        others = {key: agreed.results[key] for key in own if key in agreed.results}
        peer = {key: agreed.peer[key] for key in own if key in agreed.peer}
        wrong = [row for row in rows if _contradicts(row.result, others.get(row.key))]
        return cls(name, rows, compare(own, others), peer, wrong)

    def count(self, *words: Word) -> int:
        """How many answers are one of some words."""
        return sum(row.status in words for row in self.rows)

    @property
    def decided(self) -> int:
        """How many are `unsat` or `sat`."""
        return self.count(Word.UNSAT, Word.SAT)

    def cells(self) -> dict[str, str]:
        """The line of the table, by column."""
        own = spent(row.result for row in self.rows)
        found = {"benchmark": self.name, "instances": f"{len(self.rows):,}"}
        found |= {word.value: f"{self.count(word):,}" for word in Word}
        found["decided"] = f"{self.decided:,}"
        if self.comparison is not None:
            found["agreed"] = f"{len(self.comparison.agreed):,}"
            found["missed"] = f"{len(self.comparison.second):,}"
            found["wrong"] = f"{len(self.wrong):,}"
        found |= {"mean s": _mean(own), "median s": _median(own)}
        if self.peer:
            other = spent(self.peer.values())
            found |= {PEER: f"{len(other):,}", "its mean s": _mean(other)}
            found["its median s"] = _median(other)
        return found


def _contradicts(one: Result, other: Result | None) -> bool:
    return other is not None and {one.word, other.word} == {*DECIDED}


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" if values else "-"


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "-"


def table(standings: Sequence[Standing]) -> str:
    """The standings as lines to print, under each other."""
    lines = [standing.cells() for standing in standings]
    names = list(dict.fromkeys(name for line in lines for name in line))
    cells = [names, *([line.get(name, "-") for name in names] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if number == 0 else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def contradictions(standings: Iterable[Standing], agreed: Table | None) -> Iterator[str]:
    """A line for each answer that is the opposite of an agreed one."""
    if agreed is None:
        return
    for standing in standings:
        for row in standing.wrong:
            other = agreed.results[row.key].word
            yield (
                f"CONTRADICTION: {standing.name} {row.network} {row.query}: "
                f"{row.status} here, {other} agreed"
            )
