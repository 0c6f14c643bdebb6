"""One evaluation, from its configuration to results.json and ledger.csv."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from eval import cascade, inputs, report, stages
from eval.config import Config
from eval.ledger import Ledger
from eval.progress import Progress
from robustra_tf import fingerprint, graph

# What changes nothing that a ledger records: where things lie, and whether a run is continued.
_PLACES = ("saved_model", "weights", "data_dir", "out", "resume")


class Evaluation(NamedTuple):
    """An evaluation that is ready to run: everything it needs was there and fits together."""

    config: Config
    model: keras.Model
    examples: cascade.Examples
    identity: dict[str, Any]
    ledger: Ledger


def prepare(config: Config) -> Evaluation:
    """Loads and checks the network and the examples, and opens the ledger.

    Raises:
      ValueError, OSError: something is missing, damaged or does not fit; the text says what.
    """
    model = inputs.load_network(config)
    dataset = inputs.load_examples(config)
    inputs.check_examples(dataset, model, f"{config.dataset} {config.split}")
    images, labels = dataset
    identity = _identity(config, model, images, labels)
    config.out.mkdir(exist_ok=True)
    ledger = Ledger(config.out, identity, config.resume)
    examples = cascade.Examples(np.arange(len(images)), images, labels)
    return Evaluation(config, model, examples, identity, ledger)


def evaluate(evaluation: Evaluation) -> dict[str, Any]:
    """Runs the stages, writes the results and prints them; returns the content of results.json."""
    config, model, examples, identity, ledger = evaluation
    progress = Progress(ledger.rows.values())
    try:
        cascade.run(stages.make(config, model), examples, ledger, progress)
    finally:
        progress.close()
        ledger.close()
    ledger.finish()
    figures = report.results(
        config, model.name, identity["weights_sha256"], ledger.rows.values(), ledger.seconds
    )
    path = report.write(figures, config.out)
    print(f"{report.table(figures)}\nresults in {path}", flush=True)
    return figures


def _identity(
    config: Config, model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """What a ledger's rows depend on."""
    options = {name: value for name, value in vars(config).items() if name not in _PLACES}
    return {
        "network_sha256": _network_sha256(model),
        "weights_sha256": fingerprint.weights_sha256(model),
        "data_sha256": fingerprint.arrays_sha256([images, labels]),
        **{
            name: str(value) if isinstance(value, Path) else value
            for name, value in options.items()
        },
    }


def _network_sha256(model: keras.Model) -> str:
    """Hash of what the weights are used for: the operations, without the layers' names."""
    nodes = graph.build(model).structure.nodes
    text = repr([(node.op, node.inputs, node.weights) for node in nodes])
    return hashlib.sha256(text.encode()).hexdigest()
