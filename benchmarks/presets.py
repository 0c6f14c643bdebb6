"""The paper's recipes, some steps of each: `python -m benchmarks.presets --steps=20`.

Every recipe runs in a process of its own, at the radius and the learning rate of its first epoch
and on its training images: what `train.main --preset=NAME` begins with. Rows come as they are done.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from typing import Any

from benchmarks import harness, subjects
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range
from train import presets
from train.config import resolve


@dataclasses.dataclass(frozen=True)
class Config:
    """Which recipes, and for how long."""

    preset: str | None = command.setting(
        "one recipe, in this process", None, choices=tuple(presets.PAPER), otherwise="all"
    )
    steps: int = command.setting("steps of f against a fixed g", 20, range=Range(2))
    batch: int | None = command.setting(
        "examples a step", None, range=Range(1), otherwise="the recipe's"
    )
    microbatch: int | None = command.setting(
        "examples worked on at a time", None, range=Range(1), otherwise="as many"
    )
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)


def measure(config: Config) -> dict[str, Any]:
    """Take the steps in this process.

    Returns:
      The recipe's projections and radius (in pixels); `first_step_s`, which compiles, and the
      median `ms_per_step` of the others; the peak memory of the process; `loss_first` and
      `loss_last`, means over the first and the last tenth of the steps, and whether all are finite.
    """
    import tensorflow as tf

    from robustra_tf import data
    from robustra_tf.batches import TrainingBatches
    from train.run import make_networks

    given = {"preset": config.preset, "batch_size": config.batch, "data_dir": _data(config)}
    run = resolve(given | {"microbatch": config.microbatch})
    images = data.load(run.dataset, "train", config.steps * run.batch_size, run.data_dir)
    batches = TrainingBatches(images, run.batch_size, run.seed, run.shift, run.mirror)
    step, eps = make_networks(run)[0].step, tf.constant(run.eps_start, tf.float32)
    losses, seconds = [], []
    for k, (x, y) in enumerate(batches.epoch(0)):
        start = time.perf_counter()
        losses.append(float(step(x, y, eps, tf.constant([run.seed, k]))["loss"]))
        seconds.append(time.perf_counter() - start)
    tenth = max(1, len(losses) // 10)
    return {
        "preset": config.preset,
        "projection": run.projection,
        "eps": run.eps_start,
        "batch": run.batch_size,
        "microbatch": run.microbatch,
        "steps": len(losses),
        "first_step_s": seconds[0],
        "ms_per_step": 1e3 * statistics.median(seconds[1:]),
        "peak_memory_mb": harness.peak_memory_mb(),
        "loss_first": statistics.fmean(losses[:tenth]),
        "loss_last": statistics.fmean(losses[-tenth:]),
        "finite": all(map(math.isfinite, losses)),
    }


def _data(config: Config) -> str | None:
    folder = subjects.shared_folder()
    if config.data_dir is None and folder is not None and (folder / "tfds").is_dir():
        return str(folder / "tfds")
    return config.data_dir


def main(config: Config) -> None:
    """Measure one recipe here, or each in a process of its own; a row of JSON each."""
    if config.preset is not None:
        print(json.dumps(measure(config)))
        return
    for name in presets.PAPER:
        flags = dataclasses.asdict(config) | {"preset": name}
        print(json.dumps(harness.fresh("benchmarks.presets", flags)), flush=True)


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.presets", __doc__))
