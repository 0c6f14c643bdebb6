"""What a pair's certificate claims, read without trust: docs/certificates.md has the format."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from . import archive
from .claim import (
    BAND,
    LARGEST_FILE,
    LARGEST_HEADER,
    MODES,
    NORMS,
    Band,
    Claim,
    UnreadableError,
    sha256,
)
from .conditions import of_labels
from .members import FLOATS, INTEGERS, Members
from .network import Network, WrongError, need, number

FORMAT, VERSION = "robustra_tf certificate of a pair", 1
METHODS = ("dual", "interval")
_FIELDS = {"format", "version", "f", "g", "norm", "eps", "box", "method", "mode"}
_NETWORK = {"network", "network_sha256"}


class PairClaim(NamedTuple):
    """A certificate of two networks.

    Attributes:
      f, g: what is claimed of each alone.
      method: `dual` or `interval`.
      mix: weights of f's margins in those of the pair, the rest being g's, [n, classes].
      margin_lower: of the mixes, [n, classes].
    """

    f: Claim
    g: Claim
    method: str
    mix: np.ndarray
    margin_lower: np.ndarray


def is_of(path: str | os.PathLike) -> bool:
    """Whether a file says that it is a pair's; False of what cannot be read."""
    try:
        members = archive.arrays(path, _limits(), only="header")
        return _header(members).get("format") == FORMAT
    except WrongError:
        return False


def read(path: str | os.PathLike) -> PairClaim:
    """Reads a pair's certificate; as `claim.read` does one of a network.

    Raises:
      UnreadableError: it is not there, is damaged, or is no such certificate; which field, and why.
    """
    try:
        members = archive.arrays(path, _limits())
        header = _header({"header": archive.there("header", members.pop("header", None))})
        return _claim(header, Members(members))
    except WrongError as error:
        raise UnreadableError(f"{path}: {error}") from error


def _limits() -> archive.Limits:
    return archive.Limits(FLOATS + INTEGERS, LARGEST_FILE)


def _header(members: dict[str, np.ndarray]) -> dict[str, Any]:
    return archive.header(archive.there("header", members.get("header")), LARGEST_HEADER)


def _claim(header: dict[str, Any], members: Members) -> PairClaim:
    need(header.get("format") == FORMAT, "format", repr(FORMAT), header.get("format"))
    version = header.get("version")
    need(version == VERSION and version is not True, "version", str(VERSION), version)
    need(set(header) == _FIELDS, "header", f"the fields {', '.join(sorted(_FIELDS))}", set(header))
    for name, allowed in (("mode", MODES), ("norm", NORMS), ("method", METHODS)):
        need(header[name] in allowed, name, f"one of {', '.join(allowed)}", header[name])
    eps, box = header["eps"], header["box"]
    need(number(eps) and eps >= 0, "eps", "a finite number >= 0", eps)
    if box is not None:
        two = isinstance(box, list) and len(box) == 2 and all(map(number, box))
        need(two and box[0] < box[1], "box", "null or two numbers, lower first", box)
    parts = {name: _part(header, members.of(name), name) for name in ("f", "g")}
    shapes = {name: (nodes[0].shape, nodes[-1].shape) for name, (nodes, _) in parts.items()}
    need(shapes["f"] == shapes["g"], "g", f"inputs and classes {shapes['f']}", shapes["g"])
    inputs, classes = shapes["f"]
    need(len(classes) == 1 and classes[0] >= 2, "network", "two logits or more", classes)
    count = members.count("labels", 1)
    x = members.take("x", FLOATS, (count, *inputs))
    labels = members.take("labels", INTEGERS, (count,))
    shared = _shared(header, x, labels, classes[0])
    claims = {
        name: _network(*part, members.of(name), header["method"], shared)
        for name, part in parts.items()
    }
    mix = members.take("mix", FLOATS, (count, *classes))
    margin = members.take("margin_lower", FLOATS, (count, *classes))
    members.finished()
    return PairClaim(**claims, method=header["method"], mix=mix, margin_lower=margin)


def _part(header: dict[str, Any], members: Members, name: str) -> tuple[tuple, dict[str, str]]:
    """A network of the file, and its hashes."""
    given = header[name]
    fields = f"the fields {', '.join(sorted(_NETWORK))}"
    need(isinstance(given, dict) and set(given) == _NETWORK, name, fields, given)
    named = given["network_sha256"]
    need(isinstance(named, str), "network_sha256", "hexadecimal digits", named)
    weights = members.weights()
    nodes = Network(given["network"], weights).nodes
    return nodes, {"named_sha256": named, "sha256": sha256(given["network"], weights)}


def _shared(
    header: dict[str, Any], x: np.ndarray, labels: np.ndarray, classes: int
) -> dict[str, Any]:
    """The fields of a claim that both networks have in common."""
    eps, box, norm = float(header["eps"]), header["box"], header["norm"]
    within = "" if box is None else f" cut to [{box[0]:g}, {box[1]:g}]"
    return {
        "norm": norm,
        "mode": header["mode"],
        "inputs": f"{norm} balls of radius {eps:g}{within}",
        "x": x,
        "radius": np.full(x.shape if norm == "linf" else len(x), eps),
        "walls": None if box is None else tuple(np.full(x.shape, float(end)) for end in box),
        "cut": False,
        "conditions": of_labels(np.clip(labels, 0, classes - 1), classes),
        "labels": labels,
    }


def _network(
    nodes: tuple, ids: dict[str, str], members: Members, method: str, shared: dict[str, Any]
) -> Claim:
    """What is claimed of one network; of intervals bands have lower and upper alone."""
    count = len(shared["x"])
    predicted = members.take("predicted", INTEGERS, (count,))
    names = BAND if method == "dual" else BAND[:2]
    bands = []
    for k, node in enumerate(node for node in nodes if node.op == "relu"):
        shape = (count, *node.shape)
        found = [members.take(f"{name}_{k}", FLOATS, shape) for name in names]
        none = [np.zeros(shape)] * (len(BAND) - len(names))
        bands.append(Band(*found, *none))
    return Claim(
        nodes=nodes,
        **ids,
        **shared,
        predicted=predicted,
        safe=predicted == shared["labels"],
        margin_lower=members.take("margin_lower", FLOATS, (count, *nodes[-1].shape)),
        bands=tuple(bands),
    )
