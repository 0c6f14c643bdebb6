"""The float32 arrays of a SavedModel's variables: a table of names in front of one file of numbers.

The table is one of LevelDB's (`doc/table_format.md`), its values are messages of protocol buffers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .network import LARGEST_LAYER, need
from .protobuf import numbers, parts, varint

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
#: Of an entry: float32's number, and where type, shape, shard, place and size are.
_FLOAT = 1
_TYPE, _SHAPE, _SHARD, _PLACE, _SIZE, _DIM, _LENGTH = 1, 2, 3, 4, 5, 2, 1
_LARGEST = 2**31


def arrays(folder: Path) -> list[np.ndarray]:
    """The arrays of `variables/`, in the order of names."""
    index, data = (
        _content(folder / "variables" / f"variables.{end}")
        for end in ("index", "data-00000-of-00001")
    )
    found, entries = [], _values(index)
    next(entries, None)  # About the table itself, by the empty name.
    for entry in entries:
        if numbers(entry, _TYPE) != [_FLOAT]:
            continue
        shard, place, size = (_one(entry, field) for field in (_SHARD, _PLACE, _SIZE))
        shape = [_one(dim, _LENGTH) for whole in parts(entry, _SHAPE) for dim in parts(whole, _DIM)]
        count = math.prod(shape)
        right = shard == 0 and size == 4 * count and place + size <= len(data)
        need(right and count <= LARGEST_LAYER, "variables", "arrays in one file", shape)
        found.append(np.frombuffer(data[place : place + size], "<f4").reshape(shape))
    return found


def _content(path: Path) -> memoryview:
    need(path.stat().st_size <= _LARGEST, path.name, f"at most {_LARGEST} bytes", "more")
    return memoryview(path.read_bytes())


def _one(message: memoryview, number: int) -> int:
    found = numbers(message, number)
    need(len(found) <= 1, "variables", "one number in a field", found)
    return found[0] if found else 0


def _values(table: memoryview) -> Iterator[memoryview]:
    """The values of a table."""
    whole = len(table) >= _FOOTER
    need(whole and struct.unpack("<Q", table[-8:])[0] == _MAGIC, "variables", "a table", "none")
    footer = table[-_FOOTER:]
    _, at = varint(footer, 0)
    _, at = varint(footer, at)
    for handle in _entries(table, footer[at:]):
        yield from _entries(table, handle)


def _entries(table: memoryview, handle: memoryview) -> Iterator[memoryview]:
    """The values of a block."""
    place, at = varint(handle, 0)
    size, _ = varint(handle, at)
    need(size >= 4 and place + size < len(table), "variables", "a block in the table", size)
    need(table[place + size] == 0, "variables", "blocks that are not compressed", "another")
    block = table[place : place + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    end = size - 4 - 4 * restarts
    need(end >= 0, "variables", "a block's entries", restarts)
    at = 0
    while at < end:
        _, at = varint(block, at)
        own, at = varint(block, at)
        length, at = varint(block, at)
        need(at + own + length <= end, "variables", "an entry in its block", length)
        yield block[at + own : at + own + length]
        at += own + length
