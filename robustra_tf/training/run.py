"""Runs: networks that are trained by a plan, against each other or alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from tqdm import tqdm

from robustra_tf.batches import TrainingBatches
from robustra_tf.data import Dataset, held_out
from robustra_tf.intake.examples import Labelled, labelled
from robustra_tf.storage.files import hold
from robustra_tf.training.averaging import Averaged
from robustra_tf.training.history import History, Row
from robustra_tf.training.means import NotFiniteError
from robustra_tf.training.mutual import Course, Learner, Pass, Snapshot, alternate
from robustra_tf.training.parallel import parallel
from robustra_tf.training.plan import TrainingPlan
from robustra_tf.training.progress import Progress
from robustra_tf.training.saving import Saver
from robustra_tf.training.step import TrainStep
from robustra_tf.training.testing import errors_of
from robustra_tf.training.watch import Position, Watches
from robustra_tf.training.workdir import Workdir


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
        made on the first of their devices where the plan names any.
      train: images [n, *shape] in pixels of [0, 1], and their labels [n]; or a `tf.data.Dataset` or
        `keras.utils.PyDataset` of both.
      plan: how they are trained.
      test: examples, as `train`, that both are certified on after each epoch, if any; None where
        the plan holds out examples of `train` for that.
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
      ValueError: devices for another number of networks, or shapes that differ.
    """
    names, built = list(models), list(models.values())
    places = plan.devices or ((),) * len(names)
    if len(places) != len(names):
        raise ValueError(f"devices must be those of {len(names)} networks, got {places}")
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
    devices: Sequence[str],
) -> Learner:
    snapshot, device = None, devices[0] if devices else None
    with tf.device(device):
        # In turn, each learns against the other as it is.
        if reference is not None and plan.schedule == "parallel":
            snapshot = Snapshot(keras.models.clone_model(reference), reference)
            reference = snapshot.copy
        optimizer, options = plan.make_optimizer(), plan.step_options
        step = TrainStep(model, reference, optimizer, plan.method, options=options, devices=devices)
        averaged = Averaged.of(model, optimizer) if plan.ema else None
    return Learner(name, model, optimizer, step, device, snapshot, averaged)


#: Training images that normalisations of averaged weights take their statistics of.
_SEEN = 2000


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
        judge: Callable[[Row], None] = lambda row: None,
    ):
        """Prepares.

        Args:
          learners: as `make_learners` gives them.
          train, plan, test: as `train_pair` takes them.
          saver: what keeps the run in a folder, of the same networks and plan; None for nowhere.
          judge: is called with every row once it is kept; what it raises ends the run.

        Raises:
          ValueError: test examples beside held-out ones, or fewer examples than are held out.
        """
        self.learners, self._plan, self._saver = learners, plan, saver
        self._judge, self._test = judge, test
        if plan.validation:
            if test is not None:
                raise ValueError(f"test must be None with validation {plan.validation}")
            if not plan.validation < (count := len(train.labels)):
                wanted = f"below the {count} examples"
                raise ValueError(f"validation must be {wanted}, got {plan.validation}")
            train, self._test = held_out(train, plan.validation)
        self._seen = train.images[:_SEEN]
        self.batches = TrainingBatches(
            train,
            plan.batch_size,
            plan.seed if plan.order_seed is None else plan.order_seed,
            plan.shift,
            plan.mirror,
            plan.seed if plan.augmentation_seed is None else plan.augmentation_seed,
        )
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
        for learner in self.learners:
            if learner.averaged:
                learner.averaged.refresh(self._seen)
                learner.averaged.settle()
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
                self._judge(self._history.of(result.epoch + 1, result.learner.name))

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

        if not self._test:
            return {}
        model = learner.model
        if learner.averaged:
            learner.averaged.refresh(self._seen)
            model = learner.averaged.copy
        with tf.device(learner.device):
            return errors_of(model, self._test, self._plan, between)
