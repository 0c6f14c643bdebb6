"""Times exact LP evaluation: `python -m benchmarks.lp`.

`robustra_tf.certify` in float32 with rows only for neurons that intervals leave undecided. Without
`--model`, each of the standing evaluations is run in a process of its own.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from benchmarks import harness, subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range

#: What is measured where no model is named, and each model's defaults: radius in pixels, images,
#: and images at a time.
STANDING = {
    "mnist_small": {"eps": 0.1, "limit": 10_000, "batch": 20},
    "cifar10_small": {"eps": 0.0078075, "limit": 1017, "batch": 20},
    "mnist_large": {"eps": 0.1, "limit": 8, "batch": 1},
}
OTHERS = {"eps": 0.01, "limit": 8, "batch": 1}
#: Images whose unstable neurons are counted, after the measurement.
COUNTED = 20


@dataclasses.dataclass(frozen=True)
class Config:
    """One evaluation; what is None becomes the model's default."""

    model: str | None = command.setting(
        "the network",
        None,
        choices=vocabulary.SIZED_MODELS,
        otherwise="several standing evaluations",
    )
    weights: str | None = command.setting(
        "random, published or a .mat file", None, otherwise="published where there are any"
    )
    eps: float | None = command.setting("radius in pixels", None, otherwise="the model's")
    limit: int | None = command.setting(
        "how many images", None, range=Range(1), otherwise="the model's"
    )
    batch: int | None = command.setting(
        "images at a time", None, range=Range(1), otherwise="the model's"
    )
    rows: str = command.setting(
        "which rows are computed", "auto", choices=("needed", "every", "auto")
    )
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)
        if self.model is None:
            return
        defaults = STANDING.get(self.model, OTHERS) | {"weights": subjects.weights_for(self.model)}
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        settings.radius("eps", self.eps, "linf", vocabulary.MODEL_INPUTS[self.model])


def measure(config: Config) -> dict[str, Any]:
    """Time the evaluation in this process, after one batch that compiles it."""
    from benchmarks import flops
    from robustra_tf.certificates.certificate import Certificate
    from robustra_tf.certificates.certify import certify
    from robustra_tf.graph.build import build

    graph = build(subjects.network(config.model, config.weights))
    found = subjects.images(config.model, config.limit, config.data_dir)
    count = len(found.images)
    size = min(config.batch, count)
    parts: list[Certificate] = []

    def evaluate(start: int) -> None:
        # A last, smaller batch is filled up: another size would be traced anew.
        index = np.arange(start, start + size) % count
        images, labels = found.images[index], found.labels[index]
        parts.append(
            certify(graph, images, labels, config.eps, box=None, batch_size=size, rows=config.rows)
        )

    evaluate(0)
    startup, startup_cpu = harness.seconds_since_start(), time.process_time()
    parts.clear()
    starts = iter(range(0, count, size))
    (timing,) = harness.interleave([lambda: evaluate(next(starts))], -(-count // size))
    memory = harness.peak_memory_mb()
    crossing = _unstable(graph, found.images[:COUNTED], config.eps, size)
    bound = flops.floor(graph.structure)
    needed = float(bound.with_rows(crossing))
    summary = timing.summary(size, bound.total)
    certified = np.concatenate([part.certified for part in parts])[:count]
    predicted = np.concatenate([part.predicted for part in parts])[:count]
    return {
        **dataclasses.asdict(config),
        "images": found.source,
        "count": count,
        **summary,
        "seconds": sum(timing.seconds),
        "gflop_per_example_unstable_rows": needed / 1e9,
        "ratio_unstable_rows": summary["ratio"] * bound.total / needed,
        "lp_error": float(1 - certified.mean()),
        "clean_error": float(np.mean(predicted != found.labels)),
        "unstable_per_layer": [float(c) for c in crossing],
        "neurons_per_layer": [layer.rows for layer in bound.layers[:-1]],
        "seconds_to_first_batch": startup,
        "cpu_seconds_to_first_batch": startup_cpu,
        "peak_memory_mb": memory,
        "machine": harness.machine(),
    }


def _unstable(graph, images: np.ndarray, eps: float, size: int) -> np.ndarray:
    """The mean number of unstable neurons of each ReLU, by WK's bounds."""
    import tensorflow as tf

    from robustra_tf.bounds.balls import ball
    from robustra_tf.bounds.enclosure import enclose
    from robustra_tf.bounds.options import BoundOptions
    from robustra_tf.bounds.relu import unstable

    @tf.function(autograph=False, reduce_retracing=True)
    def counts(x: tf.Tensor) -> tf.Tensor:
        bounds = enclose(graph.network(), ball(x, eps), BoundOptions("needed")).bounds
        crossing = [unstable(*bounds[k]) for k in graph.structure.relus]
        return tf.stack([tf.reduce_sum(tf.cast(c, tf.float32)) for c in crossing])

    parts = [
        counts(tf.constant(images[start : start + size])) for start in range(0, len(images), size)
    ]
    return np.sum(parts, axis=0) / len(images)


def main(config: Config) -> None:
    """Measure here, or the standing evaluations in processes of their own, and print."""
    if config.model is not None:
        harness.show(measure(config))
        return
    runs = [dataclasses.asdict(config) | {"model": model} for model in STANDING]
    harness.show([harness.fresh("benchmarks.lp", flags) for flags in runs])


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.lp", __doc__))
