"""Proofs of certificates that hold no bounds: those of CROWN's slopes, optimised or not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from robustra_tf.evidence import files
from robustra_tf.exact.rooted import flat, proven
from robustra_tf.graph.graph import Graph
from robustra_tf.property import Query


def prove(path: Path, graph: Graph, query: Query, certified: np.ndarray, method: str) -> int:
    """Writes proofs of the examples that are certified; returns the bytes of the file.

    Whatever the type that these were certified in, what is written is derived in float64, and holds
    for the network in real numbers. Examples of which no proof is found are left open, and named
    in a warning.

    Args:
      path: of the file.
      graph: the network.
      query: what was asked.
      certified: boolean [n].
      method: `crown` or `alpha`.
    """
    network, examples, without = flat(graph), [], []
    if query.given is None and query.norm != "linf":
        # The whole ball was bounded.
        query = query._replace(box=None)
    for place in range(len(query.x)):
        own = query.take(np.array([place]))
        own = own._replace(x=own.x.astype(np.float64))
        found = None
        if certified[place]:
            found = proven(network, own, method, optimise=method == "alpha")
            without += [] if found else [place]
        examples.append(found or files.Example(own, files.OPEN, method))
    if without:
        warnings.warn(
            f"save: no proof was found of {len(without)} of {int(certified.sum())} examples that "
            f"are certified, left open in {path}: {', '.join(map(str, without))}",
            RuntimeWarning,
            stacklevel=3,
        )
    return files.write(path, graph, examples)
