"""How VNN-LIB 2.0's standard calls a solver, and what it wants to read.

Source: *The VNN-LIB Standard*, chapter "Solver Command-line Interface".
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from robustra_tf import vnnlib
from robustra_tf.cli.settings import SettingError
from robustra_tf.vnncomp.answers import Answer, Word

_WORDS = {Word.TIMEOUT: "timed-out"}


class Query(NamedTuple):
    """A query of version 2.0, with the file of its network.

    Attributes:
      network: the file of ONNX.
      signature: what the query calls network, input and output.
    """

    network: Path
    signature: vnnlib.Signature

    @classmethod
    def read(cls, path: Path, network: str) -> Query:
        """Of a file, and of `NAME=FILE`.

        Raises:
          OSError, ImportError, ValueError: as `vnnlib.read`; the query has another network than
            NAME, or is not of float32 or of real numbers.
        """
        name, _, file = network.partition("=")
        signature = vnnlib.read_signature(path)
        if name != signature.network:
            raise SettingError("network", f"{signature.network}=NET.onnx for {path}", network)
        for tensor in (signature.input, signature.output):
            if tensor.kind not in ("float32", "real"):
                raise ValueError(
                    f"{path}: expected {tensor.name!r} of float32 or real, got {tensor.kind}"
                )
        return cls(Path(file), signature)

    def told(self, answer: Answer) -> str:
        """The answer's lines: a word and, after `sat`, the values of input and output."""
        lines = [_WORDS.get(answer.word, answer.word.value)]
        if answer.counterexample is not None:
            parts = zip(self.signature[1:], answer.counterexample, strict=True)
            for tensor, values in parts:
                lines.append(f"{tensor.name} {tensor.kind} [{','.join(map(str, tensor.shape))}]")
                lines += [repr(float(value)) for value in values]
        return "\n".join(lines) + "\n"
