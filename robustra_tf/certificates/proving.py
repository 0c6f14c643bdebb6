"""Proofs of certificates that hold no bounds: those of CROWN's slopes, optimised or not."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import keras
import numpy as np

from robustra_tf.bounds.balls import Box
from robustra_tf.evidence import files
from robustra_tf.evidence.network import Described
from robustra_tf.exact.goal import Goal
from robustra_tf.exact.proving import Prover
from robustra_tf.exact.rooted import flat, proven
from robustra_tf.graph.graph import Graph
from robustra_tf.graph.ops import Shape
from robustra_tf.intake.subject import take
from robustra_tf.property import Query, asked
from robustra_tf.storage.files import write_atomically


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
    content = files.packed(Described.of(graph), examples)
    write_atomically(path, content)
    return len(content)


class Proven:
    """Proofs of verdicts on images of one network and one radius, one file's content for each.

    The network is in a file of its own: `network`.
    """

    def __init__(
        self,
        model: keras.Model,
        eps: float,
        norm: str = "linf",
        box: Box | None = (0.0, 1.0),
    ):
        """Reads the model's weights as they are now.

        Args:
          model: a Keras model, image to logits.
          eps, norm, box: as `certify` takes them; the box cuts every ball.
        """
        self._subject = take(model, rival=True)
        self._asked = eps, norm, box
        self._flat = flat(self._subject.graph)
        self._described = Described.of(self._subject.graph)

    @property
    def network(self) -> bytes:
        """The content of the file that all others refer to, `files.NETWORK`."""
        return files.packed(self._described, [])

    def verified(self, x: np.ndarray, y: int, stage: str, position: int) -> bytes | None:
        """That an image [*shape] is robust; None where no proof is found without a search.

        Args:
          x: the image.
          y: its label.
          stage: which has found it: `alpha` has slopes optimised.
          position: among the data.
        """
        found = proven(self._flat, self._query(x, y), stage, optimise=stage == "alpha")
        return None if found is None else self._packed(found, position)

    def falsified(
        self, x: np.ndarray, y: int, point: np.ndarray, stage: str, position: int
    ) -> bytes | None:
        """That a point [*shape] of the set about an image is classified otherwise than `y`.

        None where that may be float32's rounding alone.
        """
        query = self._query(x, y)
        prover = Prover(self._flat, query, Goal.of(query.conditions(*self._outputs)))
        if not prover.unsafe(point):
            return None
        return self._packed(prover.counterexample(stage, point), position)

    def open(self, x: np.ndarray, y: int, stage: str, position: int) -> bytes:
        """That nothing is known of an image."""
        return self._packed(files.Example(self._query(x, y), files.OPEN, stage), position)

    @property
    def _outputs(self) -> Shape:
        return self._subject.structure.output_shape

    def _query(self, x: np.ndarray, y: int) -> Query:
        given = np.asarray(x)[None]
        return asked(self._subject, given, [y], *self._asked, "float32").unrounded(given)

    def _packed(self, example: files.Example, position: int) -> bytes:
        example = dataclasses.replace(example, position=position)
        return files.packed(self._described, [example], alone=False)
