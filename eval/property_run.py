"""One evaluation of properties, from its settings to results.json, ledger.csv and the page."""

from __future__ import annotations

import collections
import datetime
import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from robustra_tf.cli import settings
from robustra_tf.cli.stopping import NEVER, Stop
from robustra_tf.intake.precision import full_precision
from robustra_tf.property import Property
from robustra_tf.storage import fingerprint
from robustra_tf.storage.files import hold, write_atomically
from robustra_tf.vnncomp.answers import Counterexample

from . import answered, cascade, folder, inputs, page, property_stages, results, run
from .held import Answered, Asked, Held
from .ledger import Ledger
from .progress import Progress
from .questions import Questions, listed
from .rows import Status

#: What changes nothing that a ledger records.
_PLACES = (*("saved_model", "model_file", "weights", "properties"), "out", "resume", "overwrite")
SHOWN = (Status.VERIFIED, Status.FALSIFIED, Status.UNKNOWN)


class Evaluation(NamedTuple):
    """An evaluation that is ready to run: everything it needs was there and fits together."""

    questions: Questions
    model: keras.Model
    asked: Asked
    identity: dict[str, Any]
    ledger: Ledger[Held]


def prepare(questions: Questions) -> Evaluation:
    """Loads and checks the network and the properties, and opens the ledger.

    Raises:
      ValueError, OSError: something is missing, damaged, does not fit or is in use by another
        process; the text says what.
    """
    model = inputs.load_network(questions)
    with settings.naming("properties"):
        files = listed(questions.properties)
        properties = [_read(file, model) for file in files.values()]
    options = {name: value for name, value in vars(questions).items() if name not in _PLACES}
    identity = {
        "network_sha256": run.network_sha256(model),
        "weights_sha256": fingerprint.weights_sha256(model),
        "properties": list(files),
        "properties_sha256": _sha256(files.values()),
        **options,
    }
    out = questions.out
    out.mkdir(exist_ok=True)
    hold(out)
    if questions.overwrite:
        folder.clear(out)
    if not questions.resume:
        results.require_free(out)
    ledger = Ledger(out, identity, questions.resume, Held)
    asked = Asked(np.arange(len(files)), list(files), properties)
    return Evaluation(questions, model, asked, identity, ledger)


def _read(file: Path, model: keras.Model) -> tuple[Property, ...]:
    """What a file asks, as far as it is of the network's inputs and outputs."""
    properties = Property.from_vnnlib(file, model.input_shape[1:])
    try:
        for given in properties:
            given.output.conditions(model.output_shape[-1])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return properties


def _sha256(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


@full_precision()
def evaluate(evaluation: Evaluation, stop: Stop = NEVER) -> dict[str, Any]:
    """Runs the stages, writes the results and prints them; returns the content of results.json.

    Raises:
      Stopped: `stop` asked for it; everything that was decided is recorded.
    """
    questions, model, asked, _, ledger = evaluation
    out = questions.out
    stop.keeps(f"what is decided stays in {out}, --resume goes on from it")
    made = property_stages.make(questions, model)
    progress = Progress(ledger.rows.values(), shown=SHOWN)
    keep = functools.partial(_keep, model, out / answered.WITNESSES)
    try:
        cascade.run(made, asked, ledger, run.until(stop, progress), keep)
    finally:
        progress.close()
        ledger.close()
    ledger.finish()
    figures = _figures(evaluation, ledger.rows)
    path = results.write(figures, out)
    print(f"{table(figures)}\nresults in {path}")
    print(page.write(out), flush=True)
    return figures


def _keep(model: keras.Model, home: Path, stage: str, decided: Answered) -> None:
    """Writes a counterexample in the competition's format, under the name of its file."""
    del stage
    witness = decided.answer.witness
    if decided.answer.status is not Status.FALSIFIED or witness is None:
        return
    outputs = np.asarray(model(witness[None], training=False))[0]
    home.mkdir(exist_ok=True)
    name = Path(decided.examples.names[0]).name
    text = Counterexample(witness.astype(np.float64).ravel(), outputs).text
    write_atomically(home / f"{decided.examples.indices[0]}_{name}.counterexample", text)


def _figures(evaluation: Evaluation, rows: Mapping[int, Held]) -> dict[str, Any]:
    """The content of results.json."""
    questions, model, _, identity, ledger = evaluation
    counts = collections.Counter(row.status for row in rows.values())
    seconds = {name: round(ledger.seconds.get(name, 0.0), 3) for name in questions.stages}
    return {
        "schema": results.SCHEMA,
        "model": model.name,
        "source": str(questions.place.resolve()),
        "properties": str(questions.properties),
        "n": len(rows),
        "verified": counts[Status.VERIFIED],
        "falsified": counts[Status.FALSIFIED],
        "undecided": counts[Status.UNKNOWN],
        "dtype": questions.dtype,
        "sound": questions.sound,
        "seconds": seconds,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": results.versions(),
        "weights_sha256": identity["weights_sha256"],
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures as lines to print."""
    n = figures["n"]
    lines = [f"{figures['model']} on {n:,} properties of {figures['properties']}"]
    for name in ("verified", "falsified", "undecided"):
        lines.append(f"  {name:<9}  {figures[name] / n:>7.2%}  {figures[name]:>6,} of {n:,}")
    took = ", ".join(f"{stage} {spent:.1f}" for stage, spent in figures["seconds"].items())
    return "\n".join([*lines, f"  seconds: {took}"])
