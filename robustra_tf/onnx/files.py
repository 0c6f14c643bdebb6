"""Files of ONNX into protocol buffers and arrays, without believing what they say of themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robustra_tf.onnx.packages import required
from robustra_tf.storage.reading import read_bytes

#: Bytes of a file, and of one beside it that holds its weights.
LARGEST = 2**30
#: Nodes of a network.
MOST_NODES = 10_000
#: ONNX's number of a type -> NumPy's type, and the field of values that are not raw bytes.
_TYPES = {
    1: ("<f4", "float_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    11: ("<f8", "double_data"),
}


def read_model(path: Path) -> Any:
    """The `onnx.ModelProto` of a file, with all of its weights inside; `.onnx` or `.onnx.gz`.

    Raises:
      OSError: it, or a file of weights beside it, cannot be read.
      ValueError: it is no ONNX, is damaged or too large, or names a file elsewhere; the text names
        the file.
    """
    onnx = required("onnx")
    content = read_bytes(path, LARGEST)
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's error is a type of its implementation
        raise ValueError(f"{path}: damaged, no ONNX: {_line(error)}") from error
    try:
        _take_in(model, path.resolve().parent)
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{path}: {_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _take_in(model: Any, folder: Path) -> None:
    """Checks counts and sizes, and moves weights that lie beside the file into the model."""
    if (count := len(model.graph.node)) > MOST_NODES:
        raise ValueError(f"expected at most {MOST_NODES} nodes, got {count}")
    for tensor in _tensors(model.graph):
        size = _size(tensor)
        if tensor.data_location == 1:
            tensor.raw_data = _beside(tensor, folder, size)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        _check_content(tensor, size)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    if graph.sparse_initializer:
        raise ValueError("expected dense weights, got a sparse initializer")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _size(tensor: Any) -> int:
    """How many numbers a tensor declares."""
    if tensor.data_type not in _TYPES:
        kind = required("onnx").TensorProto.DataType.keys()
        name = kind[tensor.data_type] if 0 <= tensor.data_type < len(kind) else tensor.data_type
        raise ValueError(f"tensor {tensor.name!r}: expected float32 or integers, got {name}")
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"tensor {tensor.name!r}: expected sizes from 0, got {list(tensor.dims)}")
    return math.prod(tensor.dims)


def _check_content(tensor: Any, size: int) -> None:
    kind, field = _TYPES[tensor.data_type]
    if tensor.HasField("raw_data"):
        found, expected = len(tensor.raw_data), size * np.dtype(kind).itemsize
    else:
        found, expected = len(getattr(tensor, field)), size
    if found != expected or tensor.HasField("segment"):
        raise ValueError(
            f"tensor {tensor.name!r}: {found} bytes or numbers do not fit {list(tensor.dims)}"
        )


def _beside(tensor: Any, folder: Path, size: int) -> bytes:
    """The bytes of weights in a file of the same folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or folder not in path.parents:
        raise ValueError(
            f"tensor {tensor.name!r}: expected weights in the file's own folder, got {location!r}"
        )
    if not path.is_file():
        raise ValueError(f"tensor {tensor.name!r}: expected weights in {location!r}, got no file")
    length = size * np.dtype(_TYPES[tensor.data_type][0]).itemsize
    start, given = int(entries.get("offset", 0)), int(entries.get("length", length))
    if given != length or start < 0 or start + length > path.stat().st_size or length > LARGEST:
        raise ValueError(
            f"tensor {tensor.name!r}: {given} bytes from {start} of {location!r} do not fit "
            f"{list(tensor.dims)}"
        )
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def array(tensor: Any) -> np.ndarray:
    """The numbers of a tensor that `read_model` has checked.

    Raises:
      ValueError: some are not finite.
    """
    kind, field = _TYPES[tensor.data_type]
    if tensor.HasField("raw_data"):
        values = np.frombuffer(tensor.raw_data, kind)
    else:
        values = np.array(getattr(tensor, field), kind)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"tensor {tensor.name!r}: expected finite numbers, got NaN or infinity")
    return values.reshape(tuple(tensor.dims))
