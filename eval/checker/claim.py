"""What a certificate file claims, read without trust: docs/certificates.md has the format."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from typing import Any, NamedTuple

import numpy as np

from eval.checker import operations

FORMAT, VERSION = "robustra_tf certificate", 1
MODES = ("float32", "float64", "sound")
NORMS = ("linf", "l2", "l1")
BAND = ("lower", "upper", "slope", "intercept")
#: A file, its header, and one layer are refused above these.
LARGEST_FILE, LARGEST_HEADER, LARGEST_LAYER = 2**32, 2**24, 2**26
#: Operations of a network, and axes of anything.
MOST_NODES, MOST_AXES = 10_000, 8
_FLOATS, _INTEGERS = ("<f4", "<f8"), ("<i4", "<i8")
#: Operations beside `input` and `relu`.
_KINDS = (
    "add",
    "average_pool",
    "batch_norm",
    "conv",
    "dense",
    "pad",
    "reshape",
    "scale",
    "standardise",
)
_FIELDS = {"format", "version", "network", "network_sha256", "eps", "norm", "box", "method", "mode"}


class UnreadableError(Exception):
    """A file that is no certificate; its text names the file and the field."""


class Node(NamedTuple):
    """One operation: None for the input, "relu", or an affine one; and the nodes that it reads."""

    op: operations.Affine | str | None
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


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
    except _WrongError as error:
        raise UnreadableError(f"{path}: {error}") from error


class _WrongError(Exception):
    """Something about a file; the reader adds which."""


def _need(condition: bool, field: str, expected: str, got: Any) -> None:
    if not condition:
        raise _WrongError(f"{field}: expected {expected}, got {str(got)[:80]}")


def _arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The members of the archive, all of plain types."""
    try:
        size = os.path.getsize(path)
        _need(size <= LARGEST_FILE, "file", f"at most {LARGEST_FILE} bytes", size)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            _need(len(set(names)) == len(names), "file", "each member once", "a repeated name")
            found = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                plain = member.compress_type == zipfile.ZIP_STORED and member.file_size <= size
                _need(plain, name, "an uncompressed member", "a compressed one")
                found[name] = _array(name, archive, member)
    except OSError as error:
        raise _WrongError(f"file: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, NotImplementedError) as error:
        raise _WrongError(f"file: damaged, or no .npz archive: {error}") from error
    return found


def _array(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            _need(version in readers, name, "a .npy member of version 1 or 2", version)
            shape, fortran, dtype = readers[version](stream)
        except (ValueError, SyntaxError, TypeError, RecursionError) as error:
            raise _WrongError(f"{name}: its .npy header is damaged: {error}") from error
        allowed = ("|u1",) if name == "header" else _FLOATS + _INTEGERS
        _need(dtype.str in allowed, name, f"numbers of type {', '.join(allowed)}", dtype)
        _need(len(shape) <= MOST_AXES, name, f"at most {MOST_AXES} axes", len(shape))
        _need(all(s >= 0 for s in shape), name, "a shape", shape)
        size = math.prod(shape) * dtype.itemsize
        _need(size <= member.file_size, name, f"data for shape {shape}", "fewer bytes")
        content = stream.read(size + 1)
    _need(len(content) == size, name, f"{size} bytes of data", f"{len(content)}")
    values = np.frombuffer(content, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _header(values: np.ndarray | None) -> dict[str, Any]:
    _need(values is not None, "header", "a member of that name", "none")
    _need(values.size <= LARGEST_HEADER, "header", f"at most {LARGEST_HEADER} bytes", values.size)
    try:
        header = json.loads(values.tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise _WrongError(f"header: not JSON: {error}") from error
    _need(isinstance(header, dict), "header", "an object", header)
    _need(header.get("format") == FORMAT, "format", repr(FORMAT), header.get("format"))
    _need(header.get("version") == VERSION, "version", f"{VERSION}", header.get("version"))
    _need(set(header) == _FIELDS, "header", f"the fields {', '.join(sorted(_FIELDS))}", set(header))
    return header


def _claim(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Claim:
    for name, allowed in (("mode", MODES), ("norm", NORMS), ("method", ("dual",))):
        _need(header[name] in allowed, name, f"one of {', '.join(allowed)}", header[name])
    eps, box = header["eps"], header["box"]
    _need(_number(eps) and eps >= 0, "eps", "a finite number >= 0", eps)
    if box is not None:
        pair = isinstance(box, list) and len(box) == 2 and all(map(_number, box))
        _need(pair and box[0] < box[1], "box", "null or two numbers, lower first", box)
        box = (float(box[0]), float(box[1]))
    named = header["network_sha256"]
    _need(isinstance(named, str), "network_sha256", "hexadecimal digits", named)
    weights = []
    while f"weight_{len(weights)}" in arrays:
        name = f"weight_{len(weights)}"
        weight = arrays.pop(name)
        _need(weight.dtype.str == "<f4", name, "float32", weight.dtype)
        weights.append(weight)
    nodes = _Network(header["network"], weights).nodes
    sha256 = _sha256(header["network"], weights)

    def take(name: str, kinds: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        values = arrays.pop(name, None)
        _need(values is not None, name, "a member of that name", "none")
        _need(values.dtype.str in kinds, name, f"type {' or '.join(kinds)}", values.dtype)
        _need(values.shape == shape, name, f"shape {shape}", values.shape)
        return values.astype(np.float64) if kinds == _FLOATS else values

    count = len(arrays["labels"]) if np.ndim(arrays.get("labels")) == 1 else 0
    _need(count > 0, "labels", "one axis, not empty", arrays.get("labels"))
    classes = nodes[-1].shape
    _need(len(classes) == 1, "network", "logits with one axis", classes)
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
    _need(not arrays, "file", "no further members", ", ".join(sorted(arrays)))
    return claim


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e300


def _sha256(network: list, weights: list[np.ndarray]) -> str:
    """As docs/certificates.md defines it."""
    inner = hashlib.sha256()
    for weight in weights:
        inner.update(f"{weight.dtype.str}{list(weight.shape)}".encode())
        inner.update(np.ascontiguousarray(weight).tobytes())
    text = json.dumps(network, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((text + inner.hexdigest()).encode()).hexdigest()


class _Network:
    """The nodes that a header describes."""

    def __init__(self, described: Any, weights: list[np.ndarray]):
        right = isinstance(described, list) and 0 < len(described) <= MOST_NODES
        _need(right, "network", f"a list of at most {MOST_NODES} operations", described)
        self._weights = [weight.astype(np.float64) for weight in weights]
        self._used: set[int] = set()
        self.nodes: tuple[Node, ...] = ()
        for index, text in enumerate(described):
            self._where = f"network[{index}]"
            _need(isinstance(text, dict), self._where, "an object", text)
            node = self._node(index, dict(text))
            size = math.prod(node.shape)
            fits = len(node.shape) < MOST_AXES and 0 < size <= LARGEST_LAYER
            _need(fits, self._where, f"1 to {LARGEST_LAYER} outputs", node.shape)
            self.nodes += (node,)
        unused = set(range(len(weights))) - self._used
        _need(not unused, "network", "every weight in use", f"no use of {sorted(unused)[:3]}")

    def _node(self, index: int, text: dict[str, Any]) -> Node:
        kind = text.pop("op", None)
        _need((kind == "input") == (index == 0), self._where, "the input first, and once", kind)
        if kind == "input":
            node = Node(None, (), self._shape(text.pop("shape", None)))
        else:
            inputs = self._indices(text.pop("inputs", None), "inputs", index)
            given = self._indices(text.pop("weights", None), "weights", len(self._weights))
            self._used |= set(given)
            _need(len(inputs) == 1 or kind == "add", self._where, "one input", inputs)
            _need(len(inputs) >= 1, self._where, "an input", inputs)
            shape = self.nodes[inputs[0]].shape
            same = all(self.nodes[i].shape == shape for i in inputs)
            _need(same, self._where, "inputs of one shape", inputs)
            if kind == "relu":
                _need(not given, self._where, "no weights", given)
                node = Node("relu", inputs, shape)
            else:
                op = self._affine(kind, text, shape, [self._weights[i] for i in given], len(inputs))
                node = Node(op, inputs, op.out_shape)
        _need(not text, self._where, "no further fields", ", ".join(map(str, text)))
        return node

    def _affine(self, kind, text, shape, weights, arity) -> operations.Affine:
        _need(kind in _KINDS, self._where, f"one of {', '.join(_KINDS)}", kind)
        if kind == "dense":
            kernel, bias = self._kernel(weights, 2)
            fits = shape == kernel.shape[:1]
            _need(fits, self._where, f"an input of shape {kernel.shape[:1]}", shape)
            return operations.Dense(kernel, bias)
        if kind in ("batch_norm", "standardise"):
            return self._normalisation(kind, text, shape, weights)
        if kind == "conv":
            kernel, bias = self._kernel(weights, 4)
            image = len(shape) == 3 and shape[2] == kernel.shape[2]
            _need(image, self._where, f"an image of {kernel.shape[2]} channels", shape)
            window = self._window(text, shape, kernel.shape[:2])
            return operations.Convolution(shape, kernel, bias, *window)
        _need(not weights, self._where, "no weights", len(weights))
        if kind == "add":
            return operations.Add(shape, arity)
        if kind == "scale":
            parts = [self._constants(text.pop(name, None), shape) for name in ("scale", "shift")]
            return operations.Scale(shape, parts[0], np.float64(0.0), parts[1])
        if kind == "reshape":
            after = self._shape(text.pop("shape", None))
            _need(math.prod(after) == math.prod(shape), self._where, f"the size of {shape}", after)
            return operations.Reshape(shape, after)
        _need(len(shape) == 3, self._where, "an image", shape)
        if kind == "pad":
            return operations.Pad(shape, self._padding(text))
        size = self._pair(text.pop("size", None), 1)
        return operations.AveragePool(shape, size, *self._window(text, shape, size))

    def _kernel(self, weights, rank: int):
        right = 1 <= len(weights) <= 2 and weights[0].ndim == rank and weights[0].size > 0
        _need(right, self._where, f"a kernel of {rank} axes, perhaps a bias", len(weights))
        bias = weights[1] if len(weights) == 2 else None
        fits = bias is None or bias.shape == weights[0].shape[-1:]
        _need(fits, self._where, "a bias for each filter", None if bias is None else bias.shape)
        return weights[0], bias

    def _normalisation(self, kind, text, shape, weights) -> operations.Affine:
        epsilon, parts = text.pop("epsilon", None), text.pop("parts", None)
        _need(_number(epsilon) and epsilon >= 0, self._where, "epsilon >= 0", epsilon)
        allowed = [["mean", "variance"]]
        if kind == "batch_norm":
            allowed += [[*front, *allowed[0]] for front in (["scale"], ["centre"])]
            allowed.append(["scale", "centre", *allowed[0]])
        _need(parts in allowed, self._where, "parts in their order", parts)
        _need(len(parts) == len(weights), self._where, f"{len(parts)} weights", len(weights))
        for weight in weights:
            fits = weight.shape == shape[len(shape) - weight.ndim :] and weight.ndim <= len(shape)
            _need(fits, self._where, f"weights for {shape}", weight.shape)
        named = dict(zip(parts, weights, strict=True))
        return operations.normalisation(shape, named, float(epsilon), kind == "standardise")

    def _constants(self, values, shape) -> np.ndarray:
        try:
            found = np.array(values, np.float64)
            fits = np.broadcast_shapes(found.shape, shape) == shape and np.isfinite(found).all()
        except (ValueError, TypeError, OverflowError, RecursionError):
            fits = False
        _need(fits, self._where, f"finite numbers that fit {shape}", values)
        return found

    def _window(self, text, shape, size):
        strides, padding = self._pair(text.pop("strides", None), 1), self._padding(text)
        fits = all(n + sum(p) >= k for n, p, k in zip(shape[:2], padding, size, strict=True))
        _need(fits, self._where, f"a window of {size} within the image", shape)
        return strides, padding

    def _padding(self, text):
        padding = text.pop("padding", None)
        right = isinstance(padding, list) and len(padding) == 2
        _need(right, self._where, "padding of two sides", padding)
        return tuple(self._pair(pair, 0) for pair in padding)

    def _pair(self, values, least: int) -> tuple[int, int]:
        found = self._numbers(values, least)
        _need(len(found) == 2, self._where, "two whole numbers", values)
        return found

    def _shape(self, values) -> tuple[int, ...]:
        found = self._numbers(values, 1)
        fits = 0 < len(found) < MOST_AXES and math.prod(found) <= LARGEST_LAYER
        _need(fits, self._where, f"a shape of at most {LARGEST_LAYER} numbers", values)
        return found

    def _indices(self, values, field: str, end: int) -> tuple[int, ...]:
        found = self._numbers(values, 0)
        _need(all(i < end for i in found), self._where, f"{field} below {end}", values)
        return found

    def _numbers(self, values, least: int) -> tuple[int, ...]:
        right = isinstance(values, list) and all(
            type(v) is int and least <= v <= LARGEST_LAYER for v in values
        )
        _need(right, self._where, f"whole numbers from {least} on", values)
        return tuple(values)
