"""Tables of results: what tools said of instances, and where two of them differ."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from robustra_tf.storage.reading import read_bytes
from robustra_tf.vnncomp.answers import Word

#: Bytes of a table.
LARGEST = 2**28
DECIDED = (Word.UNSAT, Word.SAT)
#: Words of the competition's results, of its years and of VNN-LIB's standard, beside its own four.
_SYNONYMS = {
    "holds": Word.UNSAT,
    "violated": Word.SAT,
    "open": Word.UNKNOWN,
    "": Word.UNKNOWN,
    "error": Word.UNKNOWN,
    "no_result_in_file": Word.UNKNOWN,
    "timed-out": Word.TIMEOUT,
    "run_instance_timeout": Word.TIMEOUT,
    "prepare_instance_timeout": Word.TIMEOUT,
}
#: What a line of the competition's results.csv has, which has no header.
_RESULTS = ("benchmark", "onnx", "vnnlib", "prepared", "verdict", "seconds")
_NEEDED = ("onnx", "vnnlib", "verdict")
#: Columns of a table of agreed verdicts that have one tool's own beside them.
_PEER = ("abcrown_verdict", "abcrown_seconds")


class Key(NamedTuple):
    """An instance by the names of its files, without folders and endings."""

    network: str
    query: str

    @classmethod
    def of(cls, network: str, query: str) -> Key:
        """Of paths as a list or a table names them."""
        return cls(stem(network), stem(query))

    def __str__(self) -> str:
        return f"{self.network} {self.query}"


def stem(path: str) -> str:
    """A file's name without folders, `.gz`, `.onnx` and `.vnnlib`."""
    return Path(path).name.removesuffix(".gz").removesuffix(".onnx").removesuffix(".vnnlib")


class Result(NamedTuple):
    """What one tool said of an instance, and after how many seconds if that is known."""

    word: Word
    seconds: float | None


class Table(NamedTuple):
    """What a file says.

    Attributes:
      results: of its tool, or what several agree on.
      peer: of alpha-beta-CROWN, where the table has that beside; otherwise empty.
    """

    results: dict[Key, Result]
    peer: dict[Key, Result]


def read(path: Path) -> Table:
    """A table: with a header that names `onnx`, `vnnlib` and `verdict`, or the competition's.

    The latter has six columns and no header.

    Raises:
      OSError: it cannot be read.
      ValueError: no such table, a word that is none, or an instance that is both `sat` and
        `unsat`; the text names file and line.
    """
    try:
        lines = read_bytes(path, LARGEST).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8: {error}") from error
    table = csv.reader(lines, strict=True)
    found = Table({}, {})
    names: tuple[str, ...] | None = None
    try:
        for cells in table:
            cells = [cell.strip() for cell in cells]
            if names is None:
                names = tuple(cells) if set(_NEEDED) <= set(cells) else _RESULTS
                if names is not _RESULTS:
                    continue
            if any(cells):
                _add(found, names, cells)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {table.line_num}: {error}") from error
    if not found.results:
        raise ValueError(f"{path}: expected results, got none")
    return found


def _add(found: Table, names: Sequence[str], cells: Sequence[str]) -> None:
    if len(cells) != len(names):
        expected = f"{len(names)} columns: {', '.join(names)}"
        raise ValueError(f"expected {expected}, got {len(cells)}")
    row = dict(zip(names, cells, strict=True))
    key = Key.of(row["onnx"], row["vnnlib"])
    result = Result(_word(row["verdict"]), _seconds(row.get("seconds", "")))
    before = found.results.get(key, result)
    if {before.word, result.word} == {*DECIDED}:
        raise ValueError(f"{key}: {before.word} above, {result.word} here: expected one verdict")
    found.results[key] = decided(before, result)
    if row.get(_PEER[0]):
        found.peer[key] = Result(_word(row[_PEER[0]]), _seconds(row.get(_PEER[1], "")))


def _word(text: str) -> Word:
    text = text.lower()
    if text in list(Word):
        return Word(text)
    if text in _SYNONYMS:
        return _SYNONYMS[text]
    if text.startswith(("error_", "prepare_instance_error")):
        return Word.UNKNOWN
    raise ValueError(
        f"expected one of {', '.join([*Word, *filter(None, _SYNONYMS)])}, got {text!r}"
    )


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"expected seconds, got {text[:40]!r}")
    return value


def decided(first: Result, second: Result) -> Result:
    """Of two results of an instance that is listed twice the one that decides it, else the last."""
    return first if second.word not in DECIDED else second


class Comparison(NamedTuple):
    """Two tables side by side: instances of both, by what they say.

    Attributes:
      contradictions: `sat` in one, `unsat` in the other.
      agreed: the same of the two in both.
      first, second: decided by that one alone.
      open: by none.
      only_first, only_second: instances that the other table has not.
    """

    contradictions: list[Key]
    agreed: list[Key]
    first: list[Key]
    second: list[Key]
    open: list[Key]
    only_first: list[Key]
    only_second: list[Key]


def compare(first: Mapping[Key, Result], second: Mapping[Key, Result]) -> Comparison:
    """Where two tools agree and differ, each list in the first one's order."""
    found = Comparison([], [], [], [], [], [], [key for key in second if key not in first])
    for key, result in first.items():
        other = second.get(key)
        if other is None:
            found.only_first.append(key)
        else:
            _place(found, result.word, other.word).append(key)
    return found


def _place(found: Comparison, one: Word, other: Word) -> list[Key]:
    if one in DECIDED and other in DECIDED:
        return found.agreed if one is other else found.contradictions
    if one in DECIDED:
        return found.first
    return found.second if other in DECIDED else found.open


def spent(results: Iterable[Result]) -> list[float]:
    """The seconds of what is decided, in their order."""
    decided = (each.seconds for each in results if each.word in DECIDED)
    return sorted(seconds for seconds in decided if seconds is not None)
