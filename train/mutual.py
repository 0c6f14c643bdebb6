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
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf import schedules
from robustra_tf.batches import TrainingBatches

from .config import Config
from .means import Means, NotFiniteError


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
      step: (x, y, eps, seed) -> metrics, a `train.step.TrainStep`.
      device: where all of it is and its steps run; None leaves that to TensorFlow.
      snapshot: the reference that it learns against, where that is not the other network itself.
    """

    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    step: Callable
    device: str | None = None
    snapshot: Snapshot | None = None


class Position(NamedTuple):
    """Between which two steps a run is, and what it remembers beside its networks.

    Everything else is a function of it: order and augmentation of the data, random starts, radius
    and learning rate.

    Attributes:
      passes: that are done.
      step: steps that each pass of the round under way has taken.
      totals: of that round, by the name of the network, the sums of the metrics over these steps.
      seconds: that the round has taken.
    """

    passes: int = 0
    step: int = 0
    totals: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    seconds: float = 0.0


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

    `begin(name, epoch, eps, lr, steps, taken)` at a pass's start, or where it goes on after `taken`
    of its steps, with the name of its network; `advance(name, read)` after every step, where
    `read()` gives the metrics so far and waits for the device; `end(name, metrics)`.
    `boundary(position)` is called between two steps, with what gives the `Position`; it may raise
    to end the run there.
    """

    begin: Callable
    advance: Callable
    end: Callable
    boundary: Callable = lambda position: None


class _Running:
    """A pass under way, step by step."""

    def __init__(
        self,
        index: int,
        epoch: int,
        network: Network,
        means: Means,
        batches: TrainingBatches,
        config: Config,
        start: Position,
    ):
        self.index, self.epoch, self.network = index, epoch, network
        self._means, self._batches, self._config = means, batches, config
        self.lr, self.eps = _learning_rate(epoch, config), self._radius(max(start.step - 1, 0))
        # Variables and tensors, so that one trace serves the whole run.
        network.optimizer.learning_rate = self.lr
        with tf.device(network.device):
            means.reset(start.step, start.totals.get(network.name))
        self._start = time.perf_counter() - start.seconds

    def take(self, k: int, x: tf.Tensor, y: tf.Tensor) -> None:
        """Takes step `k`, on the network's device."""
        self.eps = self._radius(k)
        # The last number keeps these draws apart from those of the augmentation.
        words = [self._config.seed, self.index, k, 1]
        seed = np.random.SeedSequence(words).generate_state(2).view(np.int32)
        with tf.device(self.network.device):
            radius = tf.constant(self.eps, tf.float32)
            self._means.add(self.network.step(x, y, radius, tf.constant(seed)))

    def read(self) -> dict[str, float]:
        """The means of the metrics so far; waits for the device.

        Raises:
          NotFiniteError: a step's loss or gradient was not finite.
        """
        self._guard()
        return self._means.read()

    def totals(self) -> dict[str, float]:
        """The sums behind `read`, which raises alike."""
        self._guard()
        return self._means.totals()

    def seconds(self) -> float:
        """Since its beginning, without the time between two runs."""
        return time.perf_counter() - self._start

    def finish(self) -> Pass:
        """What it came to; waits for the device."""
        found = (self.index, self.epoch, self.network, self.eps, self.lr, self.read())
        return Pass(*found, self._batches.steps * self._batches.batch_size, self.seconds())

    def _radius(self, k: int) -> float:
        return _epsilon(self.epoch, k, self._batches.steps, self._config)

    def _guard(self) -> None:
        bad = self._means.bad()
        if bad is None:
            return
        numbers = {"loss": "loss", "grad_norm": "norm of the gradient"}
        told = ", ".join(f"{numbers[k]} {v:g}" for k, v in bad.metrics.items() if k in numbers)
        indices = self._batches.order(self.index)[bad.step].tolist()
        raise NotFiniteError(
            f"epoch {self.epoch + 1} of {self.network.name}, step {bad.step + 1} of "
            f"{self._batches.steps}: {told}; its batch is the training examples {indices}"
        )


def alternate(
    networks: Sequence[Network],
    batches: TrainingBatches,
    config: Config,
    start: Position,
    watch: Watch,
) -> Iterator[tuple[Pass, ...]]:
    """Trains the networks in turn, from `start` to the last of the run's epochs.

    Args:
      networks: f and g; the step of each holds the other as its fixed reference.
      batches: the training examples; each pass draws its own order.
      config: epochs and schedules.
      start: where the run is; the networks are as they were there.
      watch: is told of the progress.

    Yields:
      A round of one `Pass` when it is done: the networks then hold the weights that the next pass
      begins with.

    Raises:
      NotFiniteError: a loss or a gradient that is no finite number: when the metrics are next
        read, at the latest when the pass is done. No such step has changed a network.
    """
    yield from rounds(networks, batches, config, start, watch, 1, in_turn)


def in_turn(works: Sequence[Callable[[], None]]) -> None:
    """Does one after the other."""
    for work in works:
        work()


def rounds(
    networks: Sequence[Network],
    batches: TrainingBatches,
    config: Config,
    start: Position,
    watch: Watch,
    width: int,
    drive: Callable[[Sequence[Callable[[], None]]], None],
) -> Iterator[tuple[Pass, ...]]:
    """Trains by rounds of `width` passes each, step by step.

    Args:
      networks, batches, config, start, watch: as `alternate` takes them.
      width: how many passes go on at the same time, of as many networks.
      drive: does a step of each, given as functions, and returns when all are done.

    Yields:
      The passes of a round: between rounds, the state of the run is all in the networks.
    """
    means = {network.name: Means() for network in networks}
    for first in range(start.passes, config.epochs * len(networks), width):
        # Of a round that has not been begun yet.
        start = start if first == start.passes else Position(first)
        passes = []
        for index in range(first, first + width):
            epoch, position = divmod(index, len(networks))
            network = networks[position]
            mean = means[network.name]
            passes.append(_Running(index, epoch, network, mean, batches, config, start))
        for running in passes:
            if running.network.snapshot and not start.step:
                running.network.snapshot.refresh()
            begun = (running.network.name, running.epoch, running.eps, running.lr)
            watch.begin(*begun, batches.steps, start.step)
        # Each pass has an order of its own.
        feeds = zip(*(batches.epoch(running.index, start.step) for running in passes), strict=True)
        for k, found in enumerate(feeds, start.step):
            drive([functools.partial(p.take, k, *b) for p, b in zip(passes, found, strict=True)])
            for running in passes:
                watch.advance(running.network.name, running.read)
            watch.boundary(functools.partial(_position, first, k + 1, passes))
        done = tuple(running.finish() for running in passes)
        for result in done:
            watch.end(result.network.name, result.metrics)
        yield done


def _position(first: int, steps: int, passes: Sequence[_Running]) -> Position:
    totals = {running.network.name: running.totals() for running in passes}
    return Position(first, steps, totals, passes[0].seconds())


def _epsilon(epoch: int, step: int, steps: int, config: Config) -> float:
    ends = (config.eps_start, config.eps_end, config.eps_warmup_epochs)
    if config.ramp == "step":
        return schedules.epsilon_within(epoch + step / steps, *ends)
    return schedules.epsilon(epoch, *ends)


def _learning_rate(epoch: int, config: Config) -> float:
    if config.lr_schedule == "cosine":
        return schedules.cosine(epoch, config.lr, config.eps_warmup_epochs, config.epochs)
    return schedules.halving(epoch, config.lr, config.eps_warmup_epochs)
