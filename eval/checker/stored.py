"""Weights of networks as they are kept elsewhere, and whether a proof's are these, bit by bit."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from . import bundle, hdf5, protobuf
from .claim import UnreadableError
from .network import Node, WrongError, need
from .rejection import RejectedError

#: Of the files that networks are read from; SavedModels are folders.
SUFFIXES = (".keras", ".h5", ".onnx")
_WEIGHTS = "model.weights.h5"
_LARGEST = 2**31


def arrays(path: str | os.PathLike) -> list[np.ndarray]:
    """The float32 arrays of a network's file.

    Args:
      path: `.onnx`, `.keras`, `.h5`, or the folder of a SavedModel.

    Raises:
      UnreadableError: it is none of these, or damaged.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return bundle.arrays(path)
        need(path.stat().st_size <= _LARGEST, "file", f"at most {_LARGEST} bytes", "more")
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                size = archive.getinfo(_WEIGHTS).file_size
                need(size <= _LARGEST, _WEIGHTS, f"at most {_LARGEST} bytes", size)
                return hdf5.arrays(memoryview(archive.read(_WEIGHTS)))
        read = {".onnx": protobuf.onnx_arrays, ".h5": hdf5.arrays}.get(path.suffix)
        if read is None:
            raise WrongError(f"file: expected .keras, .h5, .onnx or a SavedModel, got {path.name}")
        return read(memoryview(path.read_bytes()))
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, NotImplementedError) as error:
        raise UnreadableError(f"{path}: damaged: {error}") from error
    except WrongError as error:
        raise UnreadableError(f"{path}: {error}") from error


def bind(
    nodes: Sequence[Node], weights: Sequence[np.ndarray], path: str | os.PathLike
) -> tuple[int, int]:
    """How many weights of a network are arrays of a file, each of another one; and how many it has.

    Args:
      nodes: of the network, whose shapes tell how images may have been flattened.
      weights: of the network.
      path: as `arrays` takes it.

    Raises:
      RejectedError: a weight that is none of the file's.
      UnreadableError: as `arrays`.
    """
    found = arrays(path)
    left = list(found)
    images = {nodes[n.inputs[0]].shape for n in nodes[1:] if len(nodes[n.inputs[0]].shape) == 3}
    for number, weight in enumerate(weights):
        bits = np.ascontiguousarray(weight).tobytes()
        for place, array in enumerate(left):
            if array.size == weight.size and any(
                laid.tobytes() == bits for laid in _layouts(array, weight.shape, images)
            ):
                del left[place]
                break
        else:
            what = f"weight_{number} of shape {weight.shape} is none of the arrays of {path}"
            raise RejectedError("network", "weights", what)
    return len(weights), len(found)


def _layouts(
    array: np.ndarray, shape: tuple[int, ...], images: set[tuple[int, ...]]
) -> Iterator[np.ndarray]:
    """An array as it may be laid out in a network whose images are [rows, columns, channels]."""
    if array.shape == shape or math.prod(shape) in shape:
        yield array.reshape(shape)
    if array.ndim == 2:
        turned = array.T
        for one in (array, turned):
            if one.shape != shape:
                continue
            yield one
            for rows, columns, channels in images:
                if rows * columns * channels == shape[0]:
                    # Flattened with channels first, as ONNX has images.
                    image = one.reshape(channels, rows, columns, shape[1])
                    yield image.transpose(1, 2, 0, 3).reshape(shape)
    if array.ndim == 4:
        for order in ((2, 3, 1, 0), (2, 3, 0, 1)):
            if tuple(array.shape[k] for k in order) == shape:
                yield array.transpose(order)
