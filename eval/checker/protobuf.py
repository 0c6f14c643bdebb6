"""Messages of protocol buffers, read field by field; and the weights of ONNX files by that."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .network import LARGEST_LAYER, WrongError, need

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Of ONNX: the type float32; where a graph, its initializers and its nodes are; and a tensor's.
_FLOAT = 1
_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE, _TENSOR = 7, 1, 5, 5, 5
_DIMS, _TYPE, _FLOATS, _RAW, _LOCATION = 1, 2, 4, 9, 14

Value = int | memoryview


def varint(content: memoryview, at: int) -> tuple[int, int]:
    """A whole number of variable length, and where it ends."""
    value = shift = 0
    while True:
        need(at < len(content) and shift < 70, "file", "a whole number", "its end")
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(content: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message: numbers and values, in their order."""
    at = 0
    while at < len(content):
        key, at = varint(content, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = varint(content, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = varint(content, at)
        else:
            need(kind in (_FIXED64, _FIXED32), "file", "a field of a known kind", kind)
            size = 8 if kind == _FIXED64 else 4
        need(size <= len(content) - at, "file", f"{size} bytes", len(content) - at)
        yield key >> 3, content[at : at + size]
        at += size


def parts(content: memoryview, number: int) -> list[memoryview]:
    """The messages, texts or bytes in all fields of a number."""
    return [value for n, value in fields(content) if n == number and not isinstance(value, int)]


def numbers(content: memoryview, number: int) -> list[int]:
    """The whole numbers in all fields of a number, packed or not."""
    found = []
    for n, value in fields(content):
        if n != number:
            continue
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = varint(value, at)
            found.append(one)
    return found


def onnx_arrays(content: memoryview) -> list[np.ndarray]:
    """The float32 arrays of an ONNX model: initializers, and what its nodes hold."""
    found = []
    for graph in parts(content, _GRAPH):
        tensors = parts(graph, _INITIALIZER)
        for node in parts(graph, _NODE):
            for attribute in parts(node, _ATTRIBUTE):
                tensors += parts(attribute, _TENSOR)
        found += [array for tensor in tensors if (array := _tensor(tensor)) is not None]
    return found


def _tensor(content: memoryview) -> np.ndarray | None:
    if numbers(content, _TYPE) != [_FLOAT]:
        return None
    need(numbers(content, _LOCATION) in ([], [0]), "file", "arrays in the file", "another file")
    shape = numbers(content, _DIMS)
    size = math.prod(shape)
    need(len(shape) <= 8 and size <= LARGEST_LAYER, "file", "an array", shape)
    data = b"".join(bytes(part) for part in parts(content, _RAW) or _floats(content))
    if len(data) != 4 * size:
        raise WrongError(f"file: expected {size} numbers of an array, got {len(data) / 4:g}")
    return np.frombuffer(data, "<f4").reshape(shape)


def _floats(content: memoryview) -> list[memoryview]:
    return parts(content, _FLOATS)
