"""The ledger: what is known of each example, written down as it becomes known.

`ledger.csv` holds a row an example and stage while the evaluation goes on, the newest row of an
example being the one that counts; at the end it is rewritten with one row an example, in their
order. `ledger.json` beside it says whose ledger it is, and how many seconds each stage has taken.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from robustra_tf.storage.files import write_atomically
from robustra_tf.storage.reading import read_json

from .rows import Line, Row

NAME = "ledger.csv"
IDENTITY_NAME = "ledger.json"


Kept = TypeVar("Kept", bound=Line)


class LedgerError(ValueError):
    """A ledger that cannot be continued; the text says why."""


class Stored(NamedTuple, Generic[Kept]):
    """A ledger as it lies on disk.

    Attributes:
      identity: what its rows depend on.
      rows: the newest row of each example, by its index.
      seconds: what each stage has taken.
      finished: whether the evaluation was done.
      size: bytes of whole lines; a crash may have left a part of another one behind them.
    """

    identity: dict[str, Any]
    rows: dict[int, Kept]
    seconds: dict[str, float]
    finished: bool
    size: int


def read(directory: Path, kind: type[Kept] = Row) -> Stored[Kept]:
    """Reads a ledger of rows of one kind and changes nothing.

    Raises:
      LedgerError: there is none, or it is damaged; the text names the file and the line.
    """
    path = directory / NAME
    if not path.is_file():
        raise LedgerError(f"{path}: there is no ledger")
    about = _read_about(directory)
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        lines = whole.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise LedgerError(f"{path}: not text: {error}") from error
    if lines and lines[0] + "\n" != _header(kind):
        raise LedgerError(f"{path}, line 1: expected {_header(kind).strip()}, got {lines[0]}")
    rows: dict[int, Kept] = {}
    table = csv.reader(lines, strict=True)
    try:
        next(table, None)
        for cells in table:
            row = kind.parse(cells)
            if about["finished"] and row.index in rows:
                raise ValueError(f"index: {row.index} was there before; expected a row an example")
            rows[row.index] = row
    except (ValueError, csv.Error) as error:
        raise LedgerError(f"{path}, line {table.line_num}: {error}") from error
    return Stored(about["identity"], rows, dict(about["seconds"]), about["finished"], len(whole))


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], ignored: Collection[str] = ()
) -> list[tuple[str, Any, Any]]:
    """What two identities differ in: (name, value in one, value in the other) each."""
    names = sorted((one.keys() | other.keys()) - set(ignored))
    return [(n, one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)]


def check(
    directory: Path, identity: Mapping[str, Any], resume: bool, kind: type[Kept] = Row
) -> Stored[Kept] | None:
    """What `Ledger` would go on with, None where it would begin anew; changes nothing.

    Raises:
      LedgerError: as `Ledger`.
    """
    path = directory / NAME
    if not path.exists() or not (resume or not _is_finished(directory)):
        return None
    if not resume:
        raise LedgerError(
            f"{path}: there is an unfinished evaluation; --resume goes on with it, another --out "
            "begins a new one"
        )
    stored = read(directory, kind)
    if different := differences(stored.identity, as_json(identity)):
        told = "; ".join(f"{name} was {was!r}, is {now!r}" for name, was, now in different)
        raise LedgerError(f"{path}: the ledger of another evaluation: {told}")
    return stored


def as_json(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as JSON gives it back, so that two can be compared."""
    return json.loads(json.dumps(dict(identity)))


def evaluation_id(identity: Mapping[str, Any]) -> str:
    """A hash that binds what is written beside a ledger to it: 16 hexadecimal digits."""
    text = json.dumps(as_json(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _header(kind: type[Line]) -> str:
    return ",".join(kind.FIELDS) + "\n"


class Ledger(Generic[Kept]):
    """The rows of an evaluation, on disk before the next example is begun.

    Attributes:
      rows: the newest row of each example, by its index.
      seconds: what each stage has taken so far, over all the runs that wrote this ledger.
    """

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, Any],
        resume: bool,
        kind: type[Kept] = Row,
    ):
        """Begins a ledger, or goes on with the one in `directory`.

        Args:
          directory: an existing directory.
          identity: what the rows depend on: JSON values by name.
          resume: go on with a ledger of the same identity. A line that was cut off by a crash is
            dropped. Without a ledger there, one is begun.
          kind: of its rows.

        Raises:
          LedgerError: another evaluation's ledger, a damaged one, or, without `resume`, an
            unfinished one, which would be lost.
          OSError: the directory cannot be written.
        """
        self._path, self._about = directory / NAME, directory / IDENTITY_NAME
        self._identity = as_json(identity)
        stored = check(directory, identity, resume, kind)
        self._kind = kind
        self.rows: dict[int, Kept] = stored.rows if stored else {}
        self.seconds: dict[str, float] = stored.seconds if stored else {}
        self._next_about = 0.0
        if stored is None:
            self._write_about(finished=False)
        if stored is None or stored.size == 0:
            write_atomically(self._path, _header(kind))
        else:
            with self._path.open("r+b") as file:
                file.truncate(stored.size)
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def record(self, rows: Iterable[Kept], stage: str, seconds: float) -> None:
        """Writes rows, and adds to a stage's seconds."""
        for row in rows:
            self._writer.writerow(row.cells())
            self._file.flush()
            self.rows[row.index] = row
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        # Waits for the disk, which quick examples need not: a crash loses a second of the account.
        if time.monotonic() >= self._next_about:
            self._next_about = time.monotonic() + 1.0
            self._write_about(finished=False)

    def finish(self) -> None:
        """Rewrites the file with one row an example, in their order, and closes it."""
        self._file.close()
        with io.StringIO(newline="") as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows(
                [self._kind.FIELDS, *(self.rows[i].cells() for i in sorted(self.rows))]
            )
            write_atomically(self._path, text.getvalue())
        self._write_about(finished=True)

    def close(self) -> None:
        """Closes the file; what was recorded can be continued."""
        if not self._file.closed:
            self._file.close()
            self._write_about(finished=False)

    def _write_about(self, finished: bool) -> None:
        about = {"identity": self._identity, "seconds": self.seconds, "finished": finished}
        write_atomically(self._about, json.dumps(about, indent=1) + "\n")


def _is_finished(directory: Path) -> bool:
    try:
        return _read_about(directory)["finished"]
    except LedgerError:
        return False


def _read_about(directory: Path) -> dict[str, Any]:
    path = directory / IDENTITY_NAME
    if not path.is_file():
        raise LedgerError(f"{directory / NAME}: whose ledger it is cannot be told: no {path}")
    try:
        about = read_json(path)
    except ValueError as error:
        raise LedgerError(str(error)) from error
    for name, kind in (("identity", dict), ("seconds", dict), ("finished", bool)):
        if not isinstance(about, dict) or not isinstance(about.get(name), kind):
            raise LedgerError(f"{path}: damaged: {name!r}: expected {kind.__name__}")
    for stage, spent in about["seconds"].items():
        if not isinstance(spent, int | float) or not math.isfinite(spent):
            raise LedgerError(f"{path}: damaged: 'seconds' of {stage!r}: expected a number")
    return {name: about[name] for name in ("identity", "seconds", "finished")}
