"""Lists of instances: `instances.csv` of a benchmark, a network, a property and seconds a line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from robustra_tf.storage.files import write_atomically
from robustra_tf.storage.reading import read_bytes

NAME = "instances.csv"
#: Bytes of a list, of a million instances.
LARGEST = 2**28


class Instance(NamedTuple):
    """A question.

    Attributes:
      network, query: the files of ONNX and VNN-LIB as the list names them, beside it.
      seconds: that are allowed.
    """

    network: str
    query: str
    seconds: float


def read(path: Path) -> list[Instance]:
    """The instances of a list, in its order.

    Raises:
      OSError: it cannot be read.
      ValueError: a line that is no instance, or none at all; the text names file and line.
    """
    try:
        lines = read_bytes(path, LARGEST).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8: {error}") from error
    found = []
    table = csv.reader(lines, strict=True)
    try:
        stripped = ([cell.strip() for cell in cells] for cells in table)
        found = [_instance(cells) for cells in stripped if any(cells)]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {table.line_num}: {error}") from error
    if not found:
        raise ValueError(f"{path}: expected an instance or more, got none")
    return found


def _instance(cells: list[str]) -> Instance:
    seconds = math.nan
    if len(cells) == 3 and all(cells):
        try:
            seconds = float(cells[2])
        except ValueError:
            seconds = math.nan
    if not 0 < seconds < math.inf:
        shown = ",".join(cells)[:60]
        raise ValueError(f"expected a network, a property and seconds above 0, got {shown!r}")
    return Instance(cells[0], cells[1], seconds)


def write(path: Path, instances: Iterable[Instance]) -> None:
    """Writes a list."""
    lines = (f"{each.network},{each.query},{each.seconds:g}\n" for each in instances)
    write_atomically(path, "".join(lines))


def located(folder: Path, name: str) -> Path:
    """The file of an instance in its benchmark's folder: as named, or with `.gz`, or without.

    Raises:
      ValueError: there is neither.
    """
    for path in (folder / name, folder / f"{name}.gz", folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise ValueError(f"{folder / name}: there is no such file, with .gz or without")
