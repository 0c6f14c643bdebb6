"""A program for `test_parallel`: what the parallel schedule does on two logical processors.

`python -m tests.two_devices OUT` writes OUT/found.json and the runs OUT/whole and OUT/broken.
Logical devices are made before TensorFlow starts, so that all of this needs a process of its own.
"""

from __future__ import annotations

import collections
import functools
import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks import parallel as benchmark
from robustra_tf import data, export, models
from robustra_tf.batches import TrainingBatches
from robustra_tf.training.history import HistoryFile
from robustra_tf.training.mutual import Course
from robustra_tf.training.parallel import parallel
from robustra_tf.training.watch import Position, Watch
from train import devices, environment, run
from train.config import resolve
from train.workdir import open_run

DEVICES = ("CPU:0", "CPU:1")
STEPS, BATCH = 4, 8
SETTINGS = {
    "schedule": "parallel",
    "devices_f": DEVICES[0],
    "devices_g": DEVICES[1],
    "epochs": 2,
    "eps_warmup_epochs": 1,
    "eps_start": 0.01,
    "eps": 0.04,
    "batch_size": BATCH,
    "limit_train": STEPS * BATCH,
    "limit_test": 10,
    "seed": 3,
}


def tiny(name: str, seed: int, init: str, batch_norm: bool, **asked) -> keras.Model:
    """A dense network in place of a model by name: its steps are traced in a second."""
    del name, init, batch_norm, asked
    uniform = keras.initializers.RandomUniform
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
    for k, (units, activation) in enumerate(((12, "relu"), (10, None))):
        start = uniform(-0.2, 0.2, seed=seed + k)
        layers.append(keras.layers.Dense(units, activation, kernel_initializer=start))
    return keras.Sequential(layers)


def variables(networks) -> list:
    """All that training changes."""
    return [
        variable.value
        for network in networks
        for variable in (*network.model.variables, *network.optimizer.variables)
    ]


def by_hand(networks, batches, epochs) -> None:
    """The schedule's definition: each network's epoch alone, against the other's last weights."""
    for epoch in range(len(epochs)):
        weights = [network.model.get_weights() for network in networks]
        for place, network in enumerate(networks):
            if network.snapshot:
                network.snapshot.copy.set_weights(weights[1 - place])
            eps, network.optimizer.learning_rate = epochs[epoch]
            for x, y in batches.epoch(2 * epoch + place):
                with tf.device(network.device):
                    network.step(x, y, tf.constant(eps, tf.float32))


def compare(networks, batches, config) -> dict:
    """Largest differences after the same schedule, run in three ways from the same start."""
    start = [v.numpy() for v in variables(networks)]
    ended, metrics = [], []
    for overlap in (True, False, None):
        for variable, value in zip(variables(networks), start, strict=True):
            variable.assign(value)
        if overlap is None:
            by_hand(networks, batches, [(0.01, config.lr), (0.04, config.lr)])
        else:
            course = Course(networks, batches, run.training_plan(config))
            rounds = list(parallel(course, Position(), Watch(), overlap=overlap))
            metrics.append([done.metrics for round in rounds for done in round])
        ended.append([v.numpy() for v in variables(networks)])

    def difference(left, right):
        return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))

    return {
        "moved": difference(start[:1], ended[0][:1]),
        "overlap_and_in_turn": difference(ended[0], ended[1]),
        "overlap_and_by_hand": difference(ended[0], ended[2]),
        "same_metrics": metrics[0] == metrics[1],
        "traces": [network.step.traces for network in networks],
    }


def placement(network, batches) -> dict:
    """Where a step's variables are and, once TensorFlow has placed them, its operations.

    A graph that needs a tensor from another device has a `_Recv` for it.
    """
    x, y = next(iter(batches.epoch(0)))
    context.context().enable_run_metadata()
    with tf.device(network.device):
        network.step(x, y, tf.constant(0.04))
    graphs = context.context().export_run_metadata().partition_graphs
    context.context().disable_run_metadata()
    largest = max(graphs, key=lambda graph: len(graph.node))
    held = (network.model, network.snapshot.copy, network.optimizer)
    placed = {v.value.device[-5:] for holder in held for v in holder.variables}
    return {
        "operations": collections.Counter(node.device[-5:] for node in largest.node),
        "received": [n.name for g in graphs for n in g.node if n.op in ("_Recv", "_HostRecv")],
        "variables": sorted(placed),
    }


def profiled(work) -> dict:
    """When operations of each device ran, as (start, end), and what was sent between the two."""
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        work()
        tf.profiler.experimental.stop()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    ran, sent = {device: [] for device in DEVICES}, collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                start = line.timestamp_ns * 1000 + event.offset_ps
                for device in DEVICES:
                    if name.startswith(device.replace(":", "_") + "/"):
                        ran[device].append((start, start + event.duration_ps))
                if name.startswith("_Send input"):
                    sent[name.rpartition(" ")[2][-5:]] += 1
    return {"ran": ran, "sent": sent}


class BrokenError(Exception):
    """Ends a run."""


def runs(out: Path) -> None:
    """OUT/whole: a run; OUT/broken: the same, ended when one of two networks' rows is written."""
    config, folder = open_run(SETTINGS | {"workdir": str(out / "whole")}, resume=False)
    run.run(config, folder)
    config, folder = open_run(SETTINGS | {"workdir": str(out / "broken")}, resume=False)
    add = HistoryFile.add

    def fatal(self, row):
        add(self, row)
        if (row.epoch, row.network) == (2, "f"):
            raise BrokenError

    HistoryFile.add = fatal
    try:
        run.run(config, folder)
    except BrokenError:
        HistoryFile.add = add
    run.run(*open_run({"workdir": str(out / "broken")}, resume=True))


def main(out: Path) -> None:
    """Everything, the real convolutional network where its placement matters."""
    devices.require([[device] for device in DEVICES])
    environment.make_deterministic()
    batches = TrainingBatches(data.load("digits", "train", STEPS * BATCH), BATCH, seed=3)
    found, config = {}, resolve(SETTINGS)
    pair = run.make_networks(config)
    found["placement"] = {network.device: placement(network, batches) for network in pair}
    found["robustra"] = compare(pair, batches, config)
    # Traced and warm: the last epoch alone.
    course = Course(pair, batches, run.training_plan(config))
    found["profile"] = profiled(lambda: list(parallel(course, Position(2), Watch())))
    # What follows is compared with itself: to optimise its graphs takes longest.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    models.build = tiny
    export.save = functools.partial(export.save, certifies=False)
    for method in ("wong", "natural"):
        config = resolve(SETTINGS | {"method": method})
        found[method] = compare(run.make_networks(config), batches, config)
    measured = benchmark.Config(model="digits_small", method="wong", batch=2, rounds=2)
    found["benchmark"] = benchmark.measure(measured)
    runs(out)
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
