"""What a certificate file claims, read without trust: docs/certificates.md has the format."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, NamedTuple

import numpy as np

from . import archive
from .conditions import NO_GROUP, Conditions, of_labels
from .members import FLOATS, INTEGERS, Members
from .network import (
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
        members = archive.arrays(path, archive.Limits(FLOATS + INTEGERS, LARGEST_FILE))
        return _claim(_header(archive.there("header", members.pop("header", None))), members)
    except WrongError as error:
        raise UnreadableError(f"{path}: {error}") from error


def _header(values: np.ndarray) -> dict[str, Any]:
    found = archive.header(values, LARGEST_HEADER)
    need(found.get("format") == FORMAT, "format", repr(FORMAT), found.get("format"))
    version = found.get("version")
    known = isinstance(version, int) and not isinstance(version, bool) and version in _FIELDS
    need(known, "version", f"{LABELS} or {PROPERTY}", version)
    fields = _FIELDS[PROPERTY if version == PROPERTY else LABELS]
    need(set(found) == fields, "header", f"the fields {', '.join(sorted(fields))}", set(found))
    return found


def _claim(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Claim:
    for name, allowed in (("mode", MODES), ("norm", NORMS), ("method", ("dual",))):
        need(header[name] in allowed, name, f"one of {', '.join(allowed)}", header[name])
    named, members = header["network_sha256"], Members(arrays)
    need(isinstance(named, str), "network_sha256", "hexadecimal digits", named)
    weights = members.weights()
    nodes = Network(header["network"], weights).nodes
    ids = {"nodes": nodes, "named_sha256": named, "sha256": sha256(header["network"], weights)}
    asked = _labels if header["version"] == LABELS else _property
    found = asked(header, members, nodes)
    count = len(found["x"])
    relus = [node for node in nodes if node.op == "relu"]
    bands = tuple(
        Band(*(members.take(f"{name}_{k}", FLOATS, (count, *node.shape)) for name in BAND))
        for k, node in enumerate(relus)
    )
    members.finished()
    return Claim(**ids, norm=header["norm"], mode=header["mode"], **found, bands=bands)


def _labels(header: dict[str, Any], members: Members, nodes: tuple[Node, ...]) -> dict[str, Any]:
    """The fields of a certificate of labels."""
    eps, box = header["eps"], header["box"]
    need(number(eps) and eps >= 0, "eps", "a finite number >= 0", eps)
    if box is not None:
        pair = isinstance(box, list) and len(box) == 2 and all(map(number, box))
        need(pair and box[0] < box[1], "box", "null or two numbers, lower first", box)
    count, classes = members.count("labels", 1), nodes[-1].shape
    two = len(classes) == 1 and classes[0] >= 2
    need(two, "network", "logits with one axis, two of them or more", classes)
    x = members.take("x", FLOATS, (count, *nodes[0].shape))
    labels = members.take("labels", INTEGERS, (count,))
    predicted = members.take("predicted", INTEGERS, (count,))
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
        "margin_lower": members.take("margin_lower", FLOATS, (count, *classes)),
    }


def _property(header: dict[str, Any], members: Members, nodes: tuple[Node, ...]) -> dict[str, Any]:
    """The fields of a certificate of a property."""
    count, outputs = members.count("group", 2), nodes[-1].shape
    need(len(outputs) == 1, "network", "outputs with one axis", outputs)
    conditions = members.arrays["group"].shape[1]
    need(conditions > 0, "group", "one condition or more", conditions)
    rows = members.take("rows", FLOATS, (count, conditions, *outputs))
    offset = members.take("offset", FLOATS, (count, conditions))
    group = members.take("group", INTEGERS, (count, conditions)).astype(np.int64)
    need(np.isfinite(rows).all() and np.isfinite(offset).all(), "rows", "finite numbers", "others")
    fits = ((group >= NO_GROUP) & (group < conditions)).all()
    need(fits, "group", f"numbers in {NO_GROUP}..{conditions - 1}", group)
    need(((group < 0) | rows.any(2)).all(), "rows", "a coefficient in each", "none")
    shape, linf = (count, *nodes[0].shape), header["norm"] == "linf"
    x = members.take("x", FLOATS, shape)
    radius = members.take("radius", FLOATS, shape if linf else (count,))
    need((np.isfinite(radius) & (radius >= 0)).all(), "radius", "finite numbers >= 0", "others")
    walls = None
    if "low" in members.arrays:
        walls = members.take("low", FLOATS, shape), members.take("high", FLOATS, shape)
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
        "safe": members.take("safe", INTEGERS, (count,)) == 1,
        "margin_lower": members.take("margin_lower", FLOATS, (count, conditions)),
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


def sha256(network: list, weights: list[np.ndarray]) -> str:
    """As docs/certificates.md defines it."""
    inner = hashlib.sha256()
    for weight in weights:
        inner.update(f"{weight.dtype.str}{list(weight.shape)}".encode())
        inner.update(np.ascontiguousarray(weight).tobytes())
    text = json.dumps(network, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((text + inner.hexdigest()).encode()).hexdigest()
