"""A bar for work under way, whose figures keep within the terminal's width."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

Batch = TypeVar("Batch")
#: The figure of examples a second.
RATE = "{rate_fmt}"
#: What a bar shows until its first batch is done.
COMPILING = "compiling"
# Where the bar goes to a file instead of a terminal it is written seldom.
_TERMINAL_SECONDS, _FILE_SECONDS = 0.3, 30.0
# Of the line's characters: the bar that tqdm draws where it knows no width, and the shortest here.
_OWN_BAR, _SHORTEST_BAR = 10, 4
_FORMAT = "{{desc}}: {{percentage:3.0f}}%|{{bar}}| {{n_fmt}}/{{total_fmt}} [{{remaining}} left{}]"


def seconds_between() -> float:
    """How often a bar is worth showing anew: seldom where it goes to a file."""
    return _TERMINAL_SECONDS if sys.stderr.isatty() else _FILE_SECONDS


def fresh_line() -> str:
    """What to write to the error stream before a line of its own, where bars may stand.

    On a terminal a bar is wiped off, and drawn anew below; in a file it stays and its line ends.
    """
    if sys.stderr.isatty():
        return "\r\x1b[K"
    return "\n" if getattr(tqdm, "_instances", ()) else ""


class Bar:
    """A bar of examples on the error stream.

    Args:
      label: begins the line.
      total: examples.
      done: of them, before now.
      compiling: the first batch takes the time of compiling, which says nothing of the rest.
      leave: whether the bar stays on a terminal when it ends.
    """

    def __init__(
        self, label: str, total: int, done: int = 0, *, compiling: bool = False, leave: bool = True
    ):
        self._compiling = compiling
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit=" examples",
            leave=leave or not sys.stderr.isatty(),
            mininterval=seconds_between(),
            dynamic_ncols=True,
            bar_format=_format([COMPILING] if compiling else []),
        )

    def advance(self, count: int) -> None:
        """Adds examples that are done."""
        if not self._compiling:
            self._bar.update(count)
            return
        # Speed and what is left are counted from the batch after the first.
        self._compiling, bar = False, self._bar
        bar.unpause()
        bar.n += count
        bar.initial = bar.last_print_n = bar.n
        bar.bar_format = _format([])
        bar.refresh()

    def show(self, figures: Sequence[str], refresh: bool = False) -> None:
        """Shows as many of the figures as fit into the line, the first ones."""
        meter = self._bar.format_dict
        width = meter["ncols"]
        timed = self._bar.n > self._bar.initial
        shown = [figure for figure in figures if timed or figure != RATE]
        while shown and width and _length(meter, shown) > width:
            shown.pop()
        self._bar.bar_format = _format(shown)
        if refresh:
            self._bar.refresh()

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def follow(batches: Iterable[Batch], label: str, total: int, size: int) -> Iterator[Batch]:
    """The batches, with a bar that shows how many of `total` examples are done, `size` in each."""
    bar = Bar(label, total, compiling=total > 0)
    try:
        for number, batch in enumerate(batches):
            yield batch
            bar.advance(min(size, total - number * size))
            bar.show([RATE], refresh=(number + 1) * size >= total)
    finally:
        bar.close()


def _format(figures: Sequence[str]) -> str:
    return _FORMAT.format("".join(f", {figure}" for figure in figures))


def _length(meter: Mapping[str, Any], figures: Sequence[str]) -> int:
    """Of the line with the shortest bar."""
    line = tqdm.format_meter(**{**meter, "ncols": None, "bar_format": _format(figures)})
    return len(line) - _OWN_BAR + _SHORTEST_BAR
