"""The folder of a run: where its files lie.

config.json   lock   events/f, events/g   checkpoints/   history.csv   f/   g/
"""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The places of a run's files under `root`."""

    root: Path

    @property
    def config(self) -> Path:
        """The settings, as JSON."""
        return self.root / "config.json"

    @property
    def history(self) -> Path:
        """A row an epoch and network."""
        return self.root / "history.csv"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of everything that changes."""
        return self.root / "checkpoints"

    def events(self, network: str) -> Path:
        """TensorBoard's files of a network."""
        return self.root / "events" / network

    def model(self, network: str) -> Path:
        """The SavedModel of a network, written at the end."""
        return self.root / network
