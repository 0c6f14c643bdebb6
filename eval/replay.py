"""Replays counterexamples by a network as it was exported: `python -m eval.replay NET POINTS.npz`.

NET is a SavedModel, whose signature `serving_default` is called as it stands, a `.keras` or `.h5`
file, or a `.onnx` file, which onnxruntime runs. POINTS has `x` [n, *shape] and `label` [n].
`robustra check --run` asks this program in a process of its own, for the checker itself is NumPy
alone. One line of JSON is printed: `runtime`, what ran the network, and `unsafe`, for each point
whether the logit of another class is at least that of the label.

Exit codes: 0 replayed, 2 not, for the reason on the error stream.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

_BATCH = 256
Run = Callable[[np.ndarray], np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Replays what the command line names; returns the process's exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        network, points = map(Path, given)
        with np.load(points, allow_pickle=False) as file:
            x, labels = file["x"], file["label"]
        runtime, run = opened(network)
        print(json.dumps({"runtime": runtime, "unsafe": unsafe(run, x, labels).tolist()}))
    except (ValueError, OSError, ImportError) as error:
        print(f"eval.replay: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def unsafe(run: Run, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """At which inputs [n, *shape] another class than the label reaches its logit, boolean [n].

    Logits that are not finite numbers show nothing.

    Raises:
      ValueError: outputs that are no logits of these labels.
    """
    parts = [run(x[first : first + _BATCH]) for first in range(0, len(x), _BATCH)]
    logits = np.concatenate(parts)
    if logits.ndim != 2 or len(logits) != len(x) or labels.max() >= logits.shape[1]:
        raise ValueError(f"outputs must be logits [{len(x)}, classes], got {logits.shape}")
    own = logits[np.arange(len(x)), labels]
    others = logits.astype(np.float64)
    others[np.arange(len(x)), labels] = -np.inf
    return np.isfinite(logits).all(1) & (others.max(1) >= own)


def opened(network: Path) -> tuple[str, Run]:
    """What runs an exported network, by its name, and the function of inputs.

    Raises:
      ValueError, OSError, ImportError: it is none, damaged, or what runs it is not installed.
    """
    if network.is_dir():
        return _saved_model(network)
    if network.suffix == ".onnx":
        return _onnx(network)
    if network.suffix not in (".keras", ".h5"):
        raise ValueError(f"{network}: expected .keras, .h5, .onnx or a SavedModel")
    import keras

    from robustra_tf import export, graph

    model = export.load(network)
    return f"Keras {keras.__version__}", lambda x: np.asarray(graph.logits(model, x))


def _saved_model(network: Path) -> tuple[str, Run]:
    """The signature as TensorFlow has it, without this package's reading of the network."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(network))
    signature = getattr(loaded, "signatures", {}).get("serving_default")
    names = [] if signature is None else list(signature.structured_input_signature[1])
    if signature is None or len(names) != 1:
        raise ValueError(f"{network}: expected a signature serving_default of one input")

    def run(x: np.ndarray) -> np.ndarray:
        found = signature(**{names[0]: tf.constant(x)})
        if "logits" not in found and len(found) != 1:
            raise ValueError(f"{network}: expected the output logits, got {', '.join(found)}")
        return found.get("logits", next(iter(found.values()))).numpy()

    # The signature lives as long as what it was loaded with.
    run.loaded = loaded  # type: ignore[attr-defined]
    return f"TensorFlow {tf.__version__}", run


def _onnx(network: Path) -> tuple[str, Run]:
    from robustra_tf.onnx.files import read_model
    from robustra_tf.onnx.packages import required
    from robustra_tf.onnx.replay import Runtime

    run = Runtime(read_model(network))
    version = required("onnxruntime").__version__
    return f"onnxruntime {version}", lambda x: run(x)[0].reshape(len(x), -1)


if __name__ == "__main__":
    sys.exit(main())
