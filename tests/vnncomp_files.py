"""A tiny network in ONNX, properties of it, and the competition's check of counterexamples."""

import re

import keras
import numpy as np
import onnxruntime

import robustra_tf as rt

#: Of `y = (x0 + x1, x0 - x1)` where both are positive.
HEAD = (
    "(declare-const X_0 Real)(declare-const X_1 Real)"
    "(declare-const Y_0 Real)(declare-const Y_1 Real)\n"
)
BOX = HEAD + "(assert (and (>= X_0 0.6) (<= X_0 0.9) (>= X_1 0.1) (<= X_1 0.3)))\n"
#: Outputs lie in [0.7, 1.2] and [0.3, 0.8].
QUERIES = {
    "unsat": BOX + "(assert (>= Y_0 1.25))",
    "sat": BOX + "(assert (>= Y_0 1.15))",
    # The first output is the second and twice X_1, which is at least 0.1: only a joint proof holds.
    "joint": BOX + "(assert (and (<= Y_0 0.75) (>= Y_1 0.66)))",
    "one of two": BOX + "(assert (or (>= Y_0 1.25) (and (>= Y_1 0.75) (<= Y_0 1.05))))",
}


def network(path):
    """Writes it; its path."""
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, "relu"), keras.layers.Dense(2)]
    )
    kernel = np.array([[1.0, 1.0], [1.0, -1.0]])
    model.set_weights([kernel, np.zeros(2), np.eye(2), np.zeros(2)])
    return rt.onnx.save(model, path)


def benchmark(folder):
    """A benchmark of the queries, each with 20 seconds; the path of its list."""
    folder.mkdir()
    network(folder / "net.onnx")
    lines = []
    for name, text in QUERIES.items():
        (folder / f"{name}.vnnlib").write_text(text)
        lines.append(f"net.onnx,{name}.vnnlib,20\n")
    (folder / "instances.csv").write_text("".join(lines))
    return folder / "instances.csv"


def read_witness(text):
    """Inputs and outputs of the competition's format, as its scoring reads them."""
    content = text.replace("\n", " ").strip()
    assert content[0] == "("
    assert content[-1] == ")"
    found = {"X": [], "Y": []}
    for kind, index, number in re.findall(r"\(([XY])_(\d+) ([^\s()]+)\)", content[1:-1]):
        assert int(index) == len(found[kind])
        found[kind].append(float(number))
    assert re.sub(r"\([XY]_\d+ [^\s()]+\)", "", content[1:-1]).strip() == ""
    return np.array(found["X"]), np.array(found["Y"])


def judged(network, lower, upper, unsafe, text):
    """Whether a witness is what the competition's scoring calls correct, without a tolerance.

    Args:
      network: a file of ONNX.
      lower, upper: of the inputs, float64 [n].
      unsafe: outputs [m] -> whether they are.
      text: the witness.
    """
    x, y = read_witness(text)
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    (found,) = session.run(None, {entry.name: x.astype(np.float32).reshape(shape)})
    np.testing.assert_allclose(found.ravel(), y, rtol=1e-6)
    return bool((lower <= x).all() and (x <= upper).all() and unsafe(found.ravel()))
