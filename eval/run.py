"""One evaluation, from its configuration to results.json and ledger.csv."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple

import keras
import numpy as np

from robustra_tf import graph
from robustra_tf.cli import settings
from robustra_tf.cli.stopping import NEVER, Stop
from robustra_tf.intake.precision import full_precision
from robustra_tf.pair import Pair
from robustra_tf.storage import fingerprint
from robustra_tf.storage.files import hold

from . import (
    cascade,
    clustered,
    evidence,
    folder,
    inputs,
    page,
    pools,
    proofs,
    results,
    shared,
    stages,
    sweep,
)
from .config import Config
from .ledger import Kept, Ledger, check
from .progress import Progress
from .rows import Row
from .witnesses import Witnesses
from .workers import Pool

# What changes nothing that a ledger records: where things lie, whether a run is continued, in how
# many processes, and the radii of a sweep, which have ledgers of their own.
_PLACES = (
    *("saved_model", "model_file", "weights", "pair", "data", "data_dir", "out"),
    *("resume", "overwrite", "workers", "eps_sweep", "properties", "proofs", *clustered.NAMES),
)


class Evaluation(NamedTuple, Generic[Kept]):
    """An evaluation that is ready to run: everything it needs was there and fits together."""

    config: Config
    model: keras.Model
    examples: cascade.Examples
    identity: dict[str, Any]
    ledger: Ledger[Kept]


def prepare(config: Config) -> Evaluation[Row]:
    """Loads and checks the network and the examples, and opens the ledger.

    Raises:
      ValueError, OSError: something is missing, damaged, does not fit or is in use by another
        process; the text says what.
    """
    return opened(config, Row)


def opened(config: Config, kind: type[Kept]) -> Evaluation[Kept]:
    """`prepare` for a ledger of rows of some kind.

    Raises:
      ValueError, OSError: something is missing, damaged, does not fit or is in use by another
        process; the text says what.
    """
    model = inputs.load_network(config)
    dataset = inputs.load_examples(config, settings.known("split", config.split))
    inputs.check_examples(dataset, model, config.where)
    images, labels = dataset
    identity = _identity(config, model, images, labels)
    config.out.mkdir(exist_ok=True)
    hold(config.out)
    if config.overwrite:
        folder.clear(config.out)
    # Before the first ledger is opened, which may begin it anew.
    for eps in config.eps_sweep:
        place = sweep.directory(config.out, eps)
        check(place, sweep.identity_at(identity, eps), config.resume)
    if not config.resume:
        results.require_free(config.out)
    ledger = Ledger(config.out, identity, config.resume, kind)
    # No batch is filled up beyond the examples that there are.
    config = dataclasses.replace(config, batch_size=min(config.batch_size, len(images)))
    indices = np.arange(config.first, config.first + len(images))
    return Evaluation(config, model, cascade.Examples(indices, images, labels), identity, ledger)


@full_precision()
def evaluate(
    evaluation: Evaluation, stop: Stop = NEVER, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Runs the stages, writes the results and prints them; returns the content of results.json.

    Args:
      evaluation: as `prepare` gives it.
      stop: asks for an end between two batches.
      say: is told of what happens to workers.

    Raises:
      Stopped: `stop` asked for it; everything that was decided is recorded.
      StageError: a worker failed, or a cluster is not there; as before.
    """
    config, examples = evaluation.config, evaluation.examples
    stop.keeps(f"what is decided stays in {config.out}, --resume goes on from it")
    with pools.opened(config, say) as pool:
        figures = _decided(evaluation, pool, stop)
    print(page.write(config.out, examples=examples), flush=True)
    return figures


def _decided(evaluation: Evaluation, pool: Pool | None, stop: Stop) -> dict[str, Any]:
    config, model, examples, identity, ledger = evaluation
    kept = Witnesses(config.out, identity, model, config.resume)
    proven = None if config.proofs is None else proofs.Folder(config, model)
    made = shared.out(stages.make(config, model), pool, config, model)
    progress = Progress(ledger.rows.values())
    try:
        keep = kept.keep if proven is None else _both(kept.keep, proven.keep)
        cascade.run(made, examples, ledger, until(stop, progress), keep)
    finally:
        progress.close()
        ledger.close()
    ledger.finish()
    source = str(config.place.resolve())
    figures = results.results(identity, model.name, source, ledger.rows.values(), ledger.seconds)
    figures["sha256"] = evidence.hashes(model, examples, identity)
    if proven is not None:
        figures["proven"] = proven.finish(examples, ledger.rows.values())
        figures["proofs"] = os.path.relpath(proven.path, config.out)
        figures["sha256"]["proofs"] = evidence.folder_sha256(proven.path)
    path = results.write(figures, config.out)
    print(f"{results.table(figures)}\nresults in {path}", flush=True)
    _sweep(evaluation, made, pool, stop)
    return figures


def _both(first: cascade.Keep, second: cascade.Keep) -> cascade.Keep:
    def keep(stage: str, decisions: Any) -> None:
        first(stage, decisions)
        second(stage, decisions)

    return keep


def until(stop: Stop, progress: Progress) -> cascade.Watch:
    """Shows progress, and stops where a batch is recorded and the next one is not begun."""

    def watch(stage: str, rows: Sequence[Row], total: int, left: int) -> None:
        if rows:
            stop.nothing_to_lose(None)
        progress(stage, rows, total, left)
        stop.check()

    return watch


def _sweep(
    evaluation: Evaluation, made: Sequence[stages.Stage], pool: Pool | None, stop: Stop
) -> None:
    """Runs PGD and the LP bound at the further radii, with what the stages have compiled."""
    config, model, examples, identity, ledger = evaluation
    if not config.eps_sweep:
        return
    known = {stage.name for stage in made}
    wanted = tuple(name for name in sweep.STAGES if name not in known)
    more = stages.make(dataclasses.replace(config, stages=wanted), model)
    more = shared.out(more, pool, config, model)
    have = {s.name: s for s in (*made, *more) if isinstance(s, stages.Batched | shared.Shared)}
    bars: list[Progress] = []

    def watch(eps: float, ledger: Ledger) -> cascade.Watch:
        for bar in bars:
            bar.close()
        bars[:] = [Progress(ledger.rows.values(), f"eps {eps:g}, ")]
        return until(stop, bars[0])

    try:
        points = sweep.run(
            config.eps_sweep,
            lambda eps: [have[name].at(eps) for name in sweep.STAGES],
            examples,
            (config.eps, ledger.rows),
            (config.out, identity, config.resume),
            watch,
        )
    finally:
        for bar in bars:
            bar.close()
    print(f"{sweep.table(points)}\nsweep in {config.out / sweep.NAME}", flush=True)


def _identity(
    config: Config, model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """What a ledger's rows depend on."""
    options = {name: value for name, value in vars(config).items() if name not in _PLACES}
    if config.proofs is not None:
        # What is searched is another search, and what has no proof is undecided.
        options["proven"] = True
    return {
        "network_sha256": network_sha256(model),
        "weights_sha256": fingerprint.weights_sha256(model),
        "data_sha256": fingerprint.arrays_sha256([images, labels]),
        "split_sha256": inputs.split_sha256(config.origin, settings.known("split", config.split)),
        **{
            name: str(value) if isinstance(value, Path) else value
            for name, value in options.items()
        },
    }


def network_sha256(model: keras.Model) -> str:
    """Hash of what the weights are used for: the operations, without the layers' names."""
    networks = (model.f, model.g) if isinstance(model, Pair) else (model,)
    nodes = [node for network in networks for node in graph.build(network).structure.nodes]
    text = repr([(node.op, node.inputs, node.weights) for node in nodes])
    return hashlib.sha256(text.encode()).hexdigest()
