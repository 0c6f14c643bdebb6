"""TensorBoard's scalars, one folder a network so that f and g are curves of one chart.

A run that goes on writes new files beside the old ones, which are first cut back to what they held
at its checkpoint: all files together hold every scalar of every epoch once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.storage.files import sync
from robustra_tf.training.mutual import Pass
from robustra_tf.training.workdir import Workdir

_NONE: Mapping[str, int] = MappingProxyType({})
_TRAINING = "on the training images of the epoch, augmented, while the weights change"
_TEST = "on test images, after the epoch, at the radius eps"
_HELD_OUT = "on training images that are held out, after the epoch, at the radius eps"
_TARGETS = "mean over the examples and their wrong classes"
_CONSTRAINT = "share of the reference's constraints at t = 0, one for each wrong class,"


class Chart(NamedTuple):
    """Where a number is drawn, and what it is. Groups are in the order of the alphabet."""

    tag: str
    text: str


#: Of the metrics of a pass and of the test images.
CHARTS = {
    "robust_error": Chart(
        "errors/train_robust", f"fraction of images without a certificate, {_TRAINING}"
    ),
    "wk_error": Chart(
        "errors/train_robust_wk",
        f"fraction of images that Wong and Kolter's bound alone does not certify, {_TRAINING}",
    ),
    "clean_error": Chart("errors/train_clean", f"fraction of images misclassified, {_TRAINING}"),
    "interval_error": Chart(
        "errors/train_interval",
        f"fraction of images that intervals do not certify, {_TRAINING}",
    ),
    "attack_error": Chart(
        "errors/train_attack", f"fraction of images misclassified under attack, {_TRAINING}"
    ),
    "test_lp_error": Chart(
        "errors/test_lp", f"fraction of images that the LP bound does not certify, {_TEST}"
    ),
    "test_interval_error": Chart(
        "errors/test_interval", f"fraction of images that intervals do not certify, {_TEST}"
    ),
    "test_clean_error": Chart("errors/test_clean", "fraction of test images misclassified"),
    "validation_lp_error": Chart(
        "errors/validation_lp",
        f"fraction of images that the LP bound does not certify, {_HELD_OUT}",
    ),
    "validation_interval_error": Chart(
        "errors/validation_interval",
        f"fraction of images that intervals do not certify, {_HELD_OUT}",
    ),
    "validation_clean_error": Chart(
        "errors/validation_clean", f"fraction of images misclassified, {_HELD_OUT}"
    ),
    "t0": Chart(
        "reference/t0",
        f"threshold t of the reference space, a difference of logits (Eqn 10); {_TARGETS}",
    ),
    "eta": Chart(
        "reference/eta",
        "slack variable, the weight of the reference's constraint in the bound (Eqn 8); 0 leaves "
        f"Wong and Kolter's bound; {_TARGETS}",
    ),
    "infeasible": Chart("tightness/infeasible", f"{_CONSTRAINT} that no point of the ball meets"),
    "tight": Chart("tightness/tight", f"{_CONSTRAINT} that cut the ball"),
    "loose": Chart("tightness/loose", f"{_CONSTRAINT} that exclude nothing that matters"),
    "excluded": Chart(
        "tightness/excluded",
        "share of the wrong classes that the reference excludes by itself at the threshold that is "
        "trained at, so that they cost nothing",
    ),
    "loss": Chart("training/loss", f"the loss that is minimised, mean, {_TRAINING}"),
    "grad_norm": Chart(
        "training/gradient_norm", "Euclidean norm of the gradient before clipping, mean over steps"
    ),
}
_EPSILON = Chart("schedule/epsilon", "radius of training in pixels of [0, 1], of the last step")
_RATE = Chart("schedule/learning_rate", "learning rate of the epoch")
_SPEED = Chart("speed/examples_per_second", "training examples a second, evaluation left out")
_ESTIMATE = "_estimate"


def chart(metric: str) -> Chart:
    """Where a metric is drawn; estimates by projections have charts of their own."""
    if (match := re.fullmatch(r"unstable(_estimate)?/(\d+)", metric)) is not None:
        text = (
            f"share of the neurons of hidden layer {match[2]}, from the image on, whose input has "
            f"no certain sign over the ball, {_TRAINING}"
        )
        return Chart(metric, text + ("; estimated by random projections" if match[1] else ""))
    if metric.endswith(_ESTIMATE):
        tag, text = CHARTS[metric.removesuffix(_ESTIMATE)]
        return Chart(tag + _ESTIMATE, f"{text}; estimated by random projections")
    return CHARTS[metric]


class Summaries:
    """Writes the scalars of every pass, at the number of its epoch (from 1)."""

    def __init__(self, workdir: Workdir, names: Sequence[str], sizes: Mapping[str, int] = _NONE):
        """Cuts the files that are there back to `sizes`, and begins new ones.

        Args:
          workdir: of the run.
          names: of the networks.
          sizes: bytes of each file, as `sizes()` gave them; others are deleted.

        Raises:
          OSError: a file cannot be cut or made.
        """
        self._folders = [workdir.events(name) for name in names]
        for path in self._files():
            kept = sizes.get(_key(path), 0)
            if not kept:
                path.unlink()
            elif kept < path.stat().st_size:
                os.truncate(path, kept)
        #: Of files that hold less than they did, a line each.
        self.lost = [
            f"events/{key}: expected at least {kept} bytes: its curves have gaps now"
            for key, kept in sizes.items()
            if not _has(workdir.events("") / key, kept)
        ]
        self._writers = {
            name: tf.summary.create_file_writer(str(workdir.events(name))) for name in names
        }

    def write(self, done: Pass, tests: Mapping[str, float]) -> None:
        """Writes a pass: its metrics, schedules and speed, and the errors on test images."""
        scalars = {
            _EPSILON: done.eps,
            _RATE: done.lr,
            _SPEED: done.examples / done.seconds,
        }
        scalars |= {chart(name): value for name, value in (done.metrics | dict(tests)).items()}
        writer = self._writers[done.learner.name]
        try:
            with writer.as_default():
                for (tag, text), value in scalars.items():
                    tf.summary.scalar(tag, value, step=done.epoch + 1, description=text)
            writer.flush()
        except tf.errors.OpError as error:
            problem = str(error).splitlines()[0]
            raise OSError(f"events of {done.learner.name}: cannot be written: {problem}") from error

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, once they are on disk."""
        for path in self._files():
            sync(path)
        return {_key(path): path.stat().st_size for path in self._files()}

    def close(self) -> None:
        """Ends the files."""
        for writer in self._writers.values():
            writer.close()

    def _files(self) -> list[Path]:
        return [path for folder in self._folders for path in sorted(folder.glob("events.out.*"))]


def _key(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size >= size
