"""How many jobs go into a task of a cluster: portions of a source, read little further than needed.

A portion is meant to take a time that does not fall with the number of workers: whoever hands tasks
out hands them out one by one, so that many workers need long ones. Towards the end of the source,
which is seen a little before it is reached, portions shrink, so that no worker is left with a long
one while others have nothing.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator
from typing import Any

#: Seconds of work that a task is meant to have: sending one takes some milliseconds.
SECONDS = 0.5
#: Seconds that pass between two tasks at least, in the mean, by whichever number of workers.
APART = 0.01
#: Jobs that one task has at most.
MOST = 1000
#: Jobs that are read ahead at most.
AHEAD = 10_000


class Portions:
    """The jobs of a source in portions; as many wait here as `AHEAD`, however many there are."""

    def __init__(self, jobs: Iterator[Any]):
        self._jobs, self._ended = jobs, False
        self._ahead = collections.deque[Any]()
        self._size, self._seconds, self._done = 1, 0.0, 0.0

    def next(self, workers: int) -> list[Any]:
        """The jobs of the next of so many workers' tasks; none where none is left."""
        self._look(2 * workers * self._size)
        size = self._size
        if self._ended:
            size = min(size, -(-len(self._ahead) // (2 * workers)))
        return [self._ahead.popleft() for _ in range(size)]

    def _look(self, wanted: int) -> None:
        """Reads so far ahead as tells whether two portions are left for each worker."""
        missing = max(min(wanted, AHEAD), self._size) - len(self._ahead)
        if missing > 0 and not self._ended:
            found = len(self._ahead)
            self._ahead.extend(itertools.islice(self._jobs, missing))
            self._ended = len(self._ahead) - found < missing

    def measure(self, seconds: float, jobs: int, workers: int) -> None:
        """Chooses how many jobs a portion has by what the latest took, one or so of each worker.

        Of several workers those that had quick jobs answer first, so that a portion has at most
        twice as many as one that has come back.

        Args:
          seconds: that a task took.
          jobs: that it had.
          workers: of the cluster.
        """
        kept = 1.0 - 1.0 / (2.0 + workers)
        self._seconds = kept * self._seconds + seconds
        self._done = kept * self._done + jobs
        wanted = max(SECONDS, APART * workers)
        fitting = round(wanted / max(self._seconds / self._done, wanted / MOST))
        self._size = max(1, min(fitting, max(self._size, 2 * jobs)))
