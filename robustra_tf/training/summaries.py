"""TensorBoard's scalars, one folder a network so that f and g are curves of one chart.

A run that goes on writes new files beside the old ones, which are first cut back to what they held
at its checkpoint: all files together hold every scalar of every epoch once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import tensorflow as tf

from robustra_tf.files import sync
from robustra_tf.methods import CLAIMS
from robustra_tf.training.mutual import Pass
from robustra_tf.training.workdir import Workdir

_NONE: Mapping[str, int] = MappingProxyType({})
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
TAGS |= {f"{name}_estimate": f"{TAGS[name]}_estimate" for name in CLAIMS if name in TAGS}


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
            "schedule/epsilon": done.eps,
            "schedule/learning_rate": done.lr,
            "speed/examples_per_second": done.examples / done.seconds,
        }
        for name, value in (done.metrics | dict(tests)).items():
            # The per-layer metrics, unstable/0 and so on, are tags already.
            scalars[TAGS.get(name, name)] = value
        writer = self._writers[done.learner.name]
        try:
            with writer.as_default():
                for tag, value in scalars.items():
                    tf.summary.scalar(tag, value, step=done.epoch + 1)
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
