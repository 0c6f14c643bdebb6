"""The float32 arrays of HDF5 files as Keras writes them: old-style groups, contiguous arrays.

By the file format's specification, version 3.0: superblocks of version 0, groups of B-trees and
local heaps, object headers of version 1. Anything else is refused by name.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from .network import LARGEST_LAYER, WrongError, need

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SPACE, _TYPE, _LAYOUT, _CONTINUED, _TABLE = 1, 3, 8, 16, 17
_CONTIGUOUS, _FLOAT_CLASS, _SYMBOL = 1, 1, 40
#: Objects of a file, messages of an object, and levels of groups.
_MOST, _DEPTH = 100_000, 64


def arrays(content: memoryview) -> list[np.ndarray]:
    """All float32 arrays, in the order of names, group by group."""
    return _File(content).arrays()


class _File:
    def __init__(self, content: memoryview):
        self.content, self.visited = content, 0
        need(bytes(content[:8]) == _SIGNATURE, "file", "an HDF5 file", "another one")
        version, offsets, lengths = self._unpack(8, "B4xBB")
        supported = (version, offsets, lengths) == (0, 8, 8)
        need(supported, "file", "a superblock of version 0, 8 bytes an address", version)

    def arrays(self) -> list[np.ndarray]:
        """All arrays below the root."""
        (root,) = self._unpack(56 + 8, "Q")
        return self._object(root, 0)

    def _unpack(self, at: int, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        inside = at >= 0 and at + size <= len(self.content)
        need(inside, "file", f"{size} bytes at {at}", f"{len(self.content)} in all")
        return struct.unpack_from("<" + layout, self.content, at)

    def _object(self, at: int, depth: int) -> list[np.ndarray]:
        self.visited += 1
        need(self.visited <= _MOST and depth <= _DEPTH, "file", "fewer objects", "too many")
        messages = self._messages(at)
        if _TABLE in messages:
            tree, _ = self._unpack(messages[_TABLE][0], "QQ")
            return [
                a for child in self._children(tree, depth) for a in self._object(child, depth + 1)
            ]
        if not {_SPACE, _TYPE, _LAYOUT} <= set(messages):
            return []
        found = self._array(*(messages[kind][0] for kind in (_SPACE, _TYPE, _LAYOUT)))
        return [] if found is None else [found]

    def _messages(self, at: int) -> dict[int, tuple[int, int]]:
        """Where an object's messages are, and their sizes, by kinds."""
        version, count, size = self._unpack(at, "BxH4xI")
        need(version == 1, "file", "object headers of version 1", version)
        found: dict[int, tuple[int, int]] = {}
        blocks, read = [(at + 16, size)], 0
        while blocks:
            here, left = blocks.pop()
            while left >= 8 and read < count:
                kind, length = self._unpack(here, "HH")
                read += 1
                if kind == _CONTINUED:
                    blocks.append(self._unpack(here + 8, "QQ"))
                found.setdefault(kind, (here + 8, length))
                here, left = here + 8 + length, left - 8 - length
        return found

    def _children(self, at: int, depth: int) -> list[int]:
        """The objects of a group, through its B-tree."""
        self.visited += 1
        need(self.visited <= _MOST and depth <= _DEPTH, "file", "a smaller tree", "too many nodes")
        signature, count = self._unpack(at, "4s2xH")
        if signature == b"SNOD":
            (count,) = self._unpack(at + 6, "H")
            return [self._unpack(at + 8 + _SYMBOL * k + 8, "Q")[0] for k in range(count)]
        need(signature == b"TREE", "file", "a group's tree", signature)
        places = [self._unpack(at + 24 + 16 * k + 8, "Q")[0] for k in range(count)]
        return [child for place in places for child in self._children(place, depth + 1)]

    def _array(self, space: int, kind: int, layout: int) -> np.ndarray | None:
        class_, order, size = self._unpack(kind, "BB2xI")
        if class_ & 15 != _FLOAT_CLASS or size != 4 or order & 1:
            return None
        version, rank = self._unpack(space, "BB")
        need(version == 1 and rank <= 8, "file", "a simple array", (version, rank))
        shape = self._unpack(space + 8, f"{rank}Q")
        count = math.prod(shape)
        need(count <= LARGEST_LAYER, "file", f"arrays of at most {LARGEST_LAYER} numbers", shape)
        version, class_ = self._unpack(layout, "BB")
        whole = version == 3 and class_ == _CONTIGUOUS
        need(whole, "file", "arrays in one piece", f"layout {version}, {class_}")
        place, length = self._unpack(layout + 2, "QQ")
        if length != 4 * count or place + length > len(self.content):
            raise WrongError(f"file: expected {count} numbers of an array, got {length} bytes")
        data = self.content[place : place + length]
        return np.frombuffer(data, "<f4").reshape(shape)
