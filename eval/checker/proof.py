"""What a proof file claims, read without trust: docs/certificates.md has the format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import archive, trees
from .claim import NORMS, UnreadableError, sha256
from .conditions import NO_GROUP
from .members import FLOATS, Members
from .network import Network, Node, WrongError, need, number
from .slopes import RULES
from .steps import Asked, Step
from .trees import Boxes, Phases

FORMAT, VERSION = "robustra_tf proof", 1
VERIFIED, FALSIFIED, OPEN = "verified", "falsified", "open"
#: The file of the network that the proofs of a directory share.
SHARED = "network.npz"
KINDS = ("|u1", "|i1", "<f2", "<f4", "<f8", "<i4", "<i8")
LARGEST_FILE = INFLATED = 2**28
_FIELDS = {"format", "version", "network", "network_sha256", "examples"}
_EXAMPLE = {
    *("position", "verdict", "stage", "norm", "eps", "box", "label"),
    *("bounds", "margins", "trees"),
}


class Example(NamedTuple):
    """One example: what is claimed of it, and what that rests on.

    Attributes:
      position: in its data set, or None.
      verdict, stage: what is claimed, and what found it, for people.
      norm: of the ball.
      x: its middle, [*shape].
      radius: [*shape] for `linf`, else one number.
      walls: ends of a box that the set is within, or None.
      inputs: the set, for people.
      label: its class, or None of a property.
      asked, group: the conditions, and the groups that they are of.
      point: a counterexample, or None.
      bounds, margins, trees: of a proof.
    """

    position: int | None
    verdict: str
    stage: str
    norm: str
    x: np.ndarray
    radius: np.ndarray
    walls: tuple[np.ndarray, np.ndarray] | None
    inputs: str
    label: int | None
    asked: Asked
    group: np.ndarray
    point: np.ndarray | None
    bounds: tuple[Step, ...]
    margins: tuple[str, ...]
    trees: tuple[Phases | Boxes, ...]


class Proof(NamedTuple):
    """A file: of which network, and of which examples.

    Attributes:
      nodes: of the network, in topological order.
      named_sha256, sha256: the hash that the file names, and that of the network.
      described, weights: the network as it is written.
      examples: in their order.
    """

    nodes: tuple[Node, ...]
    named_sha256: str
    sha256: str
    described: list
    weights: tuple[np.ndarray, ...]
    examples: tuple[Example, ...]


class Read(NamedTuple):
    """A network as a file has it."""

    nodes: tuple[Node, ...]
    sha256: str
    described: list
    weights: tuple[np.ndarray, ...]


def is_proof(path: str | os.PathLike) -> bool:
    """Whether a file says that it is one; False of what cannot be read."""
    try:
        limits = archive.Limits(KINDS, LARGEST_FILE, INFLATED)
        members = archive.arrays(path, limits, only="header")
        header = archive.header(archive.there("header", members.get("header")))
        return header.get("format") == FORMAT
    except WrongError:
        return False


def read(path: str | os.PathLike, shared: Read | None = None) -> Proof:
    """Reads a proof's file. Nothing in it is run, and nothing grows beyond what it holds.

    Args:
      path: the file.
      shared: the network of its directory, where that was read before.

    Raises:
      UnreadableError: it is not there, is damaged, or is no proof; which field, and why.
    """
    try:
        header, members = _opened(path)
        if header["network"] is None:
            if shared is None:
                shared = network(Path(path).with_name(SHARED))
            network_ = shared
        else:
            network_ = _network(header, members)
        described = header["examples"]
        need(isinstance(described, list), "examples", "a list", described)
        examples = tuple(
            _example(k, text, members, network_.nodes) for k, text in enumerate(described)
        )
        members.finished()
    except WrongError as error:
        raise UnreadableError(f"{path}: {error}") from error
    named = header["network_sha256"]
    return Proof(
        network_.nodes, named, network_.sha256, network_.described, network_.weights, examples
    )


def network(path: str | os.PathLike) -> Read:
    """The network that the proofs of a directory share.

    Raises:
      UnreadableError: as `read`.
    """
    try:
        header, members = _opened(path)
        need(header["network"] is not None, "network", "operations", None)
        found = _network(header, members)
        members.finished()
    except WrongError as error:
        raise UnreadableError(f"{path}: {error}") from error
    if header["network_sha256"] != found.sha256:
        raise UnreadableError(f"{path}: network_sha256: the network's hash is {found.sha256}")
    return found


def _opened(path: str | os.PathLike) -> tuple[dict[str, Any], Members]:
    arrays = archive.arrays(path, archive.Limits(KINDS, LARGEST_FILE, INFLATED))
    header = archive.header(archive.there("header", arrays.pop("header", None)))
    need(header.get("format") == FORMAT, "format", repr(FORMAT), header.get("format"))
    version = header.get("version")
    need(version == VERSION and type(version) is int, "version", f"{VERSION}", version)
    need(set(header) == _FIELDS, "header", f"the fields {', '.join(sorted(_FIELDS))}", set(header))
    named = header["network_sha256"]
    need(isinstance(named, str), "network_sha256", "hexadecimal digits", named)
    return header, Members(arrays)


def _network(header: dict[str, Any], members: Members) -> Read:
    weights = members.weights()
    nodes = Network(header["network"], weights).nodes
    need(len(nodes[-1].shape) == 1, "network", "outputs with one axis", nodes[-1].shape)
    sizes = sha256(header["network"], weights)
    return Read(nodes, sizes, header["network"], tuple(weights))


def _example(index: int, text: Any, members: Members, nodes: tuple[Node, ...]) -> Example:
    where = f"examples[{index}]"
    need(isinstance(text, dict), where, "an object", text)
    need(set(text) == _EXAMPLE, where, f"the fields {', '.join(sorted(_EXAMPLE))}", set(text))
    verdict, stage, norm = text["verdict"], text["stage"], text["norm"]
    verdicts = (VERIFIED, FALSIFIED, OPEN)
    need(verdict in verdicts, f"{where}.verdict", f"one of {', '.join(verdicts)}", verdict)
    need(isinstance(stage, str), f"{where}.stage", "a text", stage)
    need(norm in NORMS, f"{where}.norm", f"one of {', '.join(NORMS)}", norm)
    position = text["position"]
    whole = position is None or (type(position) is int and 0 <= position < 2**53)
    need(whole, f"{where}.position", "a whole number or null", position)
    own = members.of(str(index))
    x = own.take("x", FLOATS, nodes[0].shape)
    need(np.isfinite(x).all(), f"{index}/x", "finite numbers", "others")
    radius, walls, inputs = _set(where, text, own, x)
    label, asked, group = _property(where, text, own, nodes[-1].shape[0])
    point = None
    if verdict == FALSIFIED:
        point = own.take("point", FLOATS, x.shape)
        need(np.isfinite(point).all(), f"{index}/point", "finite numbers", "others")
    parts = trees.Reader(index, own, nodes, group)
    steps = parts.steps(text["bounds"], f"{where}.bounds", None)
    rules = parts.rules(text["margins"], f"{where}.margins", RULES)
    found = parts.trees(text["trees"])
    if verdict != VERIFIED:
        need(not (steps or rules or found), where, "no proof of what is not verified", "one")
    return Example(
        *(position, verdict, stage, norm, x, radius, walls, inputs),
        *(label, asked, group, point, steps, rules, found),
    )


def _set(where: str, text: dict[str, Any], own: Members, x: np.ndarray):
    """The radius, the walls, and what they are called."""
    eps, box, linf = text["eps"], text["box"], text["norm"] == "linf"
    if eps is None:
        radius = own.take("radius", FLOATS, x.shape if linf else ())
    else:
        need(number(eps), f"{where}.eps", "a finite number >= 0", eps)
        radius = np.full(x.shape if linf else (), float(eps))
    need((np.isfinite(radius) & (radius >= 0)).all(), f"{where}.eps", "finite, >= 0", "others")
    walls, within = None, ""
    if box == "given":
        walls = own.take("low", ("<f8",), x.shape), own.take("high", ("<f8",), x.shape)
        need(not np.isnan(walls).any(), f"{where}.box", "numbers", "others")
        within = " within a box"
    elif box is not None:
        pair = isinstance(box, list) and len(box) == 2 and all(map(number, box))
        need(pair and box[0] <= box[1], f"{where}.box", "two numbers, lower first", box)
        walls = np.full(x.shape, float(box[0])), np.full(x.shape, float(box[1]))
        within = f" cut to [{box[0]:g}, {box[1]:g}]"
    size = f"{radius.min(initial=np.inf):g}" if eps is None else f"{eps:g}"
    return radius, walls, f"{text['norm']} ball of radius {size}{within}"


def _property(where: str, text: dict[str, Any], own: Members, outputs: int):
    """The label, the conditions and their groups."""
    label = text["label"]
    if label is not None:
        right = type(label) is int and 0 <= label < outputs and outputs > 1
        need(right, f"{where}.label", f"a class below {outputs}", label)
        others = np.delete(np.arange(outputs), label)
        rows = np.eye(outputs)[others]
        rows[:, label] -= 1.0
        return label, Asked(rows, np.zeros(len(others))), others
    count = own.count("group")
    group = own.take("group", ("<i4",), (count,))
    fits = ((group >= NO_GROUP) & (group < count)).all() and (group >= 0).any()
    need(fits, f"{where}: group", f"numbers in {NO_GROUP}..{count - 1}, one from 0 on", group)
    rows = own.take("rows", FLOATS, (count, outputs))
    offset = own.take("offset", ("<f8",), (count,))
    finite = np.isfinite(rows).all() and np.isfinite(offset).all()
    need(finite, f"{where}: rows", "finite numbers", "others")
    return None, Asked(rows, offset), group
