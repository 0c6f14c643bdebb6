"""When a run is saved: at the end of every round, every so many minutes, and when it is to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from robustra_tf.stopping import Stop, Stopped

from .checkpoint import Checkpoints
from .history import History
from .mutual import Position
from .summaries import Summaries


class Saver:
    """Saves the state of a run together with how much of it has been recorded."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        history: History,
        summaries: Summaries,
        minutes: float,
        stop: Stop,
        start: Position,
    ):
        """Prepares.

        Args:
          checkpoints: where to save.
          history, summaries: what is recorded at the end of every pass.
          minutes: between two checkpoints within a round; 0 leaves those out.
          stop: says whether the run is to stop.
          start: where the run begins or goes on.
        """
        self._checkpoints, self._history, self._summaries = checkpoints, history, summaries
        self._seconds, self._stop = 60 * minutes, stop
        self._last = time.monotonic()
        self._here: Callable[[], Position] = lambda: start

    def boundary(self, position: Callable[[], Position]) -> None:
        """Saves between two steps if it is time.

        Raises:
          Stopped: the run is to stop, and is saved.
        """
        self._here = position
        self.interrupt()
        if self._seconds and time.monotonic() >= self._last + self._seconds:
            self.save(position())

    def interrupt(self) -> None:
        """Saves at the last boundary if the run is to stop, also while its end is evaluated.

        Raises:
          Stopped: with the checkpoint's path.
        """
        if self._stop.requested:
            raise Stopped(self.save(self._here()))

    def save(self, position: Position) -> Path:
        """Saves at a position; what is recorded by then is part of it.

        Raises:
          NotFiniteError: there is nothing worth saving.
          OSError: nothing can be written.
        """
        notes = {"history": self._history.rows, "events": self._summaries.sizes()}
        path = self._checkpoints.save(position, notes)
        self._last = time.monotonic()
        return path
