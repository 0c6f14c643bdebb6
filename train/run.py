"""One run, from its configuration to the two SavedModels."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from robustra_tf import data, export, models
from robustra_tf.batches import TrainingBatches
from robustra_tf.certificates import certify
from robustra_tf.objective.methods import Options
from robustra_tf.settings import INTERVAL_METHODS
from robustra_tf.stopping import NEVER, Stop

from . import devices
from .checkpoint import Checkpoints, Saved
from .config import Config
from .environment import make_deterministic
from .history import History
from .means import NotFiniteError
from .mutual import Network, Position, Snapshot, alternate
from .parallel import parallel
from .progress import Progress
from .saving import Saver
from .step import TrainStep, make_optimizer
from .summaries import Summaries
from .workdir import Workdir

# Test images between two looks at whether the run is to stop; a multiple of the batches.
_TESTED_TOGETHER = 500


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
    train = data.load(config.dataset, "train", config.limit_train, config.data_dir)
    batches = TrainingBatches(train, config.batch_size, config.seed, config.shift, config.mirror)
    del train  # the pipeline has its own copy
    test = None
    if config.limit_test:
        test = data.load(config.dataset, "test", config.limit_test, config.data_dir)

    networks = make_networks(config)
    checkpoints = Checkpoints(workdir.checkpoints, networks, config.seed)
    saved = checkpoints.restore()
    start, notes = (saved.position, saved.notes) if saved else (Position(), {})
    history = History(workdir.history, notes.get("history", ()))
    summaries = Summaries(workdir, config.networks, notes.get("events", {}))
    for line in (*(saved.skipped if saved else ()), *summaries.lost):
        print(line, file=sys.stderr)
    saver = Saver(checkpoints, history, summaries, config.checkpoint_minutes, stop, start)
    passes = config.epochs * len(networks)
    due = passes - start.passes
    progress = Progress(config.epochs, due, batches.batch_size, start.seconds)
    print(_heading(config, networks, saved), flush=True)
    schedule = parallel if config.schedule == "parallel" else alternate
    watch = progress.watch._replace(boundary=saver.boundary)
    try:
        for results in schedule(networks, batches, config, start, watch):
            measured = [_measured(result.network, test, config, saver) for result in results]
            for result, tests in zip(results, measured, strict=True):
                summaries.write(result, tests)
                history.add(result, tests)
            # Last: what is saved has been recorded.
            saver.save(Position(results[-1].index + 1))
            for result, tests in zip(results, measured, strict=True):
                progress.summary(result, tests)
    except NotFiniteError as error:
        newest = checkpoints.newest or "none: there was none yet"
        raise NotFiniteError(f"{error}; last good checkpoint: {newest}") from error
    finally:
        progress.close()
    summaries.close()
    _export(config, workdir, networks)
    print(f"saved in {' and '.join(str(workdir.model(n)) for n in config.networks)}", flush=True)


def _export(config: Config, workdir: Workdir, networks: Sequence[Network]) -> None:
    settings = {name: getattr(config, name) for name in ("dataset", "eps", "norm")}
    for network in networks:
        place = workdir.model(network.name)
        for left in workdir.root.glob(f".{network.name}.*"):
            shutil.rmtree(left)  # by a process that was killed while it exported
        try:
            export.save(network.model, place, settings)
        except tf.errors.OpError as error:
            raise OSError(f"{place}: cannot be written: {str(error).splitlines()[0]}") from error


def make_networks(config: Config) -> tuple[Network, ...]:
    """Networks with independent random weights; for `robustra`, each is the other's reference.

    In the parallel schedule each is on its own device, with a copy of its reference.
    """
    names = config.networks
    places = (None,) * len(names)
    if config.schedule == "parallel":
        places = devices.names(config.devices)
    seeds = np.random.SeedSequence(config.seed).generate_state(len(names))
    built = [_build(config, seed, place) for seed, place in zip(seeds, places, strict=True)]
    return tuple(
        _network(config, name, model, other, place)
        for name, model, other, place in zip(names, built, reversed(built), places, strict=True)
    )


def evaluate(
    network: Network,
    test: data.Dataset,
    config: Config,
    between: Callable[[], None] = lambda: None,
) -> Mapping[str, float]:
    """The certified error at the full radius and the clean error.

    The bound is the one that was trained on: WK's over the ball alone, or intervals over the ball
    cut to the box. `between` is called every `_TESTED_TOGETHER` images.
    """
    if config.method in INTERVAL_METHODS:
        name, how = "test_interval_error", {"method": "interval", "batch_size": 500}
    else:
        name, how = "test_lp_error", {"box": None, "inner": config.inner}
    certified, correct = [], []
    for first in range(0, len(test.labels), _TESTED_TOGETHER):
        between()
        part = data.Dataset(*(array[first : first + _TESTED_TOGETHER] for array in test))
        with tf.device(network.device):
            certificate = certify(network.model, *part, eps=config.eps, norm=config.norm, **how)
        certified.append(certificate.certified)
        correct.append(certificate.predicted == part.labels)
    return {
        name: float(1 - np.mean(np.concatenate(certified))),
        "test_clean_error": float(1 - np.mean(np.concatenate(correct))),
    }


def _measured(
    network: Network, test: data.Dataset | None, config: Config, saver: Saver
) -> Mapping[str, float]:
    return evaluate(network, test, config, saver.interrupt) if test else {}


def _build(config: Config, seed: int, device: str | None) -> keras.Model:
    with tf.device(device):
        return models.build(config.model, int(seed), config.init, config.batch_norm)


def _network(
    config: Config, name: str, model: keras.Model, other: keras.Model, device: str | None
) -> Network:
    reference, snapshot = other if config.method == "robustra" else None, None
    if reference and device:
        snapshot = Snapshot(_build(config, 0, device), other)
        reference = snapshot.copy
    with tf.device(device):
        optimizer = make_optimizer(config.optimizer, config.lr, config.momentum)
        step = TrainStep(
            model,
            reference,
            optimizer,
            config.method,
            memory_mb=config.memory_mb,
            microbatch=config.microbatch,
            clip_norm=config.clip_norm or None,
            weight_decay=config.weight_decay,
            inner=config.inner,
            options=Options(**{name: getattr(config, name) for name in Options._fields}),
            eps_end=config.eps_end,
            device=device,
            norm=config.norm,
            projection=config.projection,
        )
    return Network(name, model, optimizer, step, device, snapshot)


def _heading(config: Config, networks: tuple[Network, ...], saved: Saved | None) -> str:
    what = "pair of" if len(networks) > 1 else "network"
    text = (
        f"{config.method} {what} {config.model} ({networks[0].model.count_params():,} parameters "
        f"each) on {config.limit_train:,} examples of {config.dataset}, {config.norm} radius "
        f"{config.eps:g} in pixels; run in {config.workdir}"
    )
    if config.projection:
        text += f"; inner ranges are estimates by {config.projection} projections"
    if saved:
        epoch, step = saved.position.passes // len(networks), saved.position.step
        text += f"; resumed after epoch {epoch}, pass {saved.position.passes}, step {step}"
    return text
