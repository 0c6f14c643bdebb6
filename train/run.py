"""One run, from its configuration to the two SavedModels."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from robustra_tf import data, export
from robustra_tf.cli import settings
from robustra_tf.cli.stopping import NEVER, Stop
from robustra_tf.training.mutual import Learner
from robustra_tf.training.plan import TrainingPlan
from robustra_tf.training.run import Run, make_learners
from robustra_tf.training.saving import Saver

from . import architectures, devices
from .config import FIELDS, Config
from .environment import make_deterministic
from .material import parts
from .workdir import Workdir


def run(config: Config, workdir: Workdir, stop: Stop = NEVER) -> None:
    """Trains the pair of `config` in `workdir`, going on from the newest checkpoint there.

    Args:
      config: of the run.
      workdir: its folder.
      stop: asks the run to stop between two steps.

    Raises:
      Stopped: it was asked to; with the checkpoint's path.
      DataNotFoundError: the dataset's folder is not there.
      CheckpointError: no checkpoint can be used, or the one found is not of this configuration.
      NotFiniteError: a loss, a gradient or a weight is no finite number; the checkpoints before it
        stay.
      OSError: something cannot be written, as on a full disk; the checkpoints before it stay.
    """
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        make_deterministic()
    train, test = load(config)
    networks, plan = make_networks(config), training_plan(config)
    saver = Saver(workdir, networks, plan, stop=stop, minutes=config.checkpoint_minutes)
    for line in saver.warnings:
        print(line, file=sys.stderr)
    trained = Run(networks, train, plan, test=test, saver=saver)
    del train, test  # the run has its own copies
    print(_heading(config, networks, saver), flush=True)
    trained.finish(write=functools.partial(print, flush=True))
    export_networks(config, workdir, networks)
    print(f"saved in {' and '.join(str(workdir.model(n)) for n in config.networks)}")
    print(f"curves: tensorboard --logdir={workdir.events('')}", flush=True)


def check(config: Config) -> None:
    """Refuses (`FlagError`) a file of a network or of examples that a run cannot be made of."""
    if config.model_file is not None:
        architectures.read(config)
    if config.data is not None:
        load(config)


def load(config: Config) -> tuple[data.Dataset, data.Dataset | None]:
    """The examples of training, and those of testing, if any: none beside those held out.

    Raises:
      DataNotFoundError: the data set is not there.
      FlagError: its files are damaged, or of another kind.
    """
    trained, tested = parts(config.info())
    train = config.load(trained, config.limit_train)
    if tested is None or not config.limit_test or config.validation:
        return train, None
    return train, config.load(tested, config.limit_test)


def export_networks(config: Config, workdir: Workdir, networks: Sequence[Learner]) -> None:
    """Writes the SavedModels of trained networks; raises `OSError` where that cannot be."""
    settings = {name: getattr(config, name) for name in ("dataset", "eps", "norm", "epochs")}
    for network in networks:
        place = workdir.model(network.name)
        for left in workdir.root.glob(f".{network.name}.*"):
            shutil.rmtree(left)  # by a process that was killed while it exported
        try:
            export.save(network.model, place, settings)
        except tf.errors.OpError as error:
            raise OSError(f"{place}: cannot be written: {str(error).splitlines()[0]}") from error


def training_plan(config: Config) -> TrainingPlan:
    """How the networks of a run are trained."""
    names = TrainingPlan.names() & set(FIELDS)
    settings = {name: getattr(config, name) for name in names}
    settings["clip_norm"] = config.clip_norm or None
    settings["devices"] = devices.of(config)
    return TrainingPlan.of(**settings)


def make_networks(config: Config) -> tuple[Learner, ...]:
    """Networks as they begin; for `robustra`, each is the other's reference.

    In the parallel schedule each is on devices of its own, with a copy of its reference.
    """
    plan, names = training_plan(config), config.networks
    places = [each[0] for each in plan.devices] or [None] * len(names)
    seeds = np.random.SeedSequence(config.seed).generate_state(len(names))
    built: dict[str, keras.Model] = {}
    for name, seed, place in zip(names, seeds, places, strict=True):
        with tf.device(place):
            built[name] = architectures.make(config, name, int(seed))
    return make_learners(built, plan)


def _heading(config: Config, networks: Sequence[Learner], saver: Saver) -> str:
    """What is trained, on what, and where it is resumed: lines that fit a narrow terminal."""
    what, each = ("pair of", " each") if len(networks) > 1 else ("network", "")
    name = config.model or Path(settings.known("model_file", config.model_file)).name
    size = networks[0].model.count_params()
    lines = [
        f"{config.method} {what} {name}, {size:,} parameters{each}",
        *architectures.origins(config),
        f"{config.limit_train:,} examples of {config.dataset}, {config.norm} radius "
        f"{config.eps:g} in pixels",
    ]
    if config.projection:
        lines.append(f"inner ranges are estimates by {config.projection} projections")
    if saver.resumed:
        passes, step = saver.start.passes, saver.start.step
        epoch = passes // len(networks)
        lines.append(f"resumed after epoch {epoch}, pass {passes}, step {step}")
    return "\n".join(lines)
