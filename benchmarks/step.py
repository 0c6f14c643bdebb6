"""Times the exact training step: `python -m benchmarks.step`.

Without `--method`, Robustra's step and WK's are measured one after the other, each in a process of
its own, so that memory and start-up are each one's.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from benchmarks import harness, options, subjects
from robustra_tf import settings


@dataclasses.dataclass(frozen=True)
class Config:
    """One measurement of the step; `eps` in pixels."""

    method: str | None = options.option(
        None, "robustra or wong; both, each in its own process, where absent", subjects.METHODS
    )
    model: str = options.option("mnist_small", "the network", tuple(settings.MODEL_INPUTS))
    inner: str = options.option("dual", "bounds of inner layers", ("dual", "interval"))
    weights: str = options.option(subjects.RANDOM, "random, published, or a .mat file")
    eps: float = options.option(0.01, "radius in pixels")
    batch: int = options.option(50, "examples a step")
    memory_mb: int | None = options.option(
        None, "working memory of a step's bounds; default: the step's own"
    )
    rounds: int = options.option(harness.ROUNDS, "steps timed, each between two peaks")
    data_dir: str | None = options.option(None, "TensorFlow Datasets' folder")

    def __post_init__(self):
        settings.radius("eps", self.eps, "linf", settings.MODEL_INPUTS[self.model])
        for name in ("batch", "rounds"):
            settings.within(name, getattr(self, name), 1)
        if self.memory_mb is not None:
            settings.within("memory_mb", self.memory_mb, 16)


def measure(config: Config) -> dict[str, Any]:
    """Time the step in this process, after one step that compiles it."""
    import tensorflow as tf

    step, flop = subjects.training_step(
        config.model, config.method, config.memory_mb, config.weights, inner=config.inner
    )
    found = subjects.images(config.model, config.batch, config.data_dir)
    x, y = map(tf.constant, subjects.batch(found, config.batch))
    eps = tf.constant(config.eps)
    measured: dict[str, float] = {}

    def work() -> None:
        metrics = step(x, y, eps)
        measured.update({name: float(value) for name, value in metrics.items()})

    work()
    startup, startup_cpu = harness.seconds_since_start(), time.process_time()
    (timing,) = harness.interleave([work], config.rounds)
    return {
        **dataclasses.asdict(config),
        "images": found.source,
        **timing.summary(config.batch, flop),
        "seconds_to_first_step": startup,
        "cpu_seconds_to_first_step": startup_cpu,
        "peak_memory_mb": harness.peak_memory_mb(),
        "traces": step.traces,
        "unstable": [measured[k] for k in sorted(measured) if k.startswith("unstable/")],
        "machine": harness.machine(),
    }


def main(config: Config) -> None:
    """Measure here, or both methods in processes of their own, and print."""
    if config.method is not None:
        harness.show(measure(config))
        return
    flags = dataclasses.asdict(config)
    harness.show(
        [harness.fresh("benchmarks.step", flags | {"method": m}) for m in subjects.METHODS]
    )


if __name__ == "__main__":
    main(options.parse(Config, __doc__))
