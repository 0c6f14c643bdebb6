"""Where the proofs of a verifier's verdicts go."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from robustra_tf.evidence import files
from robustra_tf.exact.leaves import RecordError
from robustra_tf.exact.proving import Prover
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.graph.graph import Graph


@dataclasses.dataclass(frozen=True)
class Proofs:
    """A file of its own for one proof, or one of a folder that has the network once.

    Attributes:
      path: of the file.
      whole: whether it holds the network.
      position: of the example among the data, for people.
    """

    path: Path
    whole: bool = True
    position: int | None = None

    @classmethod
    def alone(cls, path: str | os.PathLike) -> Proofs:
        """A file that needs no other.

        Raises:
          ValueError: a directory, or a place in none.
        """
        path = Path(path)
        if path.is_dir() or not path.parent.is_dir():
            raise ValueError(f"proof: expected a file in an existing directory, got {str(path)!r}")
        return cls(path)

    @classmethod
    def of_folder(cls, folder: Path, position: int) -> Proofs:
        """That of an example of a folder in which `files.write_network` has put the network."""
        return cls(folder / files.name(position), False, position)

    def written(self, verdict: Verdict, prover: Prover, graph: Graph) -> Verdict:
        """Writes the proof of a verdict, unless that is unknown.

        A verdict that no proof can be written of becomes unknown, and says why.
        """
        stage = verdict.search or "bounds"
        if verdict.status is Status.VERIFIED:
            example = prover.example(stage)
        elif verdict.status is Status.FALSIFIED:
            point = np.asarray(verdict.witness)
            if not prover.unsafe(point):
                # Rounding alone may have made it one: the model has it, real numbers may not.
                return verdict
            example = prover.counterexample("counterexample", point)
        else:
            return verdict
        example = dataclasses.replace(example, position=self.position)
        try:
            size = files.write(self.path, graph, [example], alone=self.whole)
        except (files.TooLargeError, RecordError) as error:
            return dataclasses.replace(verdict, status=Status.UNKNOWN, reason=f"no proof: {error}")
        return dataclasses.replace(verdict, proof_bytes=size)
