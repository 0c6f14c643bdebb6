"""Proofs of an evaluation's verdicts: made where these are found, kept in a folder of files.

A verdict that no proof is found of is none where proofs are asked for: the stages behind look on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from robustra_tf.certificates.proving import Proven
from robustra_tf.cli.settings import SettingError
from robustra_tf.evidence import files
from robustra_tf.storage.files import write_atomically
from robustra_tf.storage.reading import read_json

from .cascade import Decisions, Examples
from .config import Config
from .results import SECONDS_OF_PROOFS
from .rows import Row, Status

_FALSE = (Status.MISCLASSIFIED, Status.FALSIFIED)


class Prover:
    """Adds proofs to what stages of one network and radius decide."""

    def __init__(self, config: Config, model: keras.Model):
        """Takes the evaluation's settings and its network."""
        self._config, self._model = config, model
        self._proven: Proven | None = None

    @property
    def proven(self) -> Proven:
        """What makes them, with the network as it is by now."""
        config = self._config
        self._proven = self._proven or Proven(self._model, config.eps, config.norm, config.box)
        return self._proven

    def added(self, stage: str, decisions: Decisions) -> Decisions:
        """Decisions with the proofs of what they verify and falsify."""
        start, examples, found = time.process_time(), decisions.examples, []
        status = list(decisions.status)
        for i, position in enumerate(examples.indices.tolist()):
            x, y = examples.images[i], int(examples.labels[i])
            made = None
            if status[i] is Status.VERIFIED:
                made = self.proven.verified(x, y, stage, position)
                status[i] = Status.VERIFIED if made else Status.UNKNOWN
            elif status[i] in _FALSE:
                points = decisions.witnesses
                point = x if points is None else np.asarray(points[i])
                made = self.proven.falsified(x, y, point, stage, position)
            found.append(made)
        spent = time.process_time() - start
        return decisions._replace(status=status, proofs=found, proof_seconds=spent)


class Folder:
    """The files of an evaluation's proofs."""

    def __init__(self, config: Config, model: keras.Model):
        """Opens the folder and puts the network there.

        Raises:
          SettingError: it holds the proofs of another evaluation.
          OSError: nothing can be written there.
        """
        self.path, self._prover = Path(str(config.proofs)), Prover(config, model)
        self._beside = config.out / SECONDS_OF_PROOFS
        self.path.mkdir(parents=True, exist_ok=True)
        there = sorted(self.path.glob("*.npz"))
        if config.overwrite:
            for file in there:
                file.unlink()
        elif there and not config.resume:
            raise SettingError(
                "proofs", "a folder without proofs, --resume or --overwrite", str(self.path)
            )
        network = self.path / files.NETWORK
        if not network.exists():
            write_atomically(network, self._prover.proven.network)
        self._seconds: dict[str, float] = {}
        with contextlib.suppress(FileNotFoundError):
            self._seconds = read_json(self._beside)

    def keep(self, stage: str, decisions: Decisions) -> None:
        """Writes the proofs of what was decided; a `cascade.Keep`."""
        for position, content in zip(
            decisions.examples.indices.tolist(), decisions.proofs or (), strict=False
        ):
            if content is not None:
                write_atomically(self.path / files.name(position), content)
        spent = self._seconds.get(stage, 0.0) + decisions.proof_seconds
        self._seconds[stage] = round(spent, 3)
        write_atomically(self._beside, json.dumps(self._seconds) + "\n")

    def finish(self, examples: Examples, rows: Iterable[Row]) -> dict[str, Any]:
        """Writes that nothing is proven where nothing is; figures of all.

        Returns:
          By stage how many files prove its verdicts, and their bytes; how many verdicts have none;
          seconds.
        """
        by_stage: dict[str, dict[str, float]] = {}
        without, known = 0, {row.index: row for row in rows}
        for i, position in enumerate(examples.indices.tolist()):
            path, row = self.path / files.name(position), known[position]
            if row.status is Status.UNKNOWN or not path.exists():
                without += row.status is not Status.UNKNOWN
                image, label = examples.images[i], int(examples.labels[i])
                content = self._prover.proven.open(image, label, row.stage, position)
                write_atomically(path, content)
                continue
            found = by_stage.setdefault(row.stage, {"files": 0, "bytes": 0, "largest": 0})
            size = path.stat().st_size
            found["files"] += 1
            found["bytes"] += size
            found["largest"] = max(found["largest"], size)
        return {"stages": by_stage, "without": without, "seconds": self._seconds}
