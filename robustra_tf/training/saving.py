"""What is kept of a run in its folder: checkpoints, `history.csv` and TensorBoard's files.

It is saved at the end of every round, every so many minutes, and when it is to stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustra_tf.cli.stopping import NEVER, Stop, Stopped
from robustra_tf.training.checkpoint import CheckpointError, Checkpoints
from robustra_tf.training.history import History, HistoryFile, Row
from robustra_tf.training.mutual import Learner, Pass
from robustra_tf.training.plan import TrainingPlan
from robustra_tf.training.summaries import Summaries
from robustra_tf.training.watch import Position, Watch
from robustra_tf.training.workdir import Workdir


class Saver(Watch):
    """Saves the state of a run together with how much of it has been recorded.

    Attributes:
      resumed: the checkpoint that the run goes on from; None for one that begins.
      start: where it begins or goes on.
      history: the rows that were recorded before.
      warnings: lines on what could not be used or found again.
    """

    def __init__(
        self,
        workdir: Workdir,
        learners: Sequence[Learner],
        plan: TrainingPlan,
        *,
        stop: Stop = NEVER,
        minutes: float = 10.0,
    ):
        """Opens a folder, and restores the networks from its newest checkpoint that is whole.

        Args:
          workdir: of the run.
          learners: the networks.
          plan: how they are trained.
          stop: says whether the run is to stop.
          minutes: between two checkpoints within a round; 0 leaves those out.

        Raises:
          CheckpointError: no checkpoint can be used, or the one found is of another run.
          OSError: the folder cannot be written.
        """
        self._checkpoints = Checkpoints(workdir.checkpoints, learners, plan.seed)
        self.resumed = self._checkpoints.restore()
        self.start, notes = Position(), {}
        self._settings = plan.settings()
        if self.resumed is not None:
            self.start, notes = self.resumed.position, self.resumed.notes
            self._require_plan(self.resumed.path, notes.get("plan", self._settings), plan)
            stop.nothing_to_lose(f"--resume goes on from {self.resumed.path}, as before")
            stop.keeps(f"--resume goes on from {self.resumed.path}")
        self._file = HistoryFile(workdir.history, notes.get("history", ()))
        names = [learner.name for learner in learners]
        self._summaries = Summaries(workdir, names, notes.get("events", {}))
        self.history = History(tuple(map(Row.read, self._file.rows)))
        self.warnings = [*(self.resumed.skipped if self.resumed else ()), *self._summaries.lost]
        self._seconds, self._stop = 60 * minutes, stop
        self._last = time.monotonic()
        self._here: Callable[[], Position] = lambda: self.start

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that is whole, if any."""
        return self._checkpoints.newest

    def record(self, done: Pass, row: Row, errors: Mapping[str, float]) -> None:
        """Writes down a pass, its row and its errors on test images."""
        self._summaries.write(done, errors)
        self._file.add(row)

    def boundary(self, position: Callable[[], Position]) -> None:
        """Saves between two steps if it is time.

        Raises:
          Stopped: the run is to stop, and is saved.
        """
        self._here = position
        self._stop.nothing_to_lose(None)
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
        notes = {"history": self._file.rows, "events": self._summaries.sizes()}
        path = self._checkpoints.save(position, notes | {"plan": self._settings})
        self._stop.keeps(f"--resume goes on from {path}")
        self._last = time.monotonic()
        return path

    def close(self) -> None:
        """Ends TensorBoard's files."""
        self._summaries.close()

    def _require_plan(self, path: Path, stored: Mapping[str, Any], plan: TrainingPlan) -> None:
        names = [name for name, value in self._settings.items() if stored.get(name) != value]
        if names and not (names == ["epochs"] and plan.prolongs(stored["epochs"])):
            mine, theirs = (
                {name: of.get(name) for name in names} for of in (self._settings, stored)
            )
            raise CheckpointError(f"{path}: expected a checkpoint of {mine}, got one of {theirs}")
