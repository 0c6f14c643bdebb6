"""TensorBoard's scalars, one folder a network so that f and g are curves of one chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from robustra_tf.objective.problem import ESTIMATED
from train.mutual import Pass
from train.workdir import Workdir

# Metric of a step -> the chart it is drawn in.
TAGS = {
    "loss": "train/robust_loss",
    "robust_error": "train/robust_error",
    "wk_error": "train/robust_error_wk",
    "clean_error": "train/clean_error",
    "grad_norm": "train/gradient_norm",
    "t0": "reference/t0",
    "eta": "reference/eta",
    "infeasible": "tightness/infeasible",
    "tight": "tightness/tight",
    "loose": "tightness/loose",
    "test_lp_error": "test/lp_error",
    "test_interval_error": "test/interval_error",
    "test_clean_error": "test/clean_error",
}
TAGS |= {f"{name}_estimate": f"{TAGS[name]}_estimate" for name in ESTIMATED if name in TAGS}


class Summaries:
    """Writes the scalars of every pass, at the number of its epoch (from 1)."""

    def __init__(self, workdir: Workdir, names: Sequence[str]):
        self._writers = {
            name: tf.summary.create_file_writer(str(workdir.events(name))) for name in names
        }

    def write(self, done: Pass, tests: Mapping[str, float]) -> None:
        """Writes a pass: its metrics, schedules and speed, and the errors on test images."""
        scalars = {
            "schedule/epsilon": done.eps,
            "schedule/learning_rate": done.lr,
            "speed/examples_per_second": done.examples / done.seconds,
        }
        for name, value in (done.metrics | dict(tests)).items():
            # The per-layer metrics, unstable/0 and so on, are tags already.
            scalars[TAGS.get(name, name)] = value
        writer = self._writers[done.network.name]
        with writer.as_default():
            for tag, value in scalars.items():
                tf.summary.scalar(tag, value, step=done.epoch + 1)
        writer.flush()

    def close(self) -> None:
        """Ends the files."""
        for writer in self._writers.values():
            writer.close()
