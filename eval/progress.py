"""The bar that shows a stage's progress, with what is known of all examples so far."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

from robustra_tf.cli.progress import RATE, Bar

from .rows import Row, Status

# The first ones are seen in a narrow terminal too.
_SHOWN = (Status.VERIFIED, Status.UNKNOWN, Status.FALSIFIED, Status.MISCLASSIFIED)


class Progress:
    """A bar a stage on the error stream; an instance is a `cascade.Watch`."""

    def __init__(self, rows: Iterable[Row], prefix: str = ""):
        """Counts the rows that a resumed evaluation begins with; `prefix` begins every bar."""
        self._prefix = prefix
        self._status = {row.index: row.status for row in rows}
        self._stage: str | None = None
        self._bar: Bar | None = None

    def __call__(self, stage: str, rows: Sequence[Row], total: int, left: int) -> None:
        """Shows that `stage` has added `rows` and has `left` of its `total` examples to do."""
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = Bar(self._prefix + stage, total, total - left, compiling=left > 0)
        self._status.update((row.index, row.status) for row in rows)
        if rows or not left:
            counts = collections.Counter(self._status.values())
            self._bar.advance(len(rows))
            shown = [f"{status.value}={counts[status]}" for status in _SHOWN]
            self._bar.show([*shown, RATE], refresh=left == 0)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
