"""What a certificate file claims, read without trust: docs/certificates.md has the format."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from typing import Any, NamedTuple

import numpy as np

from .conditions import NO_GROUP, Conditions, of_labels
from .network import (
    MOST_AXES,
    Network,
    Node,
    WrongError,
    need,
    number,
)

FORMAT = "robustra_tf certificate"
#: Of labels, and of a property.
LABELS, PROPERTY = 1, 2
MODES = ("float32", "float64", "sound")
NORMS = ("linf", "l2", "l1")
BAND = ("lower", "upper", "slope", "intercept")
#: A file and its header are refused above these.
LARGEST_FILE, LARGEST_HEADER = 2**32, 2**24
_FLOATS, _INTEGERS = ("<f4", "<f8"), ("<i4", "<i8")
_COMMON = {"format", "version", "network", "network_sha256", "norm", "method", "mode"}
_FIELDS = {LABELS: _COMMON | {"eps", "box"}, PROPERTY: _COMMON}


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
      norm, mode: of the balls, and `float32`, `float64` or `sound`.
      inputs: which inputs, for people.
      x: images [n, *shape], float64.
      radius: of the balls, [n, *shape] for `linf`, else [n].
      walls: intervals that x is within and that cut balls of `linf`, [n, *shape] each, or None.
      cut: whether these cut other balls too.
      conditions: what must not be reached, one condition for each margin.
      labels, predicted: [n]; of a property None.
      safe: boolean [n], whether the images themselves are.
      margin_lower: [n, k].
      bands: of every ReLU, in the order of the nodes.
    """

    nodes: tuple[Node, ...]
    named_sha256: str
    sha256: str
    norm: str
    mode: str
    inputs: str
    x: np.ndarray
    radius: np.ndarray
    walls: tuple[np.ndarray, np.ndarray] | None
    cut: bool
    conditions: Conditions
    labels: np.ndarray | None
    predicted: np.ndarray | None
    safe: np.ndarray
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
        header = _header(_there("header", arrays.pop("header", None)))
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


def _there(name: str, values: np.ndarray | None) -> np.ndarray:
    """A member of the archive, unless it has none of that name."""
    if values is None:
        raise WrongError(f"{name}: expected a member of that name, got none")
    return values


def _header(values: np.ndarray) -> dict[str, Any]:
    need(values.size <= LARGEST_HEADER, "header", f"at most {LARGEST_HEADER} bytes", values.size)
    try:
        header = json.loads(values.tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise WrongError(f"header: not JSON: {error}") from error
    need(isinstance(header, dict), "header", "an object", header)
    need(header.get("format") == FORMAT, "format", repr(FORMAT), header.get("format"))
    version = header.get("version")
    known = isinstance(version, int) and not isinstance(version, bool) and version in _FIELDS
    need(known, "version", f"{LABELS} or {PROPERTY}", version)
    fields = _FIELDS[version]
    need(set(header) == fields, "header", f"the fields {', '.join(sorted(fields))}", set(header))
    return header


class _Members:
    """The arrays of a file, each of them taken once."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    def take(self, name: str, kinds: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        values = _there(name, self.arrays.pop(name, None))
        need(values.dtype.str in kinds, name, f"type {' or '.join(kinds)}", values.dtype)
        need(values.shape == shape, name, f"shape {shape}", values.shape)
        return values.astype(np.float64) if kinds == _FLOATS else values

    def weights(self) -> list[np.ndarray]:
        found = []
        while f"weight_{len(found)}" in self.arrays:
            name = f"weight_{len(found)}"
            weight = self.arrays.pop(name)
            need(weight.dtype.str == "<f4", name, "float32", weight.dtype)
            found.append(weight)
        return found

    def count(self, name: str, axes: int) -> int:
        values = self.arrays.get(name)
        found = len(values) if values is not None and values.ndim == axes else 0
        need(found > 0, name, f"{'one axis' if axes == 1 else f'{axes} axes'}, not empty", values)
        return found


def _claim(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Claim:
    for name, allowed in (("mode", MODES), ("norm", NORMS), ("method", ("dual",))):
        need(header[name] in allowed, name, f"one of {', '.join(allowed)}", header[name])
    named, members = header["network_sha256"], _Members(arrays)
    need(isinstance(named, str), "network_sha256", "hexadecimal digits", named)
    weights = members.weights()
    nodes = Network(header["network"], weights).nodes
    ids = {"nodes": nodes, "named_sha256": named, "sha256": _sha256(header["network"], weights)}
    asked = _labels if header["version"] == LABELS else _property
    found = asked(header, members, nodes)
    count = len(found["x"])
    relus = [node for node in nodes if node.op == "relu"]
    bands = tuple(
        Band(*(members.take(f"{name}_{k}", _FLOATS, (count, *node.shape)) for name in BAND))
        for k, node in enumerate(relus)
    )
    need(not arrays, "file", "no further members", ", ".join(sorted(arrays)))
    return Claim(**ids, norm=header["norm"], mode=header["mode"], **found, bands=bands)


def _labels(header: dict[str, Any], members: _Members, nodes: tuple[Node, ...]) -> dict[str, Any]:
    """The fields of a certificate of labels."""
    eps, box = header["eps"], header["box"]
    need(number(eps) and eps >= 0, "eps", "a finite number >= 0", eps)
    if box is not None:
        pair = isinstance(box, list) and len(box) == 2 and all(map(number, box))
        need(pair and box[0] < box[1], "box", "null or two numbers, lower first", box)
    count, classes = members.count("labels", 1), nodes[-1].shape
    two = len(classes) == 1 and classes[0] >= 2
    need(two, "network", "logits with one axis, two of them or more", classes)
    x = members.take("x", _FLOATS, (count, *nodes[0].shape))
    labels = members.take("labels", _INTEGERS, (count,))
    predicted = members.take("predicted", _INTEGERS, (count,))
    within = "" if box is None else f" cut to [{box[0]:g}, {box[1]:g}]"
    linf = header["norm"] == "linf"
    return {
        "inputs": f"{header['norm']} balls of radius {eps:g}{within}",
        "x": x,
        "radius": np.full(x.shape if linf else count, float(eps)),
        "walls": None if box is None else tuple(np.full(x.shape, float(end)) for end in box),
        "cut": False,
        "conditions": of_labels(np.clip(labels, 0, classes[0] - 1), classes[0]),
        "labels": labels,
        "predicted": predicted,
        "safe": predicted == labels,
        "margin_lower": members.take("margin_lower", _FLOATS, (count, *classes)),
    }


def _property(header: dict[str, Any], members: _Members, nodes: tuple[Node, ...]) -> dict[str, Any]:
    """The fields of a certificate of a property."""
    count, outputs = members.count("group", 2), nodes[-1].shape
    need(len(outputs) == 1 and outputs[0] > 0, "network", "outputs with one axis", outputs)
    conditions = members.arrays["group"].shape[1]
    need(conditions > 0, "group", "one condition or more", conditions)
    rows = members.take("rows", _FLOATS, (count, conditions, *outputs))
    offset = members.take("offset", _FLOATS, (count, conditions))
    group = members.take("group", _INTEGERS, (count, conditions)).astype(np.int64)
    need(np.isfinite(rows).all() and np.isfinite(offset).all(), "rows", "finite numbers", "others")
    fits = ((group >= NO_GROUP) & (group < conditions)).all()
    need(fits, "group", f"numbers in {NO_GROUP}..{conditions - 1}", group)
    need(((group < 0) | rows.any(2)).all(), "rows", "a coefficient in each", "none")
    shape, linf = (count, *nodes[0].shape), header["norm"] == "linf"
    x = members.take("x", _FLOATS, shape)
    radius = members.take("radius", _FLOATS, shape if linf else (count,))
    need((np.isfinite(radius) & (radius >= 0)).all(), "radius", "finite numbers >= 0", "others")
    walls = None
    if "low" in members.arrays:
        walls = members.take("low", _FLOATS, shape), members.take("high", _FLOATS, shape)
    groups = len(np.unique(group[group >= 0]))
    about = f"{conditions} conditions on {outputs[0]} outputs in {groups} groups"
    return {
        "inputs": f"property: {_named(header['norm'], x, radius, walls)}, {about}",
        "x": x,
        "radius": radius,
        "walls": walls,
        "cut": walls is not None and not linf,
        "conditions": Conditions(rows, offset, group),
        "labels": None,
        "predicted": None,
        "safe": members.take("safe", _INTEGERS, (count,)) == 1,
        "margin_lower": members.take("margin_lower", _FLOATS, (count, conditions)),
    }


def _named(
    norm: str, x: np.ndarray, radius: np.ndarray, walls: tuple[np.ndarray, np.ndarray] | None
) -> str:
    """Sets of inputs, for people."""
    if walls is not None and norm == "linf":
        low, high = walls
        if ((x - radius <= low) & (x + radius >= high)).all():
            return "boxes"
    within = "" if walls is None else " within boxes"
    return f"{norm} balls of radius {radius.min():g} to {radius.max():g}{within}"


def _sha256(network: list, weights: list[np.ndarray]) -> str:
    """As docs/certificates.md defines it."""
    inner = hashlib.sha256()
    for weight in weights:
        inner.update(f"{weight.dtype.str}{list(weight.shape)}".encode())
        inner.update(np.ascontiguousarray(weight).tobytes())
    text = json.dumps(network, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((text + inner.hexdigest()).encode()).hexdigest()
