"""Files from anywhere, read without believing what they say of themselves.

Readers here run nothing that a file holds and know how much they will allocate before they do; a
`ValueError` names the file.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: Bytes of a JSON file: architectures and settings take some kilobytes.
LARGEST_JSON = 16 * 2**20
# What an archive of gzip's begins with.
_GZIP = b"\x1f\x8b"


def read_json(path: Path, most: int = LARGEST_JSON) -> Any:
    """The value that a JSON file holds.

    Raises:
      OSError: it cannot be read.
      ValueError: more than `most` bytes, or not JSON in UTF-8; the text names the file.
    """
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path}: expected at most {most} bytes, got {size}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, not JSON: {error}") from error


class Field(NamedTuple):
    """What an array of an archive must be.

    Attributes:
      kinds: NumPy's letters of the allowed types: `U` text, `iu` integers, `f` floats.
      rank: the number of axes; None for any but none.
    """

    kinds: str
    rank: int | None

    def fits(self, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
        """Whether an array of this type and shape is one."""
        axes = len(shape) > 0 if self.rank is None else len(shape) == self.rank
        return dtype.kind in self.kinds and axes


class Header(NamedTuple):
    """What an array of an archive says that it is."""

    shape: tuple[int, ...]
    dtype: np.dtype
    bytes: int


def read_arrays(path: Path, fields: Mapping[str, Field], most: int) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` archive, after comparing what it declares with what is expected.

    Nothing is unpickled, and no array is unpacked before the sizes in the archive's directory and
    in the arrays' own headers are known to agree and to stay within `most` bytes together.

    Raises:
      ValueError: names the file, and the field where one is to blame.
    """
    with _archive(path) as archive:
        left, found = most, {}
        for name, field in fields.items():
            found[name] = _member(archive, name, field, left)
            left -= found[name].nbytes
        return found


def read_headers(path: Path) -> dict[str, Header]:
    """What the arrays of an `.npz` archive say that they are, by name; raises as `read_arrays`."""
    with _archive(path) as archive:
        names = [entry.filename for entry in archive.infolist()]
        return {
            name.removesuffix(".npy"): _header(archive, archive.getinfo(name))[0] for name in names
        }


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except MemoryError:
        raise
    except Exception as error:  # Whatever a damaged archive leads to.
        raise ValueError(f"{path}: damaged: {error}") from error


def _member(archive: zipfile.ZipFile, name: str, field: Field, most: int) -> np.ndarray:
    entries = [entry for entry in archive.infolist() if entry.filename == f"{name}.npy"]
    if len(entries) != 1:
        raise ValueError(f"expected one field {name!r}, got {len(entries)}")
    (entry,) = entries
    if entry.file_size > most:
        raise ValueError(f"field {name!r}: {entry.file_size} bytes, expected at most {most}")
    (shape, dtype, size), start = _header(archive, entry)
    if not field.fits(dtype, shape):
        pickled = " (pickled objects are never read)" * dtype.hasobject
        raise ValueError(
            f"field {name!r}: expected {field.rank or 'some'} axes of a type in {field.kinds!r}, "
            f"got {dtype} of shape {shape}{pickled}"
        )
    if size != entry.file_size - start:
        raise ValueError(f"field {name!r}: {dtype} of shape {shape} does not fit its bytes")
    with archive.open(entry) as file:
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # What decompressing raises is not one kind.
            raise ValueError(f"field {name!r}: {error}") from error


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[Header, int]:
    """What an array says that it is, and where its content begins."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with archive.open(entry) as file:
        try:
            shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
        except (ValueError, KeyError) as error:
            name = entry.filename.removesuffix(".npy")
            raise ValueError(f"field {name!r}: no array: {error}") from error
        return Header(shape, dtype, math.prod(shape) * dtype.itemsize), file.tell()


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file, unpacked where its name ends in `.gz` or it begins as an archive.

    Raises:
      OSError: it cannot be read.
      ValueError: more than `most` bytes, packed or unpacked, or a damaged archive; the text names
        the file.
    """
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path}: expected at most {most} bytes, got {size}")
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP or path.suffix == ".gz"
    if not packed:
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged, no gzip archive: {error}") from error
    if len(content) > most:
        raise ValueError(f"{path}: expected at most {most} bytes, got an archive of more")
    return content
