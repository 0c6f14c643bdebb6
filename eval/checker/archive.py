"""Archives of plain arrays, `.npz`, read without trust."""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

from .network import MOST_AXES, WrongError, need


class Limits(NamedTuple):
    """What an archive may hold.

    Attributes:
      kinds: types of arrays beside the header, which is bytes.
      file: the most bytes of a file.
      inflated: the most bytes of all its members, where these may be compressed; else None.
    """

    kinds: tuple[str, ...]
    file: int
    inflated: int | None = None


#: A header is refused above this.
LARGEST_HEADER = 2**26


def arrays(path: str | os.PathLike, limits: Limits, only: str = "") -> dict[str, np.ndarray]:
    """The members of an archive. Nothing in it is run, and no array is larger than it may be.

    Args:
      path: the archive.
      limits: what it may hold.
      only: the one member that is read; default: all are.
    """
    try:
        size = os.path.getsize(path)
        need(size <= limits.file, "file", f"at most {limits.file} bytes", size)
        with zipfile.ZipFile(path) as archive:
            return _members(archive, size, limits, only)
    except OSError as error:
        raise WrongError(f"file: cannot be read: {error.strerror or error}") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        ValueError,
        NotImplementedError,
    ) as error:
        raise WrongError(f"file: damaged, or no .npz archive: {error}") from error


def _members(
    archive: zipfile.ZipFile, size: int, limits: Limits, only: str
) -> dict[str, np.ndarray]:
    members = archive.infolist()
    names = [member.filename for member in members]
    need(len(set(names)) == len(names), "file", "each member once", "a repeated name")
    found: dict[str, np.ndarray] = {}
    whole = sum(member.file_size for member in members)
    if limits.inflated is not None:
        need(whole <= limits.inflated, "file", f"at most {limits.inflated} bytes inflated", whole)
    for member in members:
        name = member.filename.removesuffix(".npy")
        if only not in ("", name):
            continue
        if limits.inflated is None:
            plain = member.compress_type == zipfile.ZIP_STORED and member.file_size <= size
            need(plain, name, "an uncompressed member", "a compressed one")
        else:
            known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            need(known, name, "a stored or deflated member", member.compress_type)
        found[name] = _array(name, archive, member, limits.kinds)
    return found


def _array(
    name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: tuple[str, ...]
) -> np.ndarray:
    with archive.open(member) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            need(version in readers, name, "a .npy member of version 1 or 2", version)
            shape, fortran, dtype = readers[version](stream)
        except (ValueError, SyntaxError, TypeError, RecursionError) as error:
            raise WrongError(f"{name}: its .npy header is damaged: {error}") from error
        allowed = ("|u1",) if name == "header" else kinds
        need(dtype.str in allowed, name, f"numbers of type {', '.join(allowed)}", dtype)
        need(len(shape) <= MOST_AXES, name, f"at most {MOST_AXES} axes", len(shape))
        need(all(s >= 0 for s in shape), name, "a shape", shape)
        size = math.prod(shape) * dtype.itemsize
        need(size <= member.file_size, name, f"data for shape {shape}", "fewer bytes")
        content = stream.read(size + 1)
    need(len(content) == size, name, f"{size} bytes of data", f"{len(content)}")
    values = np.frombuffer(content, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def there(name: str, values: np.ndarray | None) -> np.ndarray:
    """A member of the archive, unless it has none of that name."""
    if values is None:
        raise WrongError(f"{name}: expected a member of that name, got none")
    return values


def header(values: np.ndarray, largest: int = LARGEST_HEADER) -> dict[str, Any]:
    """The JSON object of a header."""
    need(values.size <= largest, "header", f"at most {largest} bytes", values.size)
    try:
        found = json.loads(values.tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise WrongError(f"header: not JSON: {error}") from error
    need(isinstance(found, dict), "header", "an object", found)
    return found
