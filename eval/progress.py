"""The bar that shows a stage's progress, with what is known of all examples so far."""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from .ledger import Row, Status

# Where the bar goes to a file instead of a terminal, every refresh is a line.
_TERMINAL_SECONDS, _FILE_SECONDS = 0.2, 30.0


class Progress:
    """A bar a stage on the error stream; an instance is a `cascade.Watch`."""

    def __init__(self, rows: Iterable[Row], prefix: str = ""):
        """Counts the rows that a resumed evaluation begins with; `prefix` begins every bar."""
        self._prefix = prefix
        self._status = {row.index: row.status for row in rows}
        self._stage: str | None = None
        self._bar: tqdm | None = None

    def __call__(self, stage: str, rows: Sequence[Row], total: int, left: int) -> None:
        """Shows that `stage` has added `rows` and has `left` of its `total` examples to do."""
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(
                total=total,
                initial=total - left,
                desc=self._prefix + stage,
                unit=" examples",
                mininterval=_TERMINAL_SECONDS if sys.stderr.isatty() else _FILE_SECONDS,
                dynamic_ncols=True,
            )
        self._status.update((row.index, row.status) for row in rows)
        counts = collections.Counter(self._status.values())
        self._bar.set_postfix(
            {status.value: counts[status] for status in Status}, refresh=left == 0
        )
        self._bar.update(len(rows))

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
