"""A program for `test_shared_batches`: steps of one network on three logical processors.

`python -m tests.shared_batches OUT` writes OUT/found.json. Logical devices are made before
TensorFlow starts, so that this needs a process of its own.
"""

from __future__ import annotations

import collections
import contextlib
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

import robustra_tf as rt
from train import devices

DEVICES = ("CPU:0", "CPU:1", "CPU:2")
#: Seven of them are in no equal shares of three.
BATCH, EPS = 7, 0.05
#: By name: the method, what its step is tuned by, and whether it is traced.
CASES = {
    "robustra": ("robustra", {}, True),
    "robustra_pieces": ("robustra", {"microbatch": 2}, False),
    "wong_projection": ("wong", {"projection": 3, "attack_share": 0.5, "attack_steps": 2}, False),
    "wong_batch_norm": ("wong", {"weight_decay": 1e-2, "clip_norm": 0.5}, False),
    "ibp_regulariser": ("ibp", {"regulariser": 0.5, "eps_end": 2 * EPS}, False),
    "sabr_batch_norm": ("sabr", {"attack_steps": 2, "microbatch": 1}, False),
    "natural": ("natural", {}, False),
}


def network(seed: int, batch_norm: bool) -> keras.Model:
    """A convolution and two dense layers, with a layer's own regulariser."""
    keras.utils.set_random_seed(seed)
    normal = [keras.layers.BatchNormalization()] if batch_norm else []
    return keras.Sequential(
        [
            keras.Input((5, 5, 1)),
            keras.layers.Conv2D(2, 3, strides=2),
            *normal,
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(5, "relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.Dense(3),
        ]
    )


def stepped(name: str, given: tuple[str, ...]) -> tuple[list, list]:
    """Weights and metrics of two steps on the devices that are given."""
    method, options, traced = CASES[name]
    tf.config.run_functions_eagerly(not traced)
    rng = np.random.default_rng(5)
    images = rng.uniform(size=(2, BATCH, 5, 5, 1)).astype(np.float32)
    labels = rng.integers(3, size=(2, BATCH)).astype(np.int32)
    with tf.device(given[0]) if given else contextlib.nullcontext():
        model = network(1, "batch_norm" in name)
        reference = network(2, False) if method == "robustra" else None
        options = rt.StepOptions.of(**options)
        sgd = keras.optimizers.SGD(0.1)
        step = rt.TrainStep(model, reference, sgd, method, options=options, devices=given)
        metrics = [
            step(tf.constant(x), tf.constant(y), tf.constant(EPS), (1, k))
            for k, (x, y) in enumerate(zip(images, labels, strict=True))
        ]
    return model.get_weights(), [{k: float(v) for k, v in one.items()} for one in metrics]


def difference(left, right) -> float:
    """The largest of arrays."""
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(left, right, strict=True))


def compared(name: str) -> dict:
    """One device against three."""
    start = network(1, "batch_norm" in name).get_weights()
    (weights, metrics), (there, measured) = stepped(name, ()), stepped(name, DEVICES)
    values = [[sorted(one.items()) for one in each] for each in (metrics, measured)]
    assert [[k for k, _ in one] for one in values[0]] == [[k for k, _ in one] for one in values[1]]
    numbers = [[[v for _, v in one] for one in each] for each in values]
    moved = difference(start, weights)
    return {"moved": moved, "weights": difference(weights, there), "metrics": difference(*numbers)}


def placement(graphs) -> dict:
    """Operations of a step on each device, and how often one sends to another."""
    nodes = [node for graph in graphs for node in graph.node]
    ways = collections.Counter(
        (node.attr["send_device"].s.decode()[-5:], node.attr["recv_device"].s.decode()[-5:])
        for node in nodes
        if node.op in ("_Send", "_HostSend")
    )
    return {
        "operations": collections.Counter(node.device[-5:] for node in nodes),
        "sent": {f"{a} {b}": count for (a, b), count in ways.items() if a != b},
    }


def main(out: Path) -> None:
    """Everything."""
    devices.require([DEVICES])
    context.context().enable_run_metadata()
    found = {"robustra": compared("robustra")}
    graphs = context.context().export_run_metadata().partition_graphs
    context.context().disable_run_metadata()
    found["placement"] = placement(graphs)
    # Differences alone are asked of the others: to optimise their graphs takes longest.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    found |= {name: compared(name) for name in CASES if name not in found}
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
