"""One run, from its configuration to the two SavedModels."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from robustra_tf import data, export, models
from robustra_tf.certificates import certify
from robustra_tf.objective.methods import Options
from robustra_tf.settings import INTERVAL_METHODS
from train.checkpoint import Checkpoints
from train.config import Config
from train.history import History
from train.mutual import Network, alternate
from train.progress import Progress
from train.step import TrainStep
from train.summaries import Summaries
from train.workdir import Workdir

#: TensorFlow's seeds are signed.
SEED_BITS = 2**31 - 1


def run(config: Config, workdir: Workdir) -> None:
    """Trains the pair of `config` in `workdir`, going on from the newest checkpoint there.

    Raises:
      DataNotFoundError: the dataset's folder is not there.
      ValueError: the checkpoint is not of this configuration.
    """
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        _make_deterministic()
    train = data.load(config.dataset, "train", config.limit_train, config.data_dir)
    batches = data.TrainingBatches(train, config.batch_size, config.seed, config.augment)
    del train  # the pipeline has its own copy
    test = None
    if config.limit_test:
        test = data.load(config.dataset, "test", config.limit_test, config.data_dir)

    networks = make_networks(config)
    checkpoints = Checkpoints(workdir.checkpoints, networks, config.seed)
    done = checkpoints.restore()
    history = History(workdir.history, done)
    summaries = Summaries(workdir, config.networks)
    passes = config.epochs * len(networks)
    progress = Progress(config.epochs, passes - done, batches.batch_size)
    print(_heading(config, networks, done), flush=True)
    for result in alternate(networks, batches, config, done, progress.watch):
        tests = evaluate(result.network.model, test, config) if test else {}
        summaries.write(result, tests)
        history.add(result, tests)
        # Last: what is saved has been recorded.
        checkpoints.save(result.index + 1)
        progress.summary(result, tests)
    summaries.close()
    settings = {name: getattr(config, name) for name in ("dataset", "eps", "norm")}
    for network in networks:
        export.save(network.model, workdir.model(network.name), settings)
    print(f"saved in {' and '.join(str(workdir.model(n)) for n in config.networks)}", flush=True)


def make_networks(config: Config) -> tuple[Network, ...]:
    """Networks with independent random weights; for `robustra`, each is the other's reference."""
    names = config.networks
    seeds = np.random.SeedSequence(config.seed).generate_state(len(names))
    built = [models.build(config.model, seed=int(seed), init=config.init) for seed in seeds]
    return tuple(
        _network(config, name, model, reference, int(seed) & SEED_BITS)
        for name, model, reference, seed in zip(names, built, reversed(built), seeds, strict=True)
    )


def evaluate(model: keras.Model, test: data.Dataset, config: Config) -> Mapping[str, float]:
    """The certified error at the full radius and the clean error.

    The bound is the one that was trained on: WK's over the ball alone, or intervals over the ball
    cut to the box.
    """
    if config.method in INTERVAL_METHODS:
        name, how = "test_interval_error", {"method": "interval", "batch_size": 500}
    else:
        name, how = "test_lp_error", {"box": None, "inner": config.inner}
    certificate = certify(model, *test, eps=config.eps, norm=config.norm, **how)
    return {
        name: float(1 - np.mean(certificate.certified)),
        "test_clean_error": float(np.mean(certificate.predicted != test.labels)),
    }


def _make_deterministic() -> None:
    tf.config.experimental.enable_op_determinism()
    # The arithmetic optimizer turns chains of additions into AddN, whose order of summation depends
    # on which of its inputs happens to be free for reuse: the last bit then depends on timing.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def _network(
    config: Config, name: str, model: keras.Model, reference: keras.Model, seed: int
) -> Network:
    optimizer = _optimizer(config)
    step = TrainStep(
        model,
        reference if config.method == "robustra" else None,
        optimizer,
        config.method,
        memory_mb=config.memory_mb,
        clip_norm=config.clip_norm or None,
        weight_decay=config.weight_decay,
        inner=config.inner,
        options=Options(**{name: getattr(config, name) for name in Options._fields}),
        eps_end=config.eps_end,
        norm=config.norm,
        projection=config.projection,
        seed=seed,
    )
    return Network(name, model, optimizer, step)


def _optimizer(config: Config) -> keras.optimizers.Optimizer:
    if config.optimizer == "adam":
        return keras.optimizers.Adam(config.lr)
    return keras.optimizers.SGD(config.lr, momentum=config.momentum)


def _heading(config: Config, networks: tuple[Network, ...], done: int) -> str:
    what = "pair of" if len(networks) > 1 else "network"
    text = (
        f"{config.method} {what} {config.model} ({networks[0].model.count_params():,} parameters "
        f"each) on {config.limit_train:,} examples of {config.dataset}, {config.norm} radius "
        f"{config.eps:g} in pixels; run in {config.workdir}"
    )
    if config.projection:
        text += f"; inner ranges are estimates by {config.projection} projections"
    if done:
        text += f"; resumed after epoch {done // len(networks)}, pass {done}"
    return text
