"""What onnxruntime computes of a model: the reference of all that is read and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robustra_tf.onnx.packages import required


class Runtime:
    """A model in onnxruntime, one thread, on the processor.

    Args:
      model: a `onnx.ModelProto` with all of its weights inside.
      watched: names of inner values to compute beside the output.

    Raises:
      ImportError: the package is not installed.
      ValueError: onnxruntime refuses the model.
    """

    def __init__(self, model: Any, watched: Sequence[str] = ()):
        runtime = required("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if watched:
            model = _watching(model, watched)
        try:
            content = model.SerializeToString()
            self._session = runtime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common type
            raise ValueError(f"onnxruntime refuses it: {_line(error)}") from error
        weights = {tensor.name for tensor in model.graph.initializer}
        (self._input,) = (each for each in model.graph.input if each.name not in weights)
        sizes = self._input.type.tensor_type.shape.dim
        self._shape = tuple(size.dim_value or 1 for size in sizes)

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """The output and what is watched, of inputs [n, ...] given one at a time: [n, ...] each.

        Raises:
          ValueError: onnxruntime fails.
        """
        rows = []
        for each in x.astype(np.float32):
            try:
                rows.append(self._session.run(None, {self._input.name: each.reshape(self._shape)}))
            except Exception as error:
                raise ValueError(f"onnxruntime fails: {_line(error)}") from error
        return [np.stack(parts) for parts in zip(*rows, strict=True)]


def _watching(model: Any, watched: Sequence[str]) -> Any:
    onnx = required("onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched)
    return copy


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
