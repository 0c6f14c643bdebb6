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
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.batches import TrainingBatches
from robustra_tf.training.averaging import Averaged
from robustra_tf.training.means import Means, NotFiniteError
from robustra_tf.training.plan import TrainingPlan
from robustra_tf.training.watch import Begun, Position, Watch


class Snapshot(NamedTuple):
    """A copy of another network as it was at the last `refresh`, on a device of its own."""

    copy: keras.Model
    original: keras.Model

    def refresh(self) -> None:
        """Takes over the original's present weights."""
        for mine, theirs in zip(self.copy.variables, self.original.variables, strict=True):
            mine.value.assign(tf.convert_to_tensor(theirs.value))


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """A network with what trains it.

    Attributes:
      name: `f` or `g`.
      model: the network.
      optimizer: a Keras optimizer.
      step: (x, y, eps, seed, lowered) -> metrics, a `TrainStep`.
      device: where it is and its steps are put together; None leaves that to TensorFlow.
      snapshot: the reference that it learns against, where that is not the other network itself.
      averaged: the network of averaged weights, if there is one.
    """

    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    step: Callable
    device: str | None = None
    snapshot: Snapshot | None = None
    averaged: Averaged | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
    """What is trained, on what, and how.

    Attributes:
      learners: f and g, or one network alone; the step of each holds its reference.
      batches: the training examples; each pass draws its own order.
      plan: epochs and schedules.
    """

    learners: Sequence[Learner]
    batches: TrainingBatches
    plan: TrainingPlan

    @property
    def passes(self) -> int:
        """How many there are."""
        return self.plan.epochs * len(self.learners)


class Pass(NamedTuple):
    """What a network's part of an epoch came to; the metrics are means over its examples."""

    index: int
    epoch: int  # from 0
    learner: Learner
    eps: float  # in pixels, of its last step
    lr: float
    metrics: dict[str, float]
    examples: int
    seconds: float


class _Running:
    """A pass under way, step by step."""

    def __init__(self, course: Course, index: int, means: Means, start: Position):
        self.index, self._course, self._means = index, course, means
        self.epoch, place = divmod(index, len(course.learners))
        self.learner = course.learners[place]
        self.lr = course.plan.learning_rate(self.epoch)
        self.eps = self._radius(max(start.step - 1, 0))
        # Variables and tensors, so that one trace serves the whole run.
        self.learner.optimizer.learning_rate = self.lr
        with tf.device(self.learner.device):
            means.reset(start.step, start.totals.get(self.learner.name))
        self._start = time.perf_counter() - start.seconds

    def take(self, k: int, x: tf.Tensor, y: tf.Tensor) -> None:
        """Takes step `k`, on the network's device."""
        self.eps = self._radius(k)
        # The last number keeps these draws apart from those of the augmentation.
        words = [self._course.plan.seed, self.index, k, 1]
        seed = np.random.SeedSequence(words).generate_state(2).view(np.int32)
        with tf.device(self.learner.device):
            radius = tf.constant(self.eps, tf.float32)
            lowered = tf.constant(self._lowered(k), tf.float32)
            self._means.add(self.learner.step(x, y, radius, tf.constant(seed), lowered))

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

    def begun(self, taken: int) -> Begun:
        """What a watch is told where it begins, or goes on after `taken` of its steps."""
        steps = self._course.batches.steps
        return Begun(self.learner.name, self.epoch, self.eps, self.lr, steps, taken)

    def finish(self) -> Pass:
        """What it came to; waits for the device."""
        found = (self.index, self.epoch, self.learner, self.eps, self.lr, self.read())
        batches = self._course.batches
        return Pass(*found, batches.steps * batches.batch_size, self.seconds())

    def _radius(self, k: int) -> float:
        return self._course.plan.radius(self.epoch, k, self._course.batches.steps)

    def _lowered(self, k: int) -> float:
        return self._course.plan.lowered(self.epoch, k, self._course.batches.steps)

    def _guard(self) -> None:
        bad = self._means.bad()
        if bad is None:
            return
        numbers = {"loss": "loss", "grad_norm": "norm of the gradient"}
        values = ", ".join(f"{numbers[k]} {v:g}" for k, v in bad.metrics.items() if k in numbers)
        batches = self._course.batches
        indices = batches.order(self.index)[bad.step].tolist()
        raise NotFiniteError(
            f"epoch {self.epoch + 1} of {self.learner.name}, step {bad.step + 1} of "
            f"{batches.steps}: {values}; its batch is the training examples {indices}"
        )


def alternate(course: Course, start: Position, watch: Watch) -> Iterator[tuple[Pass, ...]]:
    """Trains the networks in turn, from `start` to the last of the plan's epochs.

    Args:
      course: the networks, the data and the plan.
      start: where the run is; the networks are as they were there.
      watch: is told of the progress.

    Yields:
      A round of one `Pass` when it is done: the networks then hold the weights that the next pass
      begins with.

    Raises:
      NotFiniteError: a loss or a gradient that is no finite number: when the metrics are next
        read, at the latest when the pass is done. No such step has changed a network.
    """
    yield from rounds(course, start, watch, 1, in_turn)


def in_turn(works: Sequence[Callable[[], None]]) -> None:
    """Does one after the other."""
    for work in works:
        work()


def rounds(
    course: Course,
    start: Position,
    watch: Watch,
    width: int,
    drive: Callable[[Sequence[Callable[[], None]]], None],
) -> Iterator[tuple[Pass, ...]]:
    """Trains by rounds of `width` passes each, step by step.

    Args:
      course, start, watch: as `alternate` takes them.
      width: how many passes go on at the same time, of as many networks.
      drive: does a step of each, given as functions, and returns when all are done.

    Yields:
      The passes of a round: between rounds, the state of the run is all in the networks.
    """
    means = [Means() for _ in course.learners]
    for first in range(start.passes, course.passes, width):
        # Of a round that has not been begun yet.
        start = start if first == start.passes else Position(first)
        passes = [
            _Running(course, index, means[index % len(means)], start)
            for index in range(first, first + width)
        ]
        for running in passes:
            if running.learner.snapshot and not start.step:
                running.learner.snapshot.refresh()
            watch.begin(running.begun(start.step))
        # Each pass has an order of its own.
        feeds = (course.batches.epoch(running.index, start.step) for running in passes)
        for k, batches in enumerate(zip(*feeds, strict=True), start.step):
            drive([functools.partial(p.take, k, *b) for p, b in zip(passes, batches, strict=True)])
            for running in passes:
                watch.advance(running.learner.name, running.read)
            watch.boundary(functools.partial(_position, first, k + 1, passes))
        done = tuple(running.finish() for running in passes)
        for result in done:
            watch.end(result.learner.name, result.metrics)
        yield done


def _position(first: int, steps: int, passes: Sequence[_Running]) -> Position:
    totals: Mapping = {running.learner.name: running.totals() for running in passes}
    return Position(first, steps, totals, passes[0].seconds())
