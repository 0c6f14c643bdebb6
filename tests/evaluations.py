"""Evaluations of a small network on the embedded digits, for the tests of the program."""

import csv
import json

import keras
import numpy as np
from keras import layers

from eval import config, run
from robustra_tf import data, export

COUNT = 60
RADIUS = 0.04
#: The columns of a training run's history that are drawn, of two epochs.
HISTORY = {
    "epoch": ["1", "1", "2", "2"],
    "network": ["f", "g", "f", "g"],
    "robust_error": ["0.9", "0.8", "0.7", "0.6"],
    "clean_error": ["0.5", "0.4", "0.3", "0.2"],
    "test_lp_error": ["0.95", "0.85", "0.75", "0.65"],
    "test_clean_error": ["0.55", "0.45", "0.35", "0.25"],
    "t0": ["-1", "-2", "-3", "-4"],
    "infeasible": ["0.5", "0.5", "0.5", "0.5"],
    "tight": ["0.25", "0.25", "0.25", "0.25"],
    "loose": ["0.25", "0.25", "0.25", "0.25"],
}


def digits_network(seed=0):
    """Random ReLU features of the digits and a least-squares classifier on top: no training."""
    rng = np.random.default_rng(seed)
    train = data.load("digits", "train")
    kernel, bias = rng.normal(size=(64, 40)) / 8, rng.normal(size=40) / 4
    features = np.maximum(train.images.reshape(-1, 64) @ kernel + bias, 0)
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    solution = np.linalg.lstsq(design, np.eye(10)[train.labels], rcond=1e-4)[0]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(40, activation="relu"),
            layers.Dense(10),
        ],
        name="features",
    )
    model.set_weights([kernel, bias, solution[:-1], solution[-1]])
    return model


def save(network, directory):
    """The network as training would leave it; its directory."""
    settings = {"dataset": "digits", "eps": RADIUS, "norm": "linf", "method": "none"}
    return export.save(network, directory, settings, certifies=False)


def resolve(saved, out, **given):
    """The configuration of an evaluation of the first `COUNT` test images."""
    return config.resolve(
        {"saved_model": str(saved), "out": str(out), "limit": COUNT, "batch_size": 4, **given}
    )


def evaluate(*args, **given):
    """Runs it; the content of results.json."""
    return run.evaluate(run.prepare(resolve(*args, **given)))


def rows(directory):
    """The lines of a ledger by column."""
    with (directory / "ledger.csv").open() as file:
        return list(csv.DictReader(file))


def without_seconds(directory):
    """The lines of a ledger but for the times, and for the searches, which follow from times."""
    timed = ("seconds", "search")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows(directory)]


def write_run(folder, method="robustra", columns=HISTORY):
    """A training run as far as the page reads it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"method": method}))
    with (folder / "history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return folder
