"""Proofs as files: docs/certificates.md has the format."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustra_tf.evidence.network import Described
from robustra_tf.evidence.steps import BoxTree, PhaseTree, RowSet, Step
from robustra_tf.property import Query

FORMAT, VERSION = "robustra_tf proof", 1
#: The file of the network that proofs of a folder are of.
NETWORK = "network.npz"
VERIFIED, FALSIFIED, OPEN = "verified", "falsified", "open"
#: Numbers of one file's arrays, in bytes, above which it is not written.
LARGEST = 2**28


def name(position: int) -> str:
    """The file's name of an example in a folder of proofs."""
    return f"{position:07d}.npz"


class TooLargeError(ValueError):
    """A proof beyond what a file may hold."""


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """What is proven of one example.

    Attributes:
      query: what is asked of it, without rounding.
      verdict: one of `VERIFIED`, `FALSIFIED`, `OPEN`.
      stage: what has found it, for people.
      bounds: the steps that bound the units on the whole set.
      margins: rules that close groups without a tree.
      trees: of the other groups.
      point: the counterexample [*shape], float32.
      position: among the data, for people.
    """

    query: Query
    verdict: str
    stage: str
    bounds: tuple[Step, ...] = ()
    margins: tuple[str, ...] = ()
    trees: tuple[PhaseTree | BoxTree, ...] = ()
    point: np.ndarray | None = None
    position: int | None = None


def packed(network: Described, examples: Sequence[Example], *, alone: bool = True) -> bytes:
    """The content of a file of proofs.

    Args:
      network: that is spoken of.
      examples: what is proven.
      alone: whether the file holds the network; else a file of that name is beside it: `NETWORK`,
        whose content is that of no examples.

    Raises:
      TooLargeError: the arrays are more than a file may hold.
    """
    members: dict[str, np.ndarray] = {}
    if alone:
        members |= {f"weight_{k}": weight for k, weight in enumerate(network.weights)}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": network.operations if alone else None,
        "network_sha256": network.sha256,
        "examples": [],
    }
    for place, example in enumerate(examples):
        fields, arrays = _laid_out(example, network.outputs)
        header["examples"].append(fields)
        members |= {f"{place}/{name}": values for name, values in arrays.items()}
    if sum(values.nbytes for values in members.values()) > LARGEST:
        raise TooLargeError(f"a proof of more than {LARGEST} bytes")
    text = json.dumps(header, sort_keys=True).encode()
    file = io.BytesIO()
    members["header"] = np.frombuffer(text, np.uint8)
    np.savez_compressed(file, allow_pickle=False, **members)
    return file.getvalue()


def _laid_out(example: Example, outputs: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The fields of an example, and its arrays by their names."""
    fields, arrays = _asked(example.query, outputs)
    rows, trees = _Rows(arrays), []
    bounds = rows.steps(example.bounds)
    for number, tree in enumerate(example.trees):
        own, parts = tree.parts()
        trees.append(own | {"bounds": rows.steps(tree.bounds)})
        arrays |= {f"t{number}/{name}": values for name, values in parts.items()}
    if example.point is not None:
        arrays["point"] = example.point.astype(np.float32)
    fields |= {
        "position": example.position,
        "verdict": example.verdict,
        "stage": example.stage,
        "bounds": bounds,
        "margins": list(example.margins),
        "trees": trees,
    }
    return fields, arrays


class _Rows:
    """The rows of an example, each written once however many steps have the same."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._arrays = arrays
        self._numbers: dict[tuple, int] = {}

    def steps(self, given: Sequence[Step]) -> list[list[Any]]:
        """Steps as a header has them."""
        return [
            [relu, "rows", self._number(relu, how)] if isinstance(how, RowSet) else [relu, how]
            for relu, how in given
        ]

    def _number(self, relu: int, rows: RowSet) -> int:
        """By which rows are named; those that lean on margins count anew in every step."""
        parts = rows.parts()
        content = (part.dtype.str + str(part.shape) for part in parts.values())
        key = (relu, *content, *(part.tobytes() for part in parts.values()))
        if rows.weight is not None:
            key = (len(self._numbers),)
        number = self._numbers.setdefault(key, len(self._numbers))
        self._arrays.update({f"r{number}/{name}": part for name, part in parts.items()})
        return number


def _asked(query: Query, outputs: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The set of inputs and the conditions of one example."""
    x = query.x[0]
    fields: dict[str, Any] = {"norm": query.norm, "eps": None, "box": None, "label": None}
    arrays = {"x": _smallest(x)}
    if np.ndim(query.eps) == 0:
        fields["eps"] = float(query.eps)
    else:
        shape = x.shape if query.norm == "linf" else ()
        radius = np.asarray(query.eps, np.float64)
        arrays["radius"] = np.broadcast_to(radius, (1, *x.shape))[0] if shape else radius.max()
    if query.box is not None and query.numbers is not None:
        fields["box"] = [float(end) for end in query.numbers]
    elif query.box is not None:
        fields["box"] = "given"
        for name, end in zip(("low", "high"), query.box, strict=True):
            arrays[name] = np.broadcast_to(np.asarray(end, np.float64), (1, *x.shape))[0]
    if query.labels is not None:
        fields["label"] = int(query.labels[0])
        return fields, arrays
    conditions = query.conditions(outputs)
    arrays |= {"rows": conditions.rows[0], "offset": conditions.offset[0]}
    arrays["group"] = conditions.group[0].astype(np.int32)
    return fields, arrays


def _smallest(x: np.ndarray) -> np.ndarray:
    """In float32 where that holds the numbers."""
    small = x.astype(np.float32)
    return small if (small == x).all() else x.astype(np.float64)
