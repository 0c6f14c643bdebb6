"""The bar that shows a stage's progress, with what is known of all examples so far."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol

from robustra_tf.cli.progress import RATE, Bar

from .rows import Status

# The first ones are seen in a narrow terminal too.
_SHOWN = (Status.VERIFIED, Status.UNKNOWN, Status.FALSIFIED, Status.MISCLASSIFIED)


class _Judged(Protocol):
    @property
    def index(self) -> int: ...
    @property
    def status(self) -> StrEnum: ...


class Progress:
    """A bar a stage on the error stream; an instance is a `cascade.Watch`."""

    def __init__(
        self, rows: Iterable[_Judged], prefix: str = "", shown: Sequence[StrEnum] = _SHOWN
    ):
        """Counts the rows that a resumed evaluation begins with; `prefix` begins every bar.

        Args:
          rows: with an index and a status each.
          prefix: begins every bar.
          shown: the statuses that are counted, the first ones in a narrow terminal too.
        """
        self._prefix, self._shown = prefix, shown
        self._status = {row.index: row.status for row in rows}
        self._stage: str | None = None
        self._bar: Bar | None = None

    def __call__(self, stage: str, rows: Sequence[_Judged], total: int, left: int) -> None:
        """Shows that `stage` has added `rows` and has `left` of its `total` examples to do."""
        bar = self._bar
        if bar is None or stage != self._stage:
            self.close()
            self._stage = stage
            bar = self._bar = Bar(self._prefix + stage, total, total - left, compiling=left > 0)
        self._status.update((row.index, row.status) for row in rows)
        if rows or not left:
            counts = collections.Counter(self._status.values())
            bar.advance(len(rows))
            shown = [f"{status.value}={counts[status]}" for status in self._shown]
            bar.show([*shown, RATE], refresh=left == 0)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
