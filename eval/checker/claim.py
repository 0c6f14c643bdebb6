"""What a certificate file claims, read without trust: docs/certificates.md has the format."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from typing import Any, NamedTuple

import numpy as np

from .network import (
    MOST_AXES,
    Network,
    Node,
    WrongError,
    need,
    number,
)

FORMAT, VERSION = "robustra_tf certificate", 1
MODES = ("float32", "float64", "sound")
NORMS = ("linf", "l2", "l1")
BAND = ("lower", "upper", "slope", "intercept")
#: A file and its header are refused above these.
LARGEST_FILE, LARGEST_HEADER = 2**32, 2**24
_FLOATS, _INTEGERS = ("<f4", "<f8"), ("<i4", "<i8")
_FIELDS = {"format", "version", "network", "network_sha256", "eps", "norm", "box", "method", "mode"}


class UnreadableError(Exception):
    """A file that is no certificate; its text names the file and the field."""


class Band(NamedTuple):
    """Claimed of a ReLU, [n, *shape]: `slope z <= relu(z) <= slope z + intercept` on its bounds."""

    lower: np.ndarray
    upper: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray


class Claim(NamedTuple):
    """A certificate: what is claimed of which network and images, and what it rests on.

    Attributes:
      nodes: of the network, in topological order.
      named_sha256, sha256: the hash that the file names, and that of the network in it.
      eps, norm, box, mode: the ball, and `float32`, `float64` or `sound`.
      x: images [n, *shape], float64.
      labels, predicted: [n].
      margin_lower: [n, classes].
      bands: of every ReLU, in the order of the nodes.
    """

    nodes: tuple[Node, ...]
    named_sha256: str
    sha256: str
    eps: float
    norm: str
    box: tuple[float, float] | None
    mode: str
    x: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    margin_lower: np.ndarray
    bands: tuple[Band, ...]


def read(path: str | os.PathLike) -> Claim:
    """Reads a certificate file.

    Nothing in the file is run, and no array is made that is larger than the file itself.

    Raises:
      UnreadableError: it is not there, is damaged, or is no certificate; which field, and why.
    """
    try:
        arrays = _arrays(path)
        header = _header(arrays.pop("header", None))
        return _claim(header, arrays)
    except WrongError as error:
        raise UnreadableError(f"{path}: {error}") from error


def _arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The members of the archive, all of plain types."""
    try:
        size = os.path.getsize(path)
        need(size <= LARGEST_FILE, "file", f"at most {LARGEST_FILE} bytes", size)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            need(len(set(names)) == len(names), "file", "each member once", "a repeated name")
            found = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                plain = member.compress_type == zipfile.ZIP_STORED and member.file_size <= size
                need(plain, name, "an uncompressed member", "a compressed one")
                found[name] = _array(name, archive, member)
    except OSError as error:
        raise WrongError(f"file: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, NotImplementedError) as error:
        raise WrongError(f"file: damaged, or no .npz archive: {error}") from error
    return found


def _array(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
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
        allowed = ("|u1",) if name == "header" else _FLOATS + _INTEGERS
        need(dtype.str in allowed, name, f"numbers of type {', '.join(allowed)}", dtype)
        need(len(shape) <= MOST_AXES, name, f"at most {MOST_AXES} axes", len(shape))
        need(all(s >= 0 for s in shape), name, "a shape", shape)
        size = math.prod(shape) * dtype.itemsize
        need(size <= member.file_size, name, f"data for shape {shape}", "fewer bytes")
        content = stream.read(size + 1)
    need(len(content) == size, name, f"{size} bytes of data", f"{len(content)}")
    values = np.frombuffer(content, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _header(values: np.ndarray | None) -> dict[str, Any]:
    need(values is not None, "header", "a member of that name", "none")
    need(values.size <= LARGEST_HEADER, "header", f"at most {LARGEST_HEADER} bytes", values.size)
    try:
        header = json.loads(values.tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise WrongError(f"header: not JSON: {error}") from error
    need(isinstance(header, dict), "header", "an object", header)
    need(header.get("format") == FORMAT, "format", repr(FORMAT), header.get("format"))
    need(header.get("version") == VERSION, "version", f"{VERSION}", header.get("version"))
    need(set(header) == _FIELDS, "header", f"the fields {', '.join(sorted(_FIELDS))}", set(header))
    return header


def _claim(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Claim:
    for name, allowed in (("mode", MODES), ("norm", NORMS), ("method", ("dual",))):
        need(header[name] in allowed, name, f"one of {', '.join(allowed)}", header[name])
    eps, box = header["eps"], header["box"]
    need(number(eps) and eps >= 0, "eps", "a finite number >= 0", eps)
    if box is not None:
        pair = isinstance(box, list) and len(box) == 2 and all(map(number, box))
        need(pair and box[0] < box[1], "box", "null or two numbers, lower first", box)
        box = (float(box[0]), float(box[1]))
    named = header["network_sha256"]
    need(isinstance(named, str), "network_sha256", "hexadecimal digits", named)
    weights = []
    while f"weight_{len(weights)}" in arrays:
        name = f"weight_{len(weights)}"
        weight = arrays.pop(name)
        need(weight.dtype.str == "<f4", name, "float32", weight.dtype)
        weights.append(weight)
    nodes = Network(header["network"], weights).nodes
    sha256 = _sha256(header["network"], weights)

    def take(name: str, kinds: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        values = arrays.pop(name, None)
        need(values is not None, name, "a member of that name", "none")
        need(values.dtype.str in kinds, name, f"type {' or '.join(kinds)}", values.dtype)
        need(values.shape == shape, name, f"shape {shape}", values.shape)
        return values.astype(np.float64) if kinds == _FLOATS else values

    count = len(arrays["labels"]) if np.ndim(arrays.get("labels")) == 1 else 0
    need(count > 0, "labels", "one axis, not empty", arrays.get("labels"))
    classes = nodes[-1].shape
    two = len(classes) == 1 and classes[0] >= 2
    need(two, "network", "logits with one axis, two of them or more", classes)
    relus = [node for node in nodes if node.op == "relu"]
    claim = Claim(
        nodes,
        named,
        sha256,
        float(eps),
        header["norm"],
        box,
        header["mode"],
        take("x", _FLOATS, (count, *nodes[0].shape)),
        take("labels", _INTEGERS, (count,)),
        take("predicted", _INTEGERS, (count,)),
        take("margin_lower", _FLOATS, (count, *classes)),
        tuple(
            Band(*(take(f"{name}_{k}", _FLOATS, (count, *node.shape)) for name in BAND))
            for k, node in enumerate(relus)
        ),
    )
    need(not arrays, "file", "no further members", ", ".join(sorted(arrays)))
    return claim


def _sha256(network: list, weights: list[np.ndarray]) -> str:
    """As docs/certificates.md defines it."""
    inner = hashlib.sha256()
    for weight in weights:
        inner.update(f"{weight.dtype.str}{list(weight.shape)}".encode())
        inner.update(np.ascontiguousarray(weight).tobytes())
    text = json.dumps(network, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((text + inner.hexdigest()).encode()).hexdigest()
