"""Runs: networks that are trained by a plan, against each other or alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from robustra_tf.batches import TrainingBatches
from robustra_tf.certificates.certify import certify
from robustra_tf.data import Dataset
from robustra_tf.intake.examples import Labelled, labelled
from robustra_tf.storage.files import hold
from robustra_tf.training import optimizers
from robustra_tf.training.history import History, Row
from robustra_tf.training.means import NotFiniteError
from robustra_tf.training.mutual import Course, Learner, Pass, Snapshot, alternate
from robustra_tf.training.parallel import parallel
from robustra_tf.training.plan import TrainingPlan
from robustra_tf.training.progress import Progress
from robustra_tf.training.saving import Saver
from robustra_tf.training.step import TrainStep
from robustra_tf.training.watch import Position, Watches
from robustra_tf.training.workdir import Workdir

#: Test images between two looks at whether the run is to stop, and those that the dual bounds at a
#: time.
_TESTED_TOGETHER, _BATCH = 500, 20


def train_pair(
    f: keras.Model,
    g: keras.Model,
    train: Labelled,
    plan: TrainingPlan,
    *,
    test: Labelled | None = None,
    workdir: str | Path | None = None,
    progress: bool = False,
) -> History:
    """Trains two networks in place; by `robustra`, each against the other as its reference.

    Args:
      f, g: Keras models of supported layers, image to logits, of one input and one output shape;
        with the parallel schedule, made on the devices of the plan.
      train: images [n, *shape] in pixels of [0, 1], and their labels [n]; or a `tf.data.Dataset` or
        `keras.utils.PyDataset` of both.
      plan: how they are trained.
      test: examples, as `train`, that both are certified on after each epoch, if any.
      workdir: a folder for checkpoints, TensorBoard's files and `history.csv`; a run that has been
        interrupted there goes on. Nothing is written where it is None.
      progress: shows a bar for each epoch and prints a line.

    Returns:
      A row for each epoch and network.

    Raises:
      ValueError: an argument that does not fit the others, by name.
      InUseError: another process works in the folder.
      CheckpointError: the folder's checkpoints are damaged, or of other networks or another plan.
      NotFiniteError: a loss, a gradient or a weight is no finite number.

    Example:
      >>> images = rt.data.Dataset(x, y)
      >>> history = rt.train_pair(f, g, images, rt.TrainingPlan(eps=0.1, epochs=1))
      >>> [(row.epoch, row.network) for row in history.rows]
      [(1, 'f'), (1, 'g')]
    """
    learners = make_learners({"f": f, "g": g}, plan)
    return _finished(learners, train, plan, test, workdir, progress)


def train(
    model: keras.Model,
    train: Labelled,
    plan: TrainingPlan,
    *,
    reference: keras.Model | None = None,
    test: Labelled | None = None,
    workdir: str | Path | None = None,
    progress: bool = False,
) -> History:
    """Trains one network in place, as `train_pair` does two.

    Args:
      model: the network.
      reference: for `robustra`, the network in whose adversarial space attacks are bounded; it
        stays as it is. None for the other methods.
      train, plan, test, workdir, progress: as `train_pair` takes them.

    Example:
      >>> plan = rt.TrainingPlan(eps=0.1, epochs=2, method="ibp")
      >>> history = rt.train(model, rt.data.Dataset(x, y), plan)
      >>> [(row.epoch, row.network) for row in history.rows]
      [(1, 'f'), (2, 'f')]
    """
    learners = make_learners({"f": model}, plan, reference)
    return _finished(learners, train, plan, test, workdir, progress)


def _finished(learners, train, plan, test, workdir, progress) -> History:
    model = learners[0].model
    shape, classes = model.input_shape[1:], model.output_shape[-1]
    train = Dataset(*labelled("train", train, shape, classes))
    if test is not None:
        test = Dataset(*labelled("test", test, shape, classes))
    saver = None
    if workdir is not None:
        folder = Workdir(Path(workdir).expanduser())
        folder.root.mkdir(parents=True, exist_ok=True)
        hold(folder.root)
        saver = Saver(folder, learners, plan)
    run = Run(learners, train, plan, test=test, saver=saver)
    return run.finish(write=tqdm.write if progress else None)


def make_learners(
    models: Mapping[str, keras.Model], plan: TrainingPlan, reference: keras.Model | None = None
) -> tuple[Learner, ...]:
    """Networks with what trains them; where the method needs it, each is the other's reference.

    In the parallel schedule each has a copy of its reference on its own device.

    Args:
      models: one or two networks, by name.
      plan: how they are trained.
      reference: of a single network.

    Raises:
      ValueError: as many devices as networks are not there, or shapes that differ.
    """
    names, built = list(models), list(models.values())
    places = plan.devices or (None,) * len(names)
    if len(places) != len(names):
        raise ValueError(f"devices must be one for each of {len(names)} networks, got {places}")
    shapes = [(model.input_shape, model.output_shape) for model in built]
    if len(set(shapes)) > 1:
        raise ValueError(f"f and g must map the same inputs to the same classes, got {shapes}")
    others: list[keras.Model | None] = [None] * len(names)
    if plan.traits.needs_reference:
        others = [reference] if len(names) == 1 else built[::-1]
    elif reference is not None:
        plan.traits.check_reference(given=True)
    return tuple(
        _learner(name, model, other, plan, place)
        for name, model, other, place in zip(names, built, others, places, strict=True)
    )


def _learner(
    name: str,
    model: keras.Model,
    reference: keras.Model | None,
    plan: TrainingPlan,
    device: str | None,
) -> Learner:
    snapshot = None
    with tf.device(device):
        if reference is not None and device:
            snapshot = Snapshot(keras.models.clone_model(reference), reference)
            reference = snapshot.copy
        optimizer = optimizers.make(plan.optimizer, plan.lr, plan.momentum)
        options = plan.step_options
        step = TrainStep(model, reference, optimizer, plan.method, options=options, device=device)
    return Learner(name, model, optimizer, step, device, snapshot)


class Run:
    """A run, from where its folder has it to the end of its plan.

    Attributes:
      learners: as given; restored where there was a checkpoint.
      batches: of the training examples.
    """

    def __init__(
        self,
        learners: tuple[Learner, ...],
        train: Dataset,
        plan: TrainingPlan,
        *,
        test: Dataset | None = None,
        saver: Saver | None = None,
    ):
        """Prepares.

        Args:
          learners: as `make_learners` gives them.
          train, plan, test: as `train_pair` takes them.
          saver: what keeps the run in a folder, of the same networks and plan; None for nowhere.
        """
        self.learners, self._plan, self._test, self._saver = learners, plan, test, saver
        self.batches = TrainingBatches(train, plan.batch_size, plan.seed, plan.shift, plan.mirror)
        self._start = saver.start if saver else Position()
        self._history = saver.history if saver else History()

    def finish(self, *, write: Callable[[str], None] | None = None) -> History:
        """Trains to the end of the plan.

        Args:
          write: takes a line for each pass, which has a bar too; None for neither.

        Raises:
          Stopped: it was asked to; with the checkpoint's path.
          NotFiniteError: a loss, a gradient or a weight is no finite number; the checkpoints before
            it stay.
          OSError: something cannot be written, as on a full disk; the checkpoints before it stay.
        """
        course = Course(self.learners, self.batches, self._plan)
        shown = None
        if write is not None:
            due = course.passes - self._start.passes
            spent = self._start.seconds
            shown = Progress(self._plan.epochs, due, self.batches.batch_size, spent, write)
        try:
            self._train(course, shown)
        except NotFiniteError as error:
            if self._saver is None:
                raise
            newest = self._saver.newest or "none: there was none yet"
            raise NotFiniteError(f"{error}; last good checkpoint: {newest}") from error
        finally:
            if shown:
                shown.close()
        if self._saver:
            self._saver.close()
        return self._history

    def _train(self, course: Course, shown: Progress | None) -> None:
        watch = Watches(*(one for one in (shown, self._saver) if one is not None))
        schedule = parallel if self._plan.schedule == "parallel" else alternate
        for results in schedule(course, self._start, watch):
            tests = [self._tested(result.learner, shown) for result in results]
            for result, errors in zip(results, tests, strict=True):
                self._record(result, errors)
            if self._saver:
                # Last: what is saved has been recorded.
                self._saver.save(Position(results[-1].index + 1))
            for result, errors in zip(results, tests, strict=True):
                if shown:
                    shown.summary(result, errors)

    def _record(self, done: Pass, errors: Mapping[str, float]) -> None:
        row = Row.of(done, errors)
        self._history = self._history.and_row(row)
        if self._saver:
            self._saver.record(done, row, errors)

    def _tested(self, learner: Learner, shown: Progress | None) -> Mapping[str, float]:
        def between() -> None:
            if self._saver:
                self._saver.interrupt()
            if shown:
                shown.evaluating(learner.name)

        return errors_on_test(learner, self._test, self._plan, between) if self._test else {}


def errors_on_test(
    learner: Learner,
    test: Dataset,
    plan: TrainingPlan,
    between: Callable[[], None] = lambda: None,
) -> Mapping[str, float]:
    """The certified error at the full radius and the clean error.

    The bound is the one that was trained on: WK's over the ball alone, or intervals over the ball
    cut to the box. `between` is called before the first batch and then every `_TESTED_TOGETHER`
    images.
    """
    bounds = plan.options.bounds
    how: dict[str, Any] = {"box": None, "inner": bounds.inner}
    batch = _BATCH
    if plan.traits.bound == "interval":
        batch, how = _TESTED_TOGETHER, {"method": "interval"}
    certified, correct = [], []
    # The first batch, which is compiled, by itself: it says how long that takes. None is smaller
    # than a batch, for which another one would be compiled.
    count = len(test.labels)
    starts = [0, *range(batch, count - batch + 1, _TESTED_TOGETHER)]
    for first, last in itertools.pairwise([*starts, count]):
        between()
        part = Dataset(*(array[first:last] for array in test))
        with tf.device(learner.device):
            certificate = certify(
                learner.model, *part, eps=plan.eps, norm=bounds.norm, batch_size=batch, **how
            )
        certified.append(certificate.certified)
        correct.append(certificate.predicted == part.labels)
    return {
        plan.traits.test_error: float(1 - np.mean(np.concatenate(certified))),
        "test_clean_error": float(1 - np.mean(np.concatenate(correct))),
    }
