"""Mutual training: each network of a pair learns against the other as its reference.

Alternating, as in section 6 of the paper: an epoch trains f with g fixed, then g with the new f
fixed. A *pass* is one network's part of an epoch; pass 2 e is f's of epoch e, pass 2 e + 1 is g's.
The baselines, which need no reference, go through the same passes as two independent networks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from robustra_tf import schedules
from robustra_tf.data import TrainingBatches
from train.config import Config


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network with what trains it; `step(x, y, eps)` is a `train.step.TrainStep`."""

    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    step: Callable


class Pass(NamedTuple):
    """What a network's part of an epoch came to; the metrics are means over its examples."""

    index: int
    epoch: int  # from 0
    network: Network
    eps: float  # in pixels, of its last step
    lr: float
    metrics: dict[str, float]
    examples: int
    seconds: float


class Watch(NamedTuple):
    """Told of a pass under way: called at its start with the number of steps and then a step.

    `begin(network name, epoch, eps, lr, steps)`; `advance(read)` after every step, where `read()`
    gives the metrics so far and waits for the device; `end(metrics)`.
    """

    begin: Callable
    advance: Callable
    end: Callable


class Means:
    """Running means of a step's metrics, kept on the device so that no step waits for them."""

    def __init__(self):
        self._names: list[str] = []
        self._totals: tf.Variable | None = None
        self._steps = 0
        self._add = tf.function(self._accumulate, autograph=False)

    def reset(self) -> None:
        """Forgets what was added."""
        if self._totals is not None:
            self._totals.assign(tf.zeros_like(self._totals))
        self._steps = 0

    def add(self, metrics: dict[str, tf.Tensor]) -> None:
        """Adds a step's metrics: scalars, the same names in every step."""
        if self._totals is None:
            self._names = sorted(metrics)
            self._totals = tf.Variable(tf.zeros(len(self._names)))
        self._add(metrics)
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The means so far; waits for the device."""
        if not self._steps:
            return {}
        means = self._totals.numpy() / self._steps
        return dict(zip(self._names, means.tolist(), strict=True))

    def _accumulate(self, metrics):
        values = [tf.cast(metrics[name], tf.float32) for name in self._names]
        self._totals.assign_add(tf.stack(values))


def alternate(
    networks: Sequence[Network],
    batches: TrainingBatches,
    config: Config,
    first_pass: int,
    watch: Watch,
) -> Iterator[Pass]:
    """Trains the networks in turn, from `first_pass` to the last of the run's epochs.

    Args:
      networks: f and g; the step of each holds the other as its fixed reference.
      batches: the training examples; each pass draws its own order.
      config: epochs and schedules.
      first_pass: passes already done.
      watch: is told of the progress.

    Yields:
      A `Pass` when it is done: the networks then hold the weights that the next pass begins with.
    """
    means = {network.name: Means() for network in networks}
    for index in range(first_pass, config.epochs * len(networks)):
        epoch, position = divmod(index, len(networks))
        network = networks[position]
        lr = _learning_rate(epoch, config)
        # Tensors and variables, so that one trace serves the whole run.
        network.optimizer.learning_rate = lr
        eps = _epsilon(epoch, 0, batches.steps, config)
        radius = tf.constant(eps, tf.float32)
        mean = means[network.name]
        mean.reset()
        watch.begin(network.name, epoch, eps, lr, batches.steps)
        start = time.perf_counter()
        for k, (x, y) in enumerate(batches.epoch(index)):
            if config.ramp == "step":
                eps = _epsilon(epoch, k, batches.steps, config)
                radius = tf.constant(eps, tf.float32)
            mean.add(network.step(x, y, radius))
            watch.advance(mean.read)
        metrics = mean.read()
        seconds = time.perf_counter() - start
        watch.end(metrics)
        examples = batches.steps * batches.batch_size
        yield Pass(index, epoch, network, eps, lr, metrics, examples, seconds)


def _epsilon(epoch: int, step: int, steps: int, config: Config) -> float:
    ends = (config.eps_start, config.eps_end, config.eps_warmup_epochs)
    if config.ramp == "step":
        return schedules.epsilon_within(epoch + step / steps, *ends)
    return schedules.epsilon(epoch, *ends)


def _learning_rate(epoch: int, config: Config) -> float:
    if config.lr_schedule == "cosine":
        return schedules.cosine(epoch, config.lr, config.eps_warmup_epochs, config.epochs)
    return schedules.halving(epoch, config.lr, config.eps_warmup_epochs)
