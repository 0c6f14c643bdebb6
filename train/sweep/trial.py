"""One trial: a network that is trained, and what it comes to on held-out images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import robustra_tf as rt
from robustra_tf.data import Dataset
from robustra_tf.storage.files import write_atomically
from robustra_tf.training.history import Row
from robustra_tf.training.run import Run
from robustra_tf.training.workdir import Workdir

from .. import run as runs
from ..config import Config


class Outcome(NamedTuple):
    """What a network comes to, by shares of the images that it is judged by.

    Attributes:
      clean_error: misclassified.
      certified_error: misclassified, or not certified by `alpha`.
      open: classified rightly, neither certified nor attacked: what a search would have to decide.
      unstable: ReLUs whose sign is not certain over the ball, mean over all images.
      cost: those of the open images alone, mean over all images, 0 for the others: what grows with
        the time of complete verification.
    """

    clean_error: float
    certified_error: float
    open: float
    unstable: float
    cost: float


def trained(config: Config, judge: Callable[[Row], None]) -> keras.Model:
    """A network of a configuration, exported with its settings into the configuration's folder.

    Args:
      config: with held-out examples.
      judge: is called with the row of every epoch of f; what it raises ends the run.

    Raises:
      NotFiniteError: a loss, a gradient or a weight is no finite number.
    """
    keras.utils.set_random_seed(config.seed)
    train, _ = runs.load(config)
    learners, plan = runs.make_networks(config), runs.training_plan(config)

    def of_first(row: Row) -> None:
        if row.network == learners[0].name:
            judge(row)

    Run(learners, train, plan, judge=of_first).finish()
    folder = Workdir(Path(config.workdir))
    shutil.rmtree(folder.root, ignore_errors=True)  # of a trial that broke off
    folder.root.mkdir(parents=True)
    runs.export_networks(config, folder, learners)
    text = json.dumps(dataclasses.asdict(config), indent=2)
    write_atomically(folder.config, text + "\n")
    return learners[0].model


def judged(model: keras.Model, held: Dataset, unstable_by: str, **ball: Any) -> Outcome:
    """What a network comes to on held-out examples.

    Args:
      model: the network.
      held: the examples.
      unstable_by: the bounds of inner layers by which ReLUs are unstable.
      **ball: `eps` in pixels, and `norm`.
    """
    certificate = rt.certify(model, *held, method="alpha", **ball)
    right = certificate.predicted == held.labels
    proven = right & certificate.certified
    waiting = np.flatnonzero(right & ~proven)
    if len(waiting):
        found = rt.attack(model, held.images[waiting], held.labels[waiting], **ball)
        waiting = waiting[~found.success]
    unstable = np.zeros(len(held.labels))
    for lower, upper in rt.layer_bounds(model, held.images, method=unstable_by, **ball):
        unstable += ((lower < 0) & (upper > 0)).reshape(len(unstable), -1).sum(1)
    count = len(unstable)
    return Outcome(
        clean_error=float(1 - right.mean()),
        certified_error=float(1 - proven.mean()),
        open=len(waiting) / count,
        unstable=float(unstable.mean()),
        cost=float(unstable[waiting].sum() / count),
    )


def held_out(config: Config, count: int) -> Dataset:
    """The first of the examples that are held out of a configuration's training."""
    train, _ = runs.load(config)
    _, held = rt.data.held_out(train, config.validation)
    return Dataset(*(array[:count] for array in held))
