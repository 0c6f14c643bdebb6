"""Certificates as files that a program of another author can check: docs/certificates.md.

A file is an uncompressed `.npz` of plain arrays: the network with its weights, the images, and for
every ReLU the bounds and the band that the margins rest on. Nothing in it is code, and a hash tells
which network it is about.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustra_tf.evidence.network import Described
from robustra_tf.graph.graph import Graph
from robustra_tf.property import Query
from robustra_tf.storage.files import write_atomically

FORMAT = "robustra_tf certificate"
#: Of labels, and of a property.
LABELS, PROPERTY = 1, 2
#: The arrays of each ReLU, in this order.
BAND = ("lower", "upper", "slope", "intercept")


def checked_path(path: str | os.PathLike) -> Path:
    """Where a certificate can be written.

    Raises:
      ValueError: a directory, or a place in none.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"save: expected a file in an existing directory, got {str(path)!r}")
    return path


def write(
    path: Path,
    graph: Graph,
    claim: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    bands: Sequence[Sequence[np.ndarray]],
) -> None:
    """Writes a certificate, whole or not at all.

    Args:
      path: as `checked_path` gives it.
      graph: the network.
      claim: `version`, `norm`, `method` and `mode`; of labels `eps` and `box` too.
      arrays: `x` and `margin_lower`; of labels `labels` and `predicted`; of a property `radius`,
        `low` and `high` where there is a box, `rows`, `offset`, `group` and `safe`.
      bands: for each ReLU in order the arrays of `BAND`, [n, *shape].
    """
    fields, own = parts(graph, bands)
    archived(path, {"format": FORMAT, **fields, **claim}, {**arrays, **own})


def parts(
    graph: Graph, bands: Sequence[Sequence[np.ndarray]], prefix: str = ""
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file has of one network: fields of a header, and arrays.

    Args:
      graph: the network.
      bands: for each ReLU in order the arrays of `BAND`, [n, *shape], or the first of them.
      prefix: of the arrays' names.
    """
    described = Described.of(graph)
    fields = {"network": described.operations, "network_sha256": described.sha256}
    members = {f"{prefix}weight_{k}": weight for k, weight in enumerate(described.weights)}
    for k, values in enumerate(bands):
        named = zip(BAND, values, strict=False)
        members |= {f"{prefix}{name}_{k}": value for name, value in named}
    return fields, members


def archived(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an archive, whole or not at all."""
    text = json.dumps(header, sort_keys=True).encode()
    file = io.BytesIO()
    members: dict[str, Any] = {"header": np.frombuffer(text, np.uint8), **arrays}
    np.savez(file, **members)
    write_atomically(path, file.getvalue())


def asked(query: Query, outputs: int) -> dict[str, np.ndarray]:
    """The inputs and the conditions of a property, written out for each example."""
    count, linf = len(query.x), query.norm == "linf"
    radius = np.broadcast_to(
        query.eps, query.x.shape if linf else (count, *(1,) * (query.x.ndim - 1))
    )
    found = {"radius": np.array(radius, np.float64).reshape(query.x.shape if linf else count)}
    if query.box is not None and (linf or query.given is not None):
        ends = (np.broadcast_to(end, query.x.shape) for end in query.box)
        found |= {name: np.array(end) for name, end in zip(("low", "high"), ends, strict=True)}
    conditions = query.conditions(outputs)
    for name in ("rows", "offset", "group"):
        values = getattr(conditions, name)
        found[name] = np.array(np.broadcast_to(values, (count, *values.shape[1:])))
    return found
