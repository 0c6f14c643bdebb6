"""The proofs of a verifier's verdicts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustra_tf.evidence import files
from robustra_tf.evidence.files import Example
from robustra_tf.evidence.network import Described
from robustra_tf.exact.leaves import RecordError
from robustra_tf.exact.proving import Prover
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.storage.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Proofs:
    """How the proof of a verdict is written.

    Attributes:
      path: of the file; None where the verdict alone is to have its content.
      whole: whether it holds the network; else one file of a folder does.
      position: of the example among the data, for people.
      keep: takes what is proven in place of a file.
    """

    path: Path | None = None
    whole: bool = True
    position: int | None = None
    keep: Callable[[Example], None] | None = None

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

    def written(self, verdict: Verdict, prover: Prover, network: Described) -> Verdict:
        """The verdict with its proof, unless it is unknown.

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
        if self.keep is not None:
            self.keep(example)
            return verdict
        try:
            content = files.packed(network, [example], alone=self.whole)
        except (files.TooLargeError, RecordError) as error:
            return dataclasses.replace(verdict, status=Status.UNKNOWN, reason=f"no proof: {error}")
        if self.path is not None:
            write_atomically(self.path, content)
        return dataclasses.replace(verdict, proof=content)
