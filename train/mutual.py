"""Mutual training: each network of a pair learns against the other as its reference.

Alternating, as in section 6 of the paper: an epoch trains f with g fixed, then g with the new f
fixed. A *pass* is one network's part of an epoch; pass 2 e is f's of epoch e, pass 2 e + 1 is g's.
The baselines, which need no reference, go through the same passes as two independent networks.

A *round* is what goes on at the same time: one pass here, all passes of an epoch in `parallel`.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from robustra_tf import schedules
from robustra_tf.data import TrainingBatches
from train.config import Config


class Snapshot(NamedTuple):
    """A copy of another network as it was at the last `refresh`, on a device of its own."""

    copy: keras.Model
    original: keras.Model

    def refresh(self) -> None:
        """Takes over the original's present weights."""
        for mine, theirs in zip(self.copy.variables, self.original.variables, strict=True):
            mine.value.assign(tf.convert_to_tensor(theirs.value))


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network with what trains it.

    Attributes:
      name: `f` or `g`.
      model: the network.
      optimizer: a Keras optimizer.
      step: (x, y, eps) -> metrics, a `train.step.TrainStep`.
      device: where all of it is and its steps run; None leaves that to TensorFlow.
      snapshot: the reference that it learns against, where that is not the other network itself.
    """

    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    step: Callable
    device: str | None = None
    snapshot: Snapshot | None = None


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
    """Told of the passes under way, of which there may be one for each network.

    `begin(name, epoch, eps, lr, steps)` at a pass's start, with the name of its network;
    `advance(name, read)` after every step, where `read()` gives the metrics so far and waits for
    the device; `end(name, metrics)`.
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


class _Running:
    """A pass under way, step by step."""

    def __init__(
        self, index: int, epoch: int, network: Network, means: Means, steps: int, config: Config
    ):
        self.index, self.epoch, self.network, self.means = index, epoch, network, means
        self._steps, self._config = steps, config
        self.lr, self.eps = _learning_rate(epoch, config), _epsilon(epoch, 0, steps, config)
        # Variables and tensors, so that one trace serves the whole run.
        network.optimizer.learning_rate = self.lr
        means.reset()
        self._start = time.perf_counter()

    def take(self, k: int, x: tf.Tensor, y: tf.Tensor) -> None:
        """Takes step `k`, on the network's device."""
        self.eps = _epsilon(self.epoch, k, self._steps, self._config)
        with tf.device(self.network.device):
            radius = tf.constant(self.eps, tf.float32)
            self.means.add(self.network.step(x, y, radius))

    def finish(self, examples: int) -> Pass:
        """What it came to; waits for the device."""
        metrics = self.means.read()
        seconds = time.perf_counter() - self._start
        found = (self.index, self.epoch, self.network, self.eps, self.lr)
        return Pass(*found, metrics, examples, seconds)


def alternate(
    networks: Sequence[Network],
    batches: TrainingBatches,
    config: Config,
    first_pass: int,
    watch: Watch,
) -> Iterator[tuple[Pass, ...]]:
    """Trains the networks in turn, from `first_pass` to the last of the run's epochs.

    Args:
      networks: f and g; the step of each holds the other as its fixed reference.
      batches: the training examples; each pass draws its own order.
      config: epochs and schedules.
      first_pass: passes already done.
      watch: is told of the progress.

    Yields:
      A round of one `Pass` when it is done: the networks then hold the weights that the next pass
      begins with.
    """
    yield from rounds(networks, batches, config, first_pass, watch, 1, in_turn)


def in_turn(works: Sequence[Callable[[], None]]) -> None:
    """Does one after the other."""
    for work in works:
        work()


def rounds(
    networks: Sequence[Network],
    batches: TrainingBatches,
    config: Config,
    first_pass: int,
    watch: Watch,
    width: int,
    drive: Callable[[Sequence[Callable[[], None]]], None],
) -> Iterator[tuple[Pass, ...]]:
    """Trains by rounds of `width` passes each, step by step.

    Args:
      networks, batches, config, first_pass, watch: as `alternate` takes them.
      width: how many passes go on at the same time, of as many networks.
      drive: does a step of each, given as functions, and returns when all are done.

    Yields:
      The passes of a round: between rounds, the state of the run is all in the networks.
    """
    means = {network.name: Means() for network in networks}
    for first in range(first_pass, config.epochs * len(networks), width):
        passes = []
        for index in range(first, first + width):
            epoch, position = divmod(index, len(networks))
            network = networks[position]
            mean = means[network.name]
            passes.append(_Running(index, epoch, network, mean, batches.steps, config))
        for running in passes:
            if running.network.snapshot:
                running.network.snapshot.refresh()
            begun = (running.network.name, running.epoch, running.eps, running.lr)
            watch.begin(*begun, batches.steps)
        # Each pass has an order of its own.
        feeds = zip(*(batches.epoch(running.index) for running in passes), strict=True)
        for k, found in enumerate(feeds):
            drive([functools.partial(p.take, k, *b) for p, b in zip(passes, found, strict=True)])
            for running in passes:
                watch.advance(running.network.name, running.means.read)
        done = tuple(running.finish(batches.steps * batches.batch_size) for running in passes)
        for result in done:
            watch.end(result.network.name, result.metrics)
        yield done


def _epsilon(epoch: int, step: int, steps: int, config: Config) -> float:
    ends = (config.eps_start, config.eps_end, config.eps_warmup_epochs)
    if config.ramp == "step":
        return schedules.epsilon_within(epoch + step / steps, *ends)
    return schedules.epsilon(epoch, *ends)


def _learning_rate(epoch: int, config: Config) -> float:
    if config.lr_schedule == "cosine":
        return schedules.cosine(epoch, config.lr, config.eps_warmup_epochs, config.epochs)
    return schedules.halving(epoch, config.lr, config.eps_warmup_epochs)
