"""A motivation run: a pair, its errors under attack and how the attacks transfer."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from robustra_tf import data, export, models
from robustra_tf.attacks import Attack, replay
from robustra_tf.batches import TrainingBatches
from robustra_tf.cli.plots import MOTIVATION, motivation
from robustra_tf.cli.stopping import NEVER, Stop
from robustra_tf.storage.files import hold, write_atomically
from robustra_tf.training import optimizers
from robustra_tf.training.means import Means
from robustra_tf.training.summaries import CHARTS, Chart

from ..environment import make_deterministic
from ..workdir import Workdir
from .settings import Settings
from .step import PairStep

CURVES, FIGURE = "motivation.csv", "motivation.png"
NETWORKS = ("f", "g")


def run(given: Settings, stop: Stop = NEVER) -> None:
    """Trains f and g, and after every epoch writes what attacks do to each and to the other.

    The workdir gets `config.json`, `motivation.csv` with the columns of
    `robustra_tf.cli.plots.MOTIVATION` and `motivation.png`, both anew after every epoch,
    TensorBoard's `events/f` and `events/g`, and at the end the SavedModels `f` and `g`.

    Args:
      given: the settings.
      stop: asks the run to stop between two steps.

    Raises:
      Stopped: it was asked to; what the epochs before have written stays.
      NotFiniteError: a loss or a gradient is no finite number.
      OSError: something cannot be written, or another process works in the folder.
    """
    keras.utils.set_random_seed(given.seed)
    if given.deterministic:
        make_deterministic()
    workdir = Workdir(Path(given.workdir))
    train = data.load(given.dataset, "train", given.limit_train, given.data_dir)
    test = data.load(given.dataset, "test", given.limit_test, given.data_dir)
    batches = TrainingBatches(train, given.batch_size, given.seed, given.shift, given.mirror)
    workdir.root.mkdir(parents=True, exist_ok=True)
    hold(workdir.root)
    write_atomically(workdir.config, json.dumps(dataclasses.asdict(given), indent=2) + "\n")

    seeds = np.random.SeedSequence(given.seed).generate_state(len(NETWORKS))
    pair = [models.build(given.model, seed=int(seed)) for seed in seeds]
    made = [optimizers.make(given.optimizer, given.lr, given.momentum) for _ in pair]
    step = PairStep(pair, made, given.alignment, given.clip_norm or None, given.weight_decay)
    how = {"norm": given.norm, "steps": given.attack_steps, "restarts": given.attack_restarts}
    # To the largest margin: what barely crosses one network's boundary says little of the other.
    attacks = [Attack(model, seed=given.seed, early_stop=False, **how) for model in pair]
    writers = [tf.summary.create_file_writer(str(workdir.events(name))) for name in NETWORKS]
    means, rows = Means(), []
    stop.keeps(f"the epochs so far are in {given.workdir}")
    for epoch in range(given.epochs):
        means.reset()
        feed = batches.epoch(epoch)
        # A bar on terminals alone: a file is well served by the lines.
        for x, y in tqdm(feed, f"epoch {epoch + 1}", batches.steps, leave=False, disable=None):
            stop.check()
            means.add(step(x, y))
            stop.nothing_to_lose(None)
        trained = means.read()
        errors = attacked(attacks, pair, test, given.eps, given.norm)
        rows.append({"epoch": str(epoch + 1)} | {k: f"{v:.9g}" for k, v in errors.items()})
        _write(workdir, rows)
        _summarise(writers, epoch + 1, trained, errors)
        print(_line(epoch + 1, given.epochs, trained | errors), flush=True)
    for writer in writers:
        writer.close()
    kept = {name: getattr(given, name) for name in ("dataset", "eps", "norm")}
    for name, model in zip(NETWORKS, pair, strict=True):
        export.save(model, workdir.model(name), kept)
    print(f"curves in {workdir.root / CURVES} and {workdir.root / FIGURE}", flush=True)


def attacked(
    attacks: Sequence[Attack],
    pair: Sequence[keras.Model],
    test: data.Dataset,
    eps: float,
    norm: str,
) -> dict[str, float]:
    """The errors of a row of the CSV, as fractions.

    Args:
      attacks: on f and on g.
      pair: f and g.
      test: images and labels.
      eps, norm: of the ball, in pixels.
    """
    found = [attack(*test, eps) for attack in attacks]
    values = [np.mean(own.success) for own in found]
    for own, other in zip(found, reversed(pair), strict=True):
        transferred = replay(other, test.images, own.adversarial, test.labels, eps, norm=norm)
        values.append(np.mean(transferred.success))
    return {name: float(value) for name, value in zip(MOTIVATION[1:], values, strict=True)}


def _write(workdir: Workdir, rows: Sequence[Mapping[str, str]]) -> None:
    text, picture = io.StringIO(), io.BytesIO()
    writer = csv.DictWriter(text, MOTIVATION, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(workdir.root / CURVES, text.getvalue())
    motivation(rows).savefig(picture, format="png")
    write_atomically(workdir.root / FIGURE, picture.getvalue())


def _summarise(
    writers: Sequence, epoch: int, trained: Mapping[str, float], errors: Mapping[str, float]
) -> None:
    for name, other, writer in zip(NETWORKS, reversed(NETWORKS), writers, strict=True):
        scalars = {
            Chart("errors/train_clean", CHARTS["clean_error"].text): trained[f"clean_error_{name}"],
            Chart(
                "errors/test_pgd",
                "fraction of test images misclassified or changed by an attack on this network",
            ): errors[f"pgd_error_{name}"],
            Chart(
                "errors/test_transfer",
                f"fraction of test images misclassified as they are attacked on {other}",
            ): errors[f"transfer_error_{other}_to_{name}"],
            Chart("training/loss", CHARTS["loss"].text): trained[f"loss_{name}"],
            Chart(
                "training/cosine",
                "|cosine| of the angle between both networks' gradients of the loss by the image, "
                "mean over training images",
            ): trained["cosine"],
        }
        with writer.as_default():
            for (tag, text), value in scalars.items():
                tf.summary.scalar(tag, value, step=epoch, description=text)
        writer.flush()


# Columns of the lines: title, and the number that stands there; the last ones are errors on test
# images under attack.
_COLUMNS = {
    "loss f": "loss_f",
    "loss g": "loss_g",
    "cosine": "cosine",
    "PGD f": "pgd_error_f",
    "PGD g": "pgd_error_g",
    "f to g": "transfer_error_f_to_g",
    "g to f": "transfer_error_g_to_f",
}


def _line(epoch: int, epochs: int, found: Mapping[str, float]) -> str:
    """The line of an epoch, the first one below its header."""
    first = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
    cells = [f"{found[k]:7.2%}" if "error" in k else f"{found[k]:7.4f}" for k in _COLUMNS.values()]
    lines = [[f"{'errors':{len(first)}}", *(f"{title:>7}" for title in _COLUMNS)], [first, *cells]]
    return "\n".join("  ".join(line) for line in (lines if epoch == 1 else lines[1:]))
