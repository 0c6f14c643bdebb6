"""Checkpoints of everything that training changes, so that a run can go on where it was.

A checkpoint is a folder, named after its position, of three files: the variables as TensorFlow
writes them (`state.*`), what else a run remembers (`about.json`) and the checksums of both
(`SHA256SUMS`, which `sha256sum -c` reads). It is written under another name, waited for until it is
on disk, and renamed: at any moment the checkpoints that carry their name are whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from robustra_tf.storage import files
from robustra_tf.training.means import NotFiniteError
from robustra_tf.training.mutual import Learner
from robustra_tf.training.watch import Position

KEPT = 2
_STATE, _ABOUT, _SUMS = "state", "about.json", "SHA256SUMS"
_NAME = re.compile(r"(\d{6,})-(\d{8,})")
_PARTIAL, _DAMAGED = ".partial", ".damaged"


class CheckpointError(ValueError):
    """Checkpoints that a run cannot go on from; the text names the file and what is wrong."""


class Saved(NamedTuple):
    """What a checkpoint holds beside the variables.

    Attributes:
      path: of the checkpoint.
      position: where the run was.
      notes: what `save` was given.
      skipped: of newer checkpoints that are damaged, a line each.
    """

    path: Path
    position: Position
    notes: dict[str, Any]
    skipped: list[str]


class Checkpoints:
    """The checkpoints of a run: its networks, with optimizers and snapshots, and its position."""

    def __init__(self, directory: Path, networks: Sequence[Learner], seed: int):
        """Prepares to save and restore the given networks.

        Args:
          directory: of the checkpoints; made by the first `save`.
          networks: built models with built optimizers.
          seed: of the run; a checkpoint of another seed is refused.
        """
        self._directory, self._seed = directory, seed
        self._variables = {network.name: _variables(network) for network in networks}
        self._checkpoint = tf.train.Checkpoint(
            **{name: tf.train.Checkpoint(**parts) for name, parts in self._variables.items()}
        )
        #: The newest one that is whole, if any.
        self.newest: Path | None = None

    def save(self, position: Position, notes: Mapping[str, Any]) -> Path:
        """Saves the networks at a position, with notes that JSON can hold; returns its path.

        Raises:
          NotFiniteError: a variable that is not finite; nothing was written.
          OSError: it cannot be written, as on a full disk. The checkpoints before it stay.
        """
        name = f"{position.passes:06d}-{position.step:08d}"
        final, partial = self._directory / name, self._directory / (name + _PARTIAL)
        if final == self.newest:
            return final
        self._require_finite(position)
        where = position._asdict() | {"totals": dict(position.totals)}
        about = {"seed": self._seed, "position": where, "notes": notes}
        try:
            for left in self._directory.glob("*" + _PARTIAL):
                shutil.rmtree(left)
            partial.mkdir(parents=True)
            self._checkpoint.write(str(partial / _STATE))
            (partial / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
            sums = "".join(f"{_sha256(file)}  {file.name}\n" for file in sorted(partial.iterdir()))
            (partial / _SUMS).write_text(sums, encoding="utf-8")
            for place in (*partial.iterdir(), partial):
                files.sync(place)
            partial.rename(final)
            files.sync(self._directory)
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            problem = str(error).splitlines()[0]
            raise OSError(f"{final}: the checkpoint cannot be written: {problem}") from error
        self.newest = final
        for old in found(self._directory)[KEPT:]:
            # Renamed first: one that is half deleted must not pass for a damaged one.
            shutil.rmtree(old.rename(old.with_name(old.name + _PARTIAL)), ignore_errors=True)
        return final

    def restore(self) -> Saved | None:
        """Restores the newest checkpoint that is whole; None where there is none at all.

        Newer ones that are damaged are set aside, under a name that ends in `.damaged`.

        Raises:
          CheckpointError: all are damaged, or the one to restore is of another run: it holds other
            variables or another seed.
        """
        skipped: dict[Path, str] = {}
        for path in found(self._directory):
            try:
                about = _read(path)
            except CheckpointError as error:
                skipped[path] = str(error)
                continue
            self._load(path, about["seed"])
            for damaged in skipped:
                aside = damaged.with_name(damaged.name + _DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                damaged.rename(aside)
            self.newest = path
            position = Position(**about["position"])
            return Saved(path, position, about["notes"], list(skipped.values()))
        if skipped:
            raise CheckpointError("no checkpoint can be used: " + "; ".join(skipped.values()))
        return None

    def _load(self, path: Path, seed: int) -> None:
        if seed != self._seed:
            raise CheckpointError(
                f"{path}: expected a checkpoint of seed {self._seed}, got seed {seed}"
            )
        try:
            status = self._checkpoint.read(str(path / _STATE))
            status.assert_existing_objects_matched().assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            problem = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path}: not a checkpoint of these networks: {problem}"
            ) from error

    def _require_finite(self, position: Position) -> None:
        for name, parts in self._variables.items():
            for part, variables in parts.items():
                real = [v for v in variables if v.dtype.is_floating]
                if real and not all(tf.reduce_all(tf.math.is_finite(v)) for v in real):
                    raise NotFiniteError(
                        f"{part} of {name}: not finite after {position.passes} passes and "
                        f"{position.step} steps; the last of these steps overflowed"
                    )


def found(directory: Path) -> list[Path]:
    """The checkpoints of a run that carry their name, the newest first."""
    if not directory.is_dir():
        return []
    matches = {path: _NAME.fullmatch(path.name) for path in directory.iterdir()}
    named = {path: (int(m[1]), int(m[2])) for path, m in matches.items() if m}
    return sorted(named, key=lambda path: named[path], reverse=True)


def variables(path: Path) -> tf.train.CheckpointReader:
    """What a checkpoint holds of `NETWORK/model/0` and so on, `optimizer` and `snapshot`."""
    return tf.train.load_checkpoint(str(path / _STATE))


def _variables(network: Learner) -> dict[str, list[tf.Variable]]:
    # The variables themselves, in order: what Keras names them may change between versions.
    parts = {"model": network.model.variables, "optimizer": network.optimizer.variables}
    if network.snapshot:
        parts["snapshot"] = network.snapshot.copy.variables
    return {part: [variable.value for variable in those] for part, those in parts.items()}


def _read(path: Path) -> dict[str, Any]:
    """What `about.json` holds, after all checksums have been compared.

    Raises:
      CheckpointError: a file that is missing, cut short or altered.
    """
    try:
        listed = dict(_listed(path / _SUMS))
        for name in {_ABOUT, *listed}:
            if _sha256(path / name) != listed.get(name):
                raise CheckpointError(f"{path / name}: damaged: its checksum is another")
        return json.loads((path / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: damaged: {error}") from error


def _listed(sums: Path) -> Iterator[tuple[str, str]]:
    """Names and checksums in a file of `sha256sum`."""
    for line in sums.read_text(encoding="utf-8").splitlines():
        checksum, name = line.split("  ")
        # A name, not a path to somewhere else.
        yield Path(name).name, checksum


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
