"""Networks in ONNX that questions are answered of."""

from __future__ import annotations

import time
from pathlib import Path

import keras
import numpy as np

from robustra_tf.exact import Decider, Status, Verdict
from robustra_tf.onnx import load
from robustra_tf.onnx.files import read_model
from robustra_tf.onnx.replay import Runtime
from robustra_tf.property import Property
from robustra_tf.vnncomp.answers import Answer, Replay, Word

_WORDS = {
    Status.VERIFIED: Word.UNSAT,
    Status.FALSIFIED: Word.SAT,
    Status.TIMEOUT: Word.TIMEOUT,
    Status.UNKNOWN: Word.UNKNOWN,
}


class Network:
    """A network in ONNX: as a Keras model, in what decides properties, and in onnxruntime.

    Attributes:
      input_shape: of one input, without the batch.
      outputs: how many.
    """

    def __init__(self, path: Path):
        """Reads the file.

        Raises:
          OSError, ImportError, ValueError: as `onnx.load`, and as `Verifier` where the network is
            none that it takes.
        """
        model = load(path)
        if len(model.output.shape) != 2:
            model = keras.Model(model.input, keras.layers.Flatten()(model.output))
        self.input_shape: tuple[int, ...] = tuple(model.input_shape[1:])
        self.outputs: int = model.output_shape[1]
        self._decider = Decider(model)
        self._runtime = Runtime(read_model(path))

    def run(self, x: np.ndarray) -> np.ndarray:
        """What onnxruntime computes of one input [*input_shape]: float32 [outputs]."""
        return self._runtime(x[None])[0].ravel()

    def answer(
        self,
        path: Path,
        seconds: float,
        start: float | None = None,
        proof: Path | None = None,
    ) -> Answer:
        """Answers a property of VNN-LIB.

        `unsat` where every box is proven against every polyhedron of its outputs; `sat` where a
        counterexample is replayed. What comes when the time is over is `timeout`, whatever it is.

        Args:
          path: `.vnnlib` or `.vnnlib.gz`.
          seconds: for all of it.
          start: of `time.monotonic`, from which these count; now by default.
          proof: a file for what proves the answer, as `Decider.decide` writes it.

        Raises:
          OSError, ImportError, ValueError: as the file is read, and for outputs of another number
            than the network's.
        """
        start = time.monotonic() if start is None else start
        properties = Property.from_vnnlib(path, self.input_shape)
        for each in properties:
            try:
                each.output.conditions(self.outputs)
            except ValueError as error:
                raise ValueError(f"{path}: {error}, as the network has") from error
        replay = Replay(self.run, properties)
        left = max(seconds - (time.monotonic() - start), 0.0)
        verdict = self._decider.decide(properties, left, accepts=replay, proof=proof)
        return _answered(verdict, replay, time.monotonic() - start, seconds)


def _answered(verdict: Verdict, replay: Replay, taken: float, seconds: float) -> Answer:
    word = _WORDS[verdict.status]
    if taken > seconds and word is not Word.TIMEOUT:
        late = f"{word} after {taken:.3g} of {seconds:.3g} seconds"
        return Answer(Word.TIMEOUT, taken, late)
    found = replay.found if word is Word.SAT else None
    return Answer(word, taken, verdict.reason, found)
